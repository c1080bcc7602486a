"""What to do after an answer of 400 or more: the next command, by status and by what the handlers take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from shoal.cli import show
from shoal.cli.session import Session
from shoal.cli.text import SHORT_ID_CHARS
from shoal.platform.port import HandlerInfo, Reply

_FIELD: Final = re.compile(r"(?:field|query parameter) (\S+?):? ")
_ID: Final = re.compile(r"[A-Za-z0-9-]+")


def after(reply: Reply, problem: Mapping[str, Any], session: Session) -> str:
    """Give the hint that fits an error answer of the function the session names."""
    if reply.status in (404, 405, 415):
        handlers = _handlers(session)
        if handlers and all(one.kind == "event" for one in handlers):
            kind = next((one.type for one in handlers if one.type), "TYPE")
            return f"{session.function} takes events: shoal event {kind} DATA"
        return _request_hint(reply, handlers, session)
    if reply.status == 422:
        return _data_hint(str(problem.get("detail", "")))
    return _logs(reply, problem, session)


def _request_hint(reply: Reply, handlers: tuple[HandlerInfo, ...], session: Session) -> str:
    allowed = reply.headers.get("allow", "")
    if reply.status == 405 and allowed:
        return f"{session.function} takes {allowed} here: -X {allowed.partition(',')[0]}"
    if reply.status == 415:
        return "say what DATA is: -H content-type:application/json, or another"
    takes = "; ".join(show.requests(one) for one in handlers if one.kind == "http")
    return f"{session.function} takes: {takes}" if takes else f"shoal status {session.function}"


def _data_hint(detail: str) -> str:
    """Name the field the detail names, for a body that is not what the handler declares."""
    found = _FIELD.match(detail)
    return f"correct {found[1]!r} in what you send" if found else "correct DATA; the error says what it must be"


def _logs(reply: Reply, problem: Mapping[str, Any], session: Session) -> str:
    command = f"shoal logs {session.function}"
    request = str(problem.get("request_id") or "")
    if "shoal-revision" in reply.headers and _ID.fullmatch(request):
        return f"{command} --request {request[:SHORT_ID_CHARS]}"
    return command


def _handlers(session: Session) -> tuple[HandlerInfo, ...]:
    with suppress(Exception):  # advice must not fail the report
        return session.platform.function(session.function).handlers
    return ()
