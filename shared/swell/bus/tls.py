"""TLS to the server: what is verified is said here, not left to the defaults of libraries.

    rediss://HOST:PORT/0?ssl_ca_certs=ca.pem                      the server's certificate is of this authority
    ...&ssl_certfile=client.pem&ssl_keyfile=client.key            and we show one of our own

The server's certificate must be valid, of an authority in `ssl_ca_certs` or `ssl_ca_path` (without either, of one that
this machine trusts), and for the host's name. TLS 1.2 is the least. `ssl_cert_reqs=none` and `ssl_check_hostname=false`
give that up; `swell doctor` and a warning in the log say so as long as they stand.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swell.errors import ConfigError

#: Options that name a file or a directory.
_PATHS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_REQUIRED = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def client_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """How the server is verified, and what we show it.

    Args:
        options: those of the URL, as redis-py reads them.

    Raises:
        ConfigError: a file is missing, or is not what it should be.
    """
    for name in _PATHS:
        if options.get(name) and not Path(options[name]).exists():
            raise ConfigError("redis", f"{name}: there is no {options[name]}")
    try:
        # With an authority named, those of the machine do not count.
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        required = _REQUIRED[options.get("ssl_cert_reqs", "required")]
        context.check_hostname = required is ssl.CERT_REQUIRED and options.get("ssl_check_hostname") is not False
        context.verify_mode = required
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password", ""))
    except (ssl.SSLError, OSError) as error:
        files = ", ".join(str(options[name]) for name in _PATHS if options.get(name))
        raise ConfigError(
            "redis", f"TLS cannot be set up with {files or 'the trust of this machine'}: {error}"
        ) from None
    return context


def refusal(error: BaseException) -> str:
    """Why no TLS connection came about, in words; empty if TLS was not the reason.

    Args:
        error: what redis-py raised; the reason is among its causes.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {seen.verify_message}"
        if isinstance(seen, ssl.SSLError):
            return f"no TLS connection: {seen.reason or seen}"
        seen = seen.__cause__ or seen.__context__
    return ""
