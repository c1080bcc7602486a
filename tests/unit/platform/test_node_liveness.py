"""What counts as an instance that answers no more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from shoal.core import limits
from shoal.platform.local import liveness


async def asked_before_silent(answers: Iterator[bool]) -> int:
    """Give how many questions it took with these answers."""
    asked = 0

    async def ask(_: int) -> bool:
        nonlocal asked
        asked += 1
        return next(answers)

    await liveness.until_silent(1, ask=ask, every_s=0.0)
    return asked


async def test_only_silences_in_a_row_count() -> None:
    assert limits.LIVE_SILENCES_MAX == 3
    assert await asked_before_silent(iter([False] * 3)) == 3
    assert await asked_before_silent(iter([False, False, True, False, True, False, False, False])) == 8


async def test_who_takes_the_connection_and_says_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not await liveness.answers(listener.getsockname()[1])


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n", b""])
async def test_an_answer_or_an_end_is_no_silence(answer: bytes) -> None:
    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        assert await liveness.answers(server.sockets[0].getsockname()[1])


async def test_a_port_nobody_listens_on_is_left_to_those_who_watch_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert await liveness.answers(port)
