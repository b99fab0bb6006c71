"""Errors as HTTP answers: RFC 9457 problem documents, `application/problem+json`.

    {"type": "urn:swell:unknown-agent", "title": "Unknown agent", "status": 404,
     "detail": "there is no agent reviewer/0007: it was never spawned", "agent": "reviewer/0007"}

`type` is `urn:swell:` and the name of the error class; `about:blank` (left out) for what HTTP itself says. Further
members are the fields of the error. Tracebacks and addresses of the server are not among them: those are in the log.
"""

from __future__ import annotations

import logging
import math
import re
from http import HTTPStatus
from typing import Any

import msgspec
from litestar.exceptions import HTTPException
from litestar.plugins.problem_details import ProblemDetailsConfig, ProblemDetailsException, ProblemDetailsPlugin

from swell import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: Error class -> status. The nearest class in an error's ancestry counts.
STATUS: dict[type[errors.SwellError], HTTPStatus] = {
    errors.ConfigError: HTTPStatus.BAD_REQUEST,
    errors.AppError: HTTPStatus.BAD_REQUEST,
    errors.WireError: HTTPStatus.BAD_REQUEST,
    errors.UnknownAgent: HTTPStatus.NOT_FOUND,
    errors.UnknownType: HTTPStatus.NOT_FOUND,
    errors.UnknownHandler: HTTPStatus.NOT_FOUND,
    errors.UnknownTask: HTTPStatus.NOT_FOUND,
    errors.AgentExists: HTTPStatus.CONFLICT,
    errors.PlanAborted: HTTPStatus.CONFLICT,
    errors.WrongBody: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.FactConflict: HTTPStatus.CONFLICT,
    errors.StaleFence: HTTPStatus.CONFLICT,
    errors.Busy: HTTPStatus.TOO_MANY_REQUESTS,
    errors.HandlerFailed: HTTPStatus.BAD_GATEWAY,
    errors.Expired: HTTPStatus.GATEWAY_TIMEOUT,
    errors.Cancelled: HTTPStatus.CONFLICT,
    errors.StartFailed: HTTPStatus.BAD_GATEWAY,
    errors.Poison: HTTPStatus.BAD_GATEWAY,
    errors.CallError: HTTPStatus.BAD_GATEWAY,
    errors.BrokerError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.LeaseLost: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SequenceGap: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CallTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    errors.SwellError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
#: Fields of errors that become members of the document, under the same name.
_FIELDS = (
    "agent",
    "key",
    "version",
    "shard",
    "depth",
    "retry_after_s",
    "plan",
    "reason",
    "ready",
    "failed",
    "setting",
    "timeout_s",
)
#: Keys of `CallError.detail` that do; `traceback` is left to the dead letter.
_DETAILS = ("handler", "field", "attempts")
#: How msgspec names the place of what does not fit in a body that is a list.
_PLACE = re.compile(r"at `\$(?:\.data)?(\[\d+\][^`]*)`$")
#: The wait advised while the server is away, seconds.
RETRY_AFTER_S = 1


class Problem(msgspec.Struct, omit_defaults=True):
    """The members that every problem document has."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"


def from_error(error: errors.SwellError) -> ProblemDetailsException:
    """The problem document of one of our errors."""
    status = next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
    members = {name: value for name in _FIELDS if (value := getattr(error, name, "")) != ""}
    if isinstance(error, errors.CallError):
        members |= {name: error.detail[name] for name in _DETAILS if name in error.detail}
    if isinstance(error, errors.CallTimeout):
        members |= {"agent": error.to, "handler": error.name}
    headers = None
    if isinstance(error, errors.Busy):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        if error.sent:
            members |= {"sent": error.sent, "unsent": error.unsent}
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ProblemDetailsException(
        detail=str(error),
        status_code=status,
        type_=f"urn:swell:{words.replace(' ', '-')}",
        title=words.capitalize(),
        extra=members,
        headers=headers,
    )


def from_http(error: HTTPException) -> ProblemDetailsException:
    """The problem document of what Litestar refuses; `errors` names each wrong field, its place and what is wrong."""
    members: dict[str, Any] = {}
    detail = error.detail
    wrong = [one for one in error.extra or [] if isinstance(one, dict)] if isinstance(error.extra, list) else []
    if wrong:
        members["errors"] = [
            {"field": one.get("key", ""), "in": one.get("source", "body"), "problem": one.get("message", "")}
            for one in wrong
        ]
        # Of a body that is a list Litestar names no place; the error that it was made of does.
        place = _PLACE.search(str(error.__cause__))
        if place is not None and len(wrong) == 1 and members["errors"][0]["field"] == "data":
            members["errors"][0]["field"] = place.group(1)
        detail = "; ".join(f"{one['field'] or one['in']}: {one['problem']}" for one in members["errors"])
    return ProblemDetailsException(
        detail=detail,
        status_code=error.status_code,
        title=HTTPStatus(error.status_code).phrase,
        extra=members,
        headers=error.headers,
    )


def from_defect(error: Exception) -> ProblemDetailsException:
    """The problem document of an error that is a defect of ours: it says nothing, the log says all."""
    log.error("a request failed through a defect", exc_info=error)
    return ProblemDetailsException(
        detail="the service failed on this request; its log has the reason",
        status_code=HTTPStatus.INTERNAL_SERVER_ERROR,
        title=HTTPStatus.INTERNAL_SERVER_ERROR.phrase,
    )


def from_nesting(error: RecursionError) -> ProblemDetailsException:
    """The problem document of a body nested deeper than the decoder goes; Litestar has no error of its own for it."""
    log.warning("a request's body could not be decoded: %s", error)
    return ProblemDetailsException(
        detail="the body is nested too deeply",
        status_code=HTTPStatus.BAD_REQUEST,
        title=HTTPStatus.BAD_REQUEST.phrase,
    )


def plugin() -> ProblemDetailsPlugin:
    """Makes a Litestar app answer every error with a problem document."""
    return ProblemDetailsPlugin(
        ProblemDetailsConfig(
            exception_to_problem_detail_map={
                HTTPException: from_http,
                errors.SwellError: from_error,
                RecursionError: from_nesting,
                Exception: from_defect,
            }
        )
    )
