#!/bin/sh
# swell-secrets DIRECTORY: make what is missing of a deployment's secrets, once; what is there is left alone.
#   token            HTTP asks for it
#   redis_password   the server's
#   server.conf      the server's configuration that is secret, or follows from secrets
#   redis_url        SWELL_REDIS_FILE of the services
#   ca.crt           with SWELL_TLS=on: who signed the server's certificate, made here as an example
set -eu
cd "$1"
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
[ -s token ] || random > token
[ -s redis_password ] || random > redis_password
# What follows from the others is written anew: the settings may have changed.
rm -f server.conf redis_url cli_options
host=${SWELL_SERVER_HOST:-redis}
password=$(cat redis_password)
if [ "${SWELL_TLS:-off}" = on ]; then
  if [ ! -s server.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj "/CN=Swell example CA" \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
      -keyout ca.key -out ca.crt 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$host" -keyout server.key -out server.csr 2>/dev/null
    printf 'subjectAltName=DNS:%s,DNS:localhost\nextendedKeyUsage=serverAuth\n' "$host" > server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 397 -extfile server.ext -out server.crt 2>/dev/null
    rm -f ca.key server.csr server.ext ca.srl
  fi
  printf 'requirepass %s\nport 0\ntls-port 6379\ntls-auth-clients no\ntls-cert-file %s\ntls-key-file %s\n' \
    "$password" /run/swell/server.crt /run/swell/server.key > server.conf
  printf 'rediss://:%s@%s:6379/0?ssl_ca_certs=/run/swell/ca.crt' "$password" "$host" > redis_url
  echo '--tls --cacert /run/swell/ca.crt' > cli_options
else
  printf 'requirepass %s\n' "$password" > server.conf
  printf 'redis://:%s@%s:6379/0' "$password" "$host" > redis_url
  : > cli_options
fi
# The volume is seen by these containers alone, whose users differ.
chmod 0444 ./*
