"""The broker of the local platform: takes CloudEvents, keeps them, and delivers them through the gateway.

``python -m shoal.platform.local.broker --fd N --home DIR`` serves the listening socket ``N`` it inherits and takes
its triggers over ``run/broker.sock``. 202 means that the event is on disk; from then on it is delivered at least
once per matching trigger, also over ``kill -9``. An event published twice is kept twice: its source and id tell a
handler so. Events that come before the first triggers are known are kept and matched when they are.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import uvloop
from aiohttp import hdrs, web

from shoal.core import lifeline, limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import MediaTypeError, MethodError, NotFoundError, RequestError, ShoalError, UsageError
from shoal.platform.local import ingest, problems, routing, serving
from shoal.platform.local.delivery import Answer, Trigger, parse_triggers
from shoal.platform.local.dispatcher import Dispatcher
from shoal.platform.local.events_store import Due, EventStore, NewEvent
from shoal.platform.local.eventwriter import EventWriter
from shoal.platform.local.layout import Home, home_of

DEFAULT_BROKER: Final = "default"
DATABASE: Final = "broker.db"
_BODY_SECONDS_MAX: Final = 30.0
_BROKER_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_ANSWER_BYTES_MAX: Final = 2 * limits.EVENT_BYTES_MAX  # an event in base64, with its attributes


class Ingress:
    """Takes events from outside."""

    def __init__(self, writer: EventWriter, dispatcher: Dispatcher, clock: Clock) -> None:
        self._writer = writer
        self._dispatcher = dispatcher
        self._clock = clock

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request: 202 once its events are on disk, else a problem."""
        try:
            await self._take(request)
        except ShoalError as error:
            if error.status >= 500:
                serving.log("error", error.message, component="platform")
            unread = request.body_exists and not request.content.is_eof()
            return problems.response(error, "platform", close=unread)
        return web.Response(status=202, headers={hdrs.SERVER: problems.SERVER_NAME})

    async def _take(self, request: web.BaseRequest) -> None:
        serving.check_headers(request)
        broker = self._broker(request)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise MediaTypeError("a compressed event is not taken: send it as it is")
        headers = [(name.lower(), value) for name, value in request.raw_headers]
        body = await serving.read_body(request, ingest.bytes_max(headers), _BODY_SECONDS_MAX)
        events = ingest.read_events(headers, body, broker)
        # A publisher that hangs up cancels this call, but not a commit: who waits for the event has to hear of it.
        await asyncio.shield(self._keep(broker, events))

    async def _keep(self, broker: str, events: list[NewEvent]) -> None:
        known = None if self._dispatcher.triggers is None else list(self._dispatcher.triggers.values())
        concerned = await self._writer.write(lambda store: store.admit(events, known, self._clock.now()))
        self._dispatcher.wake(concerned)
        for event in events:
            named = {name: event.attributes[name] for name in ("id", "source", "type")}
            serving.log("info", "event accepted", broker=broker, **named)

    def _broker(self, request: web.BaseRequest) -> str:
        """Give the broker a request names; a page of another site cannot reach it under that site's name."""
        host, _ = routing.split_host(serving.single_host(request))
        if host not in routing.OWN_HOSTS and not host.endswith(routing.DOMAIN):
            raise RequestError(f"the broker does not answer to the host {host!r}", hint="use http://localhost")
        name = request.path.strip("/") or DEFAULT_BROKER
        self._check(name)
        if request.method != "POST":
            raise MethodError(f"{request.method[:20]} is not served: events come by POST", allowed=("POST",))
        return name

    def _check(self, name: str) -> None:
        triggers = self._dispatcher.triggers
        known = {DEFAULT_BROKER} | {trigger.broker for trigger in (triggers or {}).values()}
        if name in known or (triggers is None and _BROKER_NAME.fullmatch(name)):
            return
        raise NotFoundError(f"no broker is called {name[:63]!r}; there are {', '.join(sorted(known))}")


class Courier:
    """Takes deliveries to functions through the gateway."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.gateway = ""  # "http://127.0.0.1:8080"
        self._session = session

    async def send(self, trigger: Trigger, delivery: Due) -> Answer:
        """Make one attempt."""
        headers = {
            **delivery.headers,
            "Host": f"{trigger.function}{routing.DOMAIN}",
            "Prefer": "reply",
            "shoal-timeout-ms": str(int(trigger.timeout_s * 1000)),
        }
        if "ce-traceparent" in headers:  # the extension for distributed tracing, as HTTP has it
            headers["traceparent"] = headers["ce-traceparent"]
        try:
            async with asyncio.timeout(trigger.timeout_s):
                return await self._exchange(headers, delivery.body)
        except TimeoutError:
            return Answer(None, error=f"no answer within {trigger.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(
                None, error=f"no answer: {type(error).__name__}: {error}"[: limits.BROKER_REASON_CHARS_MAX]
            )

    async def _exchange(self, headers: dict[str, str], body: bytes) -> Answer:
        async with self._session.post(
            f"{self.gateway}/", headers=headers, data=body, allow_redirects=False
        ) as answer:
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > _ANSWER_BYTES_MAX:
                    return Answer(None, error=f"answered {answer.status} with more than {_ANSWER_BYTES_MAX} bytes")
            raw = [(name.lower(), value) for name, value in answer.raw_headers]
            return Answer(answer.status, raw, bytes(content))


class Control:
    """What the node may ask on broker.sock."""

    def __init__(self, writer: EventWriter, dispatcher: Dispatcher, courier: Courier, clock: Clock) -> None:
        self._writer = writer
        self._dispatcher = dispatcher
        self._courier = courier
        self._clock = clock
        self._generation = -1
        self._turn = asyncio.Lock()

    def application(self) -> web.Application:
        """Make the application."""
        app = web.Application(client_max_size=limits.CONTROL_BODY_BYTES_MAX)
        app.add_routes(
            [
                web.put("/triggers", _answering(self.put_triggers)),
                web.get("/triggers", _answering(self.triggers)),
                web.get("/stats", _answering(self.stats)),
                web.get("/dead", _answering(self.dead)),
                web.post("/dead/{id:[0-9]{1,18}}/redrive", _answering(self.redrive)),
            ]
        )
        return app

    async def put_triggers(self, request: web.Request) -> Any:
        """Replace the triggers and say where the gateway is; an older generation changes nothing."""
        document = await _json(request)
        try:
            generation, gateway, listed = (
                int(document["generation"]),
                str(document["gateway"]),
                document["triggers"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"triggers come with generation, gateway and triggers: {error!r}") from error
        triggers = parse_triggers(listed)
        async with self._turn:
            if generation >= self._generation:
                self._generation = generation
                self._courier.gateway = gateway.rstrip("/")
                await self._dispatcher.set_triggers(triggers)
        return {"generation": self._generation}

    async def triggers(self, _: web.Request) -> Any:
        """List the triggers in effect."""
        known = self._dispatcher.triggers or {}
        return {"generation": self._generation, "triggers": [asdict(trigger) for trigger in known.values()]}

    async def stats(self, _: web.Request) -> Any:
        """Count events and deliveries."""
        return await self._writer.read(lambda store: store.stats())

    async def dead(self, _: web.Request) -> Any:
        """List the newest dead letters."""
        return {"dead": await self._writer.read(lambda store: store.dead(limits.BROKER_LISTED_MAX))}

    async def redrive(self, request: web.Request) -> Any:
        """Deliver a dead letter again."""
        identity = int(request.match_info["id"])
        known = self._dispatcher.triggers or {}
        trigger = await self._writer.write(lambda store: store.redrive(identity, known.keys(), self._clock.now()))
        self._dispatcher.wake([trigger])
        return {"id": identity, "trigger": trigger}


def _answering(make: Callable[[web.Request], Awaitable[Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        try:
            return web.json_response(await make(request))
        except ShoalError as error:
            return problems.response(error)

    return handler


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from error


async def prune_for_ever(writer: EventWriter, clock: Clock, every_s: float = limits.BROKER_PRUNE_SECONDS) -> None:
    """Apply the retention rules now and then."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await _prune(writer, clock)
        except ShoalError as error:
            serving.log("error", error.message, component="platform")


async def _prune(writer: EventWriter, clock: Clock) -> None:
    while await writer.write(lambda store: store.prune(clock.now())) >= limits.BROKER_PRUNE_ROWS_MAX:
        pass


async def serve(fd: int, home: Home, bytes_max: int) -> None:
    """Run the broker until SIGTERM."""
    clock = SystemClock()
    writer = EventWriter(lambda: EventStore(home.root / DATABASE, bytes_max=bytes_max))
    await writer.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(writer.stop)
        courier = Courier(await stack.enter_async_context(_session()))
        dispatcher = Dispatcher(writer, courier.send, clock, Random(), serving.log)  # noqa: S311 - jitter
        stack.push_async_callback(dispatcher.stop, limits.BROKER_DRAIN_SECONDS_MAX)
        pruning = asyncio.create_task(prune_for_ever(writer, clock))
        stack.callback(pruning.cancel)
        control = Control(writer, dispatcher, courier, clock).application()
        runner = await serving.serve_control(control, home.socket("broker"))
        stack.push_async_callback(runner.cleanup)
        server = serving.Server(Ingress(writer, dispatcher, clock).handle, limits.BROKER_CONNECTIONS_MAX)
        await serving.serve_until_signal(server, serving.inherited_socket(fd), limits.BROKER_DRAIN_SECONDS_MAX)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.GATEWAY_CONNECT_SECONDS_MAX),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="shoal.platform.local.broker")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--home", type=Path, required=True, help="the platform's folder")
    parser.add_argument("--bytes-max", type=int, default=limits.BROKER_BYTES_MAX, help="size of the database")
    options = parser.parse_args(arguments)
    lifeline.die_with_parent()
    serving.raise_file_limit()
    try:
        uvloop.run(serve(options.fd, home_of(options.home), options.bytes_max))
    except ShoalError as error:
        sys.exit(serving.refuse(error))


if __name__ == "__main__":
    main()
