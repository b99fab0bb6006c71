"""`swell doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli import acl as acls
from swell.cli.checks import Check, examine
from swell.cli.show import as_json, clean, console
from swell.cli.target import Target, advised, resolve
from swell.config import Settings, mask_url, unsafe
from swell.errors import BrokerError, ConfigError

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red"), "skip": ("skip", "dim")}


async def doctor(
    *,
    acl: Annotated[bool, Parameter(negative="")] = False,
    generate: str = "",
    load: Annotated[bool, Parameter(negative="")] = False,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Check the server and the services, and say what to do about what is wrong; exit code 1 if a check fails.

    Args:
        acl: Print instead, as ACL SETUSER lines, a user of the server for each service, with the rights it needs.
        generate: With --acl, make passwords and write them and an ACL file into this new directory.
        load: Load the functions into the server instead; services then need no right to do so.
        target: The server and the namespace.
    """
    resolved = resolve(target)
    if generate and not acl:
        raise ConfigError("generate", "goes with --acl")
    if acl:
        return acls.print_users(resolved, generate, target.json)
    if load:
        try:
            return await acls.load(resolved, target.json)
        except BrokerError as error:
            raise advised(error, resolved.source) from error
    settings = resolved.settings
    checks = [*await examine(settings), _transport(settings)]
    failed = any(check.status == "fail" for check in checks)
    # `masked` hides only a password: without one this is the very URL that clients use.
    shown: dict[str, Any] = settings.masked()
    if target.json:
        as_json(
            {
                "ok": not failed,
                "redis": shown["redis"],
                "namespace": settings.namespace,
                "source": resolved.source,
                "settings": shown,
                "up": None if resolved.up is None else {"pid": resolved.up.pid, "http": resolved.up.http},
                "checks": checks,
            }
        )
    else:
        _print(
            f"server {mask_url(settings.redis)} (from {resolved.source}), namespace {settings.namespace}", shown, checks
        )
    return FAILED if failed else 0


def _transport(settings: Settings) -> Check:
    """Who can read what goes to the server, or pass for it."""
    if weakness := unsafe(settings.redis):
        return Check("transport", "warn", weakness, "use rediss:// and verify the server, see docs/security.md")
    return Check("transport", "ok", "TLS, verified" if settings.redis.startswith("rediss:") else "on this machine")


def _print(title: str, settings: dict[str, Any], checks: list[Check]) -> None:
    from rich.text import Text

    out = console()
    out.print(title)
    for check in checks:
        mark, style = _MARKS[check.status]
        out.print(Text.assemble((mark, style), f"  {check.name}: {clean(check.found)}"), soft_wrap=True)
        if check.advice:
            out.print(f"      {check.advice}", soft_wrap=True)
    out.print("settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()), soft_wrap=True)
