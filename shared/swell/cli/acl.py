"""`swell doctor --acl` and `--load`: users of the server that can do what their service does, and nothing else."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from swell.bus.functions import LIBRARY
from swell.bus.link import Link
from swell.bus.loading import load_functions
from swell.bus.rights import SERVICES, rules
from swell.cli.show import as_json
from swell.cli.target import Resolved
from swell.config import Settings
from swell.errors import ConfigError

#: Random bytes of a generated password.
PASSWORD_BYTES = 32
USERS_FILE = "users.acl"


def user_name(namespace: str, service: str) -> str:
    """The name of a service's user on the server."""
    return f"swell-{namespace}-{service}"


def users(settings: Settings, hashes: dict[str, str]) -> list[str]:
    """One line for each user, as an ACL file has it and, behind `ACL SETUSER`, the command takes it.

    Args:
        settings: namespace and durability decide what is needed.
        hashes: service -> SHA-256 of its password in hexadecimal. For a service that is left out, the server refuses
            the line until someone puts the hash in.
    """
    lines = []
    for service in SERVICES:
        proof = hashes.get(service, f"SHA256-OF-THE-PASSWORD-OF-{service.upper()}")
        allowed = rules(service, settings.namespace, settings.durability)
        lines.append(f"{user_name(settings.namespace, service)} on resetpass #{proof} {allowed}")
    # Last: who types these in as the default user has no rights from here on.
    return [*lines, "default off resetpass resetkeys resetchannels -@all"]


def print_users(resolved: Resolved, generate: str, as_program: bool) -> int:
    """Print the users; with `generate`, write passwords and an ACL file into that directory first."""
    settings = resolved.settings
    lines = users(settings, write_secrets(settings, Path(generate)) if generate else {})
    if as_program:
        as_json({"users": lines, "directory": generate})
        return 0
    for line in lines:
        print(f"ACL SETUSER {line}")  # noqa: T201 - lines to be piped into redis-cli, unwrapped
    return 0


def write_secrets(settings: Settings, directory: Path) -> dict[str, str]:
    """Make a password for each user; nobody but the directory's owner can read what is written.

        users.acl      all users with the hashes of their passwords: the server's `aclfile`
        <service>.url  the URL with user and password, for SWELL_REDIS_FILE

    Returns:
        service -> SHA-256 of its password.

    Raises:
        ConfigError: the directory cannot be written, or has such files already: they may be in use.
    """
    passwords = {service: secrets.token_urlsafe(PASSWORD_BYTES) for service in SERVICES}
    hashes = {service: hashlib.sha256(password.encode()).hexdigest() for service, password in passwords.items()}
    files = {f"{service}.url": _with_user(settings, service, password) for service, password in passwords.items()}
    files[USERS_FILE] = "".join(f"user {line}\n" for line in users(settings, hashes))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in files:
            if (directory / name).exists():
                raise ConfigError("generate", f"{directory / name} exists already; name another directory")
        for name, text in files.items():
            with open(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError("generate", f"cannot write {directory}: {error.strerror}") from None
    return hashes


def _with_user(settings: Settings, service: str, password: str) -> str:
    """The settings' URL with a user and a password."""
    parts = urlsplit(settings.redis)
    place = parts.netloc.rpartition("@")[2]
    name = quote(user_name(settings.namespace, service), safe="")
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{place}")) + "\n"


async def load(resolved: Resolved, as_program: bool) -> int:
    """Load the functions, as a user who may.

    Raises:
        BrokerError: the server does not answer, or refuses.
    """
    link = Link(resolved.settings.redis, "swell:doctor")
    try:
        loaded = await load_functions(link)
    finally:
        await link.close()
    if as_program:
        as_json({"library": LIBRARY, "loaded": loaded})
    else:
        print(f"{LIBRARY} " + ("is loaded now" if loaded else "was loaded already, in this release"))  # noqa: T201
    return 0
