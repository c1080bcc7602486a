"""An instance that runs on and answers nothing is replaced, also while requests keep coming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from helpers_functions import WAIT_SECONDS, deploy, until, write_function
from shoal.platform.local.client import LocalPlatform

CODE = """
    import os
    from shoal import http

    @http
    async def pid():
        return {"pid": os.getpid()}

    @http(path="/stick")
    async def stick():
        while True:
            pass
"""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    started = LocalPlatform(tmp_path / "home", gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True)
    started.up()
    yield started
    started.down()


def fetch(platform: LocalPlatform, path: str) -> tuple[int, bytes]:
    gateway = next(part.address for part in platform.status().components if part.name == "gateway")
    request = Request(gateway + path, headers={"Host": "stuck.localhost"})
    try:
        with urlopen(request, timeout=WAIT_SECONDS) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_instance_with_a_blocked_event_loop_is_replaced(platform: LocalPlatform, tmp_path: Path) -> None:
    deploy(platform, write_function(tmp_path / "stuck", CODE, config="scale: {max: 1}\ntimeout: 2s\n"))
    status, body = fetch(platform, "/")
    assert status == 200
    assert fetch(platform, "/stick")[0] == 504

    def answered() -> bytes | None:
        with suppress(TimeoutError):
            status, body = fetch(platform, "/")
            assert status in {200, 502, 503, 504}, body
            return body if status == 200 else None
        return None

    after = until(answered, "an answer of another instance", seconds=2 * WAIT_SECONDS)
    assert json.loads(after)["pid"] != json.loads(body)["pid"]
