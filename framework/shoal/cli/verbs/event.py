"""``shoal event``: publish a CloudEvent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from shoal.cli import options, payload, terminal
from shoal.cli.session import Session, pass_session
from shoal.core.errors import EventError, UsageError
from shoal.runtime import event_codec
from shoal.runtime.events import CloudEvent


@click.command("event")
@click.argument("type_", metavar="TYPE")
@click.argument("data", metavar="[DATA|@FILE|-]", required=False)
@click.option(
    "--source", default="/shoal/cli", show_default=True, help="Where the event comes from, a URI reference."
)
@click.option("--id", "id_", default="", help="[default: a random UUID]")
@click.option("--subject", default="", help="What the event is about.")
@click.option("--content-type", default="", help="Media type of DATA.  [default: guessed]")
@click.option("--ext", metavar="NAME=VALUE", multiple=True, help="An extension attribute; may be repeated.")
@click.option("--broker", default="default", show_default=True, help="The broker's name.")
@options.common
@pass_session
def command(
    session: Session,
    type_: str,
    data: str | None,
    source: str,
    id_: str,
    subject: str,
    content_type: str,
    ext: tuple[str, ...],
    broker: str,
) -> None:
    """Publish a CloudEvent to a broker.

    DATA is sent as typed, @FILE sends a file's bytes, - sends stdin. Prints the event's id once the broker has it
    on disk, and says which functions it goes to.
    """
    value, media_type = _data(data, content_type)
    event = CloudEvent(
        type=type_,
        source=source,
        id=id_ or session.new_id(),
        subject=subject or None,
        time=datetime.fromtimestamp(session.clock.now(), UTC),
        datacontenttype=media_type,
        extensions=dict(options.pairs(ext, "an extension: NAME=VALUE")),
        data=value,
    )
    try:
        headers, body = event_codec.to_http(event)
    except EventError as error:
        raise UsageError(error.message, hint="shoal event --help") from None
    session.platform.publish(headers, body, broker=broker)
    takers = _takers(session, event, broker)
    if session.as_json:
        about = {"id": event.id, "source": event.source, "type": event.type, "broker": broker}
        terminal.out_json({**about, "functions": takers})
        return
    goes = f"goes to {', '.join(takers)}" if takers else "no function waits for this type"
    terminal.note(f"accepted by broker {broker!r}; {goes}")
    terminal.out(event.id)


def _takers(session: Session, event: CloudEvent, broker: str) -> list[str]:
    """Name the functions with a trigger whose filter the event passes, by the platform's own account."""
    has = {name: str(value) for name, value in event.attributes.items()}

    def passes(wanted: Mapping[str, str]) -> bool:
        return all(name in has and value in ("", has[name]) for name, value in wanted.items())

    return [
        function.name
        for function in session.platform.functions()
        if any(trigger.broker == broker and passes(trigger.filter) for trigger in function.triggers)
    ]


def _data(data: str | None, content_type: str) -> tuple[Any, str | None]:
    """Give the event's data as its media type wants it: a JSON value, text or bytes."""
    if data is None:
        return None, content_type or None
    body, guessed = payload.read(data)
    media_type = content_type or guessed
    if event_codec.is_json(media_type):
        try:
            return json.loads(body), media_type
        except ValueError as error:
            raise click.UsageError(f"DATA is not JSON: {error}") from None
    return (body.decode("utf-8", "replace") if media_type.startswith("text/") else body), media_type
