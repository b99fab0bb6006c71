"""Settings: read once at the start, from flags, then `SWELL_*` variables, then a TOML file, then the defaults.

A secret may be given as a file: `SWELL_TOKEN_FILE=/run/secrets/token` reads the token from there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from swell.alerts import thresholds
from swell.errors import ConfigError
from swell.keys import check_namespace

PREFIX = "SWELL_"
SECRETS = frozenset({"token", "redis", "alert_webhook", "alert_secret"})
DURABILITY = re.compile(r"local|fsync|replicas:[1-9]")
#: Options of the server's URL; those of TLS are read by `swell.bus.tls`.
TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All settings of all services. Names are those of the flags and, with `SWELL_` before them, of the variables.

    Attributes:
        redis: URL of the server: redis://, rediss:// (TLS) or unix://.
        namespace: the tenant's prefix; nothing crosses it.
        shards: number of shards of a new namespace, 1..1024; fixed once it exists.
        app: what agents are run, `module:attribute`.
        durability: when a message counts as sent: `local` (the server has it), `fsync` (it is on the server's disk),
            `replicas:N` (so many replicas have it).
        lease_ms: how long a shard stays owned without a sign of life, 500..60000.
        max_deliveries: processes that may die holding an entry; from then on its messages are handled one at a time, to
            find the one that kills.
        max_depth: unsettled messages a shard may hold before senders must wait.
        mailbox: messages waiting in a worker for one agent; further ones stay in the stream.
        buffer: messages waiting in a worker for all agents that keep up, before it stops reading.
        drain_s: how long a stopping service may take to finish what runs, seconds.
        host: address that HTTP listens on.
        port: port that HTTP listens on; 0 takes a free one, and None the service's own default.
        token: bearer token that HTTP asks for; required if `host` is not this machine alone.
        http_rate: requests a second that one address may make of HTTP, 1..1000000.
        alerts: thresholds of alerts, `name=value` with commas between; `name=off` turns a rule off. See docs/alerts.md.
        alert_webhook: URL that is told of alerts; http:// or https://.
        alert_secret: sent to it as bearer token.
        log_level: debug, info, warning or error.
        log_format: auto (JSON off a terminal), json or console.
        data_dir: where `swell up` keeps the embedded server's data.
    """

    redis: str = "redis://127.0.0.1:6379/0"
    namespace: str = "default"
    shards: int = 8
    app: str = "swell.echo:app"
    durability: str = "local"
    lease_ms: int = 5000
    max_deliveries: int = 3
    max_depth: int = 65_536
    mailbox: int = 1024
    buffer: int = 1024
    drain_s: float = 10.0
    host: str = "127.0.0.1"
    port: int | None = None
    token: str = ""
    http_rate: int = 1000
    alerts: str = ""
    alert_webhook: str = ""
    alert_secret: str = ""
    log_level: str = "info"
    log_format: str = "auto"
    data_dir: str = ""

    def __post_init__(self) -> None:
        """Check each setting alone and those that belong together."""
        check_namespace(self.namespace)
        check_redis_url(self.redis)
        bounds: tuple[tuple[str, float, float], ...] = (
            ("shards", 1, 1024),
            ("lease_ms", 500, 60_000),
            ("max_deliveries", 1, 1000),
            ("max_depth", 256, 100_000_000),
            ("mailbox", 1, 1_000_000),
            ("buffer", 256, 10_000_000),
            ("drain_s", 0, 3600),
            ("http_rate", 1, 1_000_000),
        )
        for name, least, most in bounds:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(name, f"{value} is not between {least:g} and {most:g}")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError("port", f"{self.port} is not between 0 and 65535")
        if ":" not in self.app:
            raise ConfigError("app", f"{self.app!r} must be 'module:attribute', for example 'swell.echo:app'")
        if not DURABILITY.fullmatch(self.durability):
            raise ConfigError("durability", f"{self.durability!r} must be local, fsync or replicas:N (N from 1 to 9)")
        thresholds(self.alerts)
        if self.alert_webhook and not re.match(r"https?://[^/\s]", self.alert_webhook):
            shown = mask_webhook(self.alert_webhook)
            raise ConfigError("alert_webhook", f"{shown!r} must begin with http:// or https:// and name a host")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ConfigError("log_level", f"{self.log_level!r} must be debug, info, warning or error")
        if self.log_format not in ("auto", "json", "console"):
            raise ConfigError("log_format", f"{self.log_format!r} must be auto, json or console")
        if self.host not in LOOPBACK and not self.token:
            raise ConfigError(
                "token",
                f"host {self.host} can be reached by others, so a token is required: "
                "set SWELL_TOKEN or SWELL_TOKEN_FILE, or listen on 127.0.0.1",
            )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.masked().items())})"

    def masked(self) -> dict[str, Any]:
        """All settings, with what is secret in them replaced."""
        shown = dataclasses.asdict(self)
        shown["redis"] = mask_url(self.redis)
        shown["token"] = "***" if self.token else ""
        shown["alert_webhook"] = mask_webhook(self.alert_webhook)
        shown["alert_secret"] = "***" if self.alert_secret else ""
        return shown

    def environ(self) -> dict[str, str]:
        """These settings as variables, for a process that shall have the same."""
        return {
            PREFIX + name.upper(): str(value) for name, value in dataclasses.asdict(self).items() if value is not None
        }


def check_redis_url(url: str) -> str:
    """Return `url` if it names a server.

    Raises:
        ConfigError: the scheme is not redis, rediss or unix, there is no host, or an option is none that we know.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError("redis", f"{mask_url(url)!r} is not a URL: {error}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            "redis",
            f"{mask_url(url)!r} must begin with redis://, rediss:// or unix://, for example redis://127.0.0.1:6379/0",
        )
    _check_options(url, parts.scheme, parts.query)
    if parts.scheme != "unix":
        if not parts.hostname:
            raise ConfigError("redis", f"{mask_url(url)!r} names no host, for example redis://127.0.0.1:6379/0")
        port = _port(url)
        database = parts.path.strip("/")
        if database and not database.isdigit():
            raise ConfigError("redis", f"{mask_url(url)!r}: the path must be a database number, not {database!r}")
        if port == 0:
            raise ConfigError("redis", f"{mask_url(url)!r}: port 0 cannot be connected to")
    return url


def _check_options(url: str, scheme: str, query: str) -> None:
    """Check what stands behind the `?` of a server's URL.

    Raises:
        ConfigError: one is unknown, or promises TLS where there is none.
    """
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("username", "password"):
            raise ConfigError(
                "redis", f"{mask_url(url)!r}: user and password stand before the host, USER:PASSWORD@HOST"
            )
        if name != "db" and name not in TLS_OPTIONS:
            known = ", ".join(("db", *TLS_OPTIONS))
            raise ConfigError("redis", f"{mask_url(url)!r}: there is no option {name!r}, only {known}")
        if name in TLS_OPTIONS and scheme != "rediss":
            raise ConfigError("redis", f"{mask_url(url)!r}: {name} needs rediss://, {scheme}:// is not TLS")
        if name == "ssl_cert_reqs" and value not in ("required", "optional", "none"):
            raise ConfigError("redis", f"{mask_url(url)!r}: ssl_cert_reqs is required, optional or none, not {value!r}")
        if name == "db" and not value.isdigit():
            raise ConfigError("redis", f"{mask_url(url)!r}: db must be a database number, not {value!r}")


def unsafe(url: str) -> str:
    """What of the way to the server can be read or imitated by others, for people; empty if nothing can."""
    parts = urlsplit(url)
    if parts.scheme == "rediss":
        options = dict(parse_qsl(parts.query))
        if options.get("ssl_cert_reqs", "required") != "required":
            return f"ssl_cert_reqs={options['ssl_cert_reqs']}: the server's certificate is not verified"
        if options.get("ssl_check_hostname", "").upper() in ("0", "F", "FALSE", "N", "NO"):
            return "ssl_check_hostname is off: a certificate for any other name would do"
        return ""
    if parts.scheme == "unix" or (parts.hostname or "").lower() in LOOPBACK:
        return ""
    return "redis:// is not encrypted, and the server is not this machine"


def _port(url: str) -> int | None:
    """The port of a URL, None if it names none.

    Raises:
        ConfigError: it is no number, or too large for a port.
    """
    try:
        return urlsplit(url).port
    except ValueError:
        where = f"{mask_url(url)!r}: the port"
        raise ConfigError("redis", f"{where} must be a number from 1 to 65535, for example 6379") from None


def mask_url(url: str) -> str:
    """A URL without its passwords, that of a key file among them."""
    url = re.sub(r"(?<=password=)[^&#]+", "***", url, flags=re.I)
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
    except ValueError:
        return url.rpartition("@")[2]


def mask_webhook(url: str) -> str:
    """A webhook's scheme and host: what is behind them is often the secret."""
    found = re.match(r"(https?://)(?:[^/@\s]*@)?([^/?#\s]+)(.*)", url, re.S)
    if found is None:
        return "***" if url else ""
    return found[1] + found[2] + ("/***" if found[3] not in ("", "/") else "")


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        flags: what the command line gave; None values count as not given.
        environ: the variables; this process's own by default.

    Raises:
        ConfigError: a setting is unknown (in the file), malformed or out of its bounds; the text names it.
    """
    environ = os.environ if environ is None else environ
    known = {f.name for f in dataclasses.fields(Settings)}
    values: dict[str, Any] = _read_file(environ.get(PREFIX + "CONFIG", ""), known)
    for name in known:
        variable = PREFIX + name.upper()
        if variable in environ and (environ[variable] != "" or name in (*SECRETS - {"redis"}, "data_dir", "alerts")):
            values[name] = environ[variable]
        elif name in SECRETS and (path := environ.get(variable + "_FILE")):
            values[name] = _read_secret(variable + "_FILE", path)
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    types = {f.name: f.type for f in dataclasses.fields(Settings)}
    for name, value in values.items():
        try:
            values[name] = msgspec.convert(value, _TYPES[str(types[name])], strict=False)
        except msgspec.ValidationError:
            raise ConfigError(name, f"{value!r} must be {_IN_WORDS[str(types[name])]}") from None
    return Settings(**values)


_TYPES: dict[str, Any] = {"str": str, "int": int, "float": float, "int | None": int | None}
_IN_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "int | None": "a whole number"}


def _read_file(path: str, known: set[str]) -> dict[str, Any]:
    if not path:
        return {}
    try:
        values = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError("SWELL_CONFIG", f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("SWELL_CONFIG", f"{path} is not TOML: {error}") from None
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ConfigError("SWELL_CONFIG", f"{path} has unknown settings: {', '.join(unknown)}")
    return values


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(variable, f"cannot read {path}: {error.strerror}") from None
