"""``shoal invoke``: call a function."""

from __future__ import annotations

import base64
import json
from typing import Any

import click

from shoal.cli import advice, exits, options, payload, terminal
from shoal.cli.session import Session, pass_session
from shoal.cli.text import duration, one_line
from shoal.core.errors import NotFoundError
from shoal.core.limits import TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX
from shoal.platform.port import Reply


@click.command("invoke")
@options.function_name
@click.argument("data", metavar="[DATA|@FILE|-]", required=False)
@click.option("--tag", metavar="TAG", default="", help="Call the revision that has this tag.")
@click.option("-X", "--method", metavar="METHOD", default="", help="[default: POST with DATA, else GET]")
@click.option("--path", metavar="PATH", default="/", show_default=True, help="Path and query.")
@click.option("-H", "--header", "headers", metavar="NAME:VALUE", multiple=True, help="May be repeated.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.001, TIMEOUT_SECONDS_MAX),
    default=TIMEOUT_SECONDS_DEFAULT,
    metavar="SECONDS",
    help="How long to wait for the answer.  [default: 60]",
)
@options.common
@pass_session
def command(
    session: Session,
    name: str,
    data: str | None,
    tag: str,
    method: str,
    path: str,
    headers: tuple[str, ...],
    timeout: float,
) -> int:
    """Call a function and print what it answers.

    DATA is sent as typed, @FILE sends a file's bytes, - sends stdin. The media type is guessed; -H content-type:…
    overrides. The body goes to stdout as it came, status and timing to stderr; the exit code is 1 for a status
    of 400 or more.
    """
    body, media_type = payload.read(data) if data is not None else (b"", "")
    sent = {"content-type": media_type} if media_type else {}
    sent |= _headers(headers)
    verb = method.upper() or ("GET" if data is None else "POST")
    reply = session.platform.invoke(
        name, tag=tag, method=verb, path=_path(path), headers=sent, body=body, timeout_s=timeout
    )
    _check_reached(reply, name, tag)
    if session.as_json:
        terminal.out_json(_as_json(reply))
    else:
        terminal.raw(reply.body)
        _tell(reply, session)
    return exits.OK if reply.status < 400 else exits.FAILED


def _check_reached(reply: Reply, name: str, tag: str) -> None:
    """Tell a 404 of the front door from one of the function: only a function's answer names its revision."""
    if reply.status == 404 and "shoal-revision" not in reply.headers:
        asked = f"{name!r} with the tag {tag!r}" if tag else f"{name!r}"
        raise NotFoundError(str(_problem(reply).get("detail") or f"there is no function {asked}"))


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for header in given:
        name, sign, value = header.partition(":")
        if not sign or not name.strip() or not header.isprintable():
            raise click.UsageError(f"{header!r} is not a header: NAME:VALUE")
        found[name.strip().lower()] = value.strip()
    return found


def _path(path: str) -> str:
    if not path.isascii() or not path.isprintable() or " " in path:
        raise click.UsageError(f"{path!r} is not a path: percent-encode what is not plain ASCII")
    return path if path.startswith("/") else f"/{path}"


def _tell(reply: Reply, session: Session) -> None:
    facts = [str(reply.status), reply.headers.get("shoal-revision", ""), reply.headers.get("shoal-models", "")]
    line = "  ".join([*filter(None, facts), duration(reply.seconds)])
    terminal.note(terminal.faint(line) if reply.status < 400 else terminal.bad(line))
    if reply.status >= 400:
        _tell_problem(reply, session)


def _tell_problem(reply: Reply, session: Session) -> None:
    """Say what went wrong when the answer says so itself (problem+json)."""
    problem = _problem(reply)
    if problem.get("detail") or problem.get("title"):
        component = str(problem.get("component") or "")
        said = one_line(str(problem.get("detail") or problem.get("title")))
        part = f"{component}: " if component and not said.startswith(f"{component} ") else ""
        terminal.note(f"{terminal.bad('error:')} {part}{said}")
        hint = problem.get("hint") or advice.after(reply, problem, session)
        terminal.note(f"{terminal.strong('hint:')} {hint}")


def _problem(reply: Reply) -> dict[str, Any]:
    if not reply.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        found = json.loads(reply.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _as_json(reply: Reply) -> dict[str, Any]:
    """Give status, headers, seconds, and the body: as JSON where it is, as text, else in base64."""
    about = {"status": reply.status, "headers": dict(reply.headers), "seconds": round(reply.seconds, 6)}
    try:
        text = reply.body.decode("utf-8")
    except UnicodeDecodeError:
        return about | {"body_base64": base64.b64encode(reply.body).decode()}
    if "json" in reply.headers.get("content-type", ""):
        try:
            return about | {"body": json.loads(text)}
        except ValueError:
            pass
    return about | {"body": text}
