"""Changes of a function while it works: what was accepted before the change ends as it began."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers_functions import deploy, until, write_function
from helpers_triton import write_model
from shoal.core.errors import NotRunningError, ShoalError
from shoal.platform.local.client import LocalPlatform
from shoal.platform.port import Stage

GATED = """
    import asyncio
    import os
    from array import array
    from pathlib import Path
    from shoal import Model, http

    model = Model("used")

    @http
    async def call():
        print("began", flush=True)
        while not Path(os.environ["GATE"]).exists():
            await asyncio.sleep(0.05)
        out = await model(x=array("f", [1, 2, 3]))
        return {"shape": list(out["y"].shape)}
"""
OTHER = """
    from array import array
    from shoal import Model, http

    model = Model("other")

    @http
    async def call():
        return list((await model(x=array("f", [1])))["y"].shape)
"""
PLAIN = "from shoal import http\n@http\ndef f():\n    return {{'version': {}}}\n"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    """A platform of its own, with two models beside the functions."""
    for name in ("used", "other"):
        write_model(tmp_path / "triton-repo", name, "identity")
    started = LocalPlatform(tmp_path / "home", gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True)
    started.up()
    yield started
    started.down()


def begun(platform: LocalPlatform, tmp_path: Path) -> Path:
    """Deploy the function that waits for a file before it calls its model; gives its folder."""
    config = f"env: {{GATE: {json.dumps(str(tmp_path / 'gate'))}}}\n"
    folder = write_function(tmp_path / "f", GATED, config=config)
    deploy(platform, folder)
    return folder


def told_the_pool(platform: LocalPlatform, tmp_path: Path) -> None:
    """Return once the pool holds the newest set of models, and no other."""
    deploy(platform, write_function(tmp_path / "other", OTHER))
    assert platform.invoke("other").status == 200


def test_a_request_in_flight_has_its_model_after_redeploys(platform: LocalPlatform, tmp_path: Path) -> None:
    folder = begun(platform, tmp_path)
    with ThreadPoolExecutor(1) as threads:
        flying = threads.submit(platform.invoke, "f")
        until(lambda: "began" in platform.logs("f"), "the request to begin")
        for version in range(3):  # until the first is none of the newest
            deploy(platform, write_function(folder, PLAIN.format(version)))
        told_the_pool(platform, tmp_path)
        (tmp_path / "gate").touch()
        assert flying.result().status == 200, flying.result().body


def test_a_request_in_flight_has_its_model_after_the_removal(platform: LocalPlatform, tmp_path: Path) -> None:
    begun(platform, tmp_path)
    with ThreadPoolExecutor(2) as threads:
        flying = threads.submit(platform.invoke, "f")
        until(lambda: "began" in platform.logs("f"), "the request to begin")
        removal = threads.submit(platform.delete, "f")
        until(lambda: "f" not in [item.name for item in platform.functions()], "the removal")
        told_the_pool(platform, tmp_path)
        (tmp_path / "gate").touch()
        assert flying.result().status == 200, flying.result().body
        removal.result()
    until(lambda: not any(name.startswith("used--") for name in platform.status().models), "the unloading")


TWO = """
    import os
    from pathlib import Path
    from shoal import Context, event

    @event(type="com.example.first")
    async def first(data: bytes, ctx: Context) -> None:
        raise ValueError("misrouted")

    @event(type="com.example.second")
    async def second(data: bytes, ctx: Context) -> None:
        raise ValueError("not yet")
"""
ONE = """
    import os
    from pathlib import Path
    from shoal import Context, event

    @event(type="com.example.second")
    async def second(data: bytes, ctx: Context) -> None:
        with Path(os.environ["RECORD"]).open("a") as file:
            file.write(f"{ctx.attributes['type']} {ctx.attributes['id']}\\n")
"""


def test_deliveries_under_way_survive_a_redeploy_without_the_first_handler(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    delivery = "delivery: {retry: 20, backoffPolicy: linear, backoffDelay: 100ms}"
    triggers = {kind: f"  - filter: {{type: com.example.{kind}}}\n    {delivery}\n" for kind in ("first", "second")}
    env = f"env: {{RECORD: {json.dumps(str(record))}}}\n"
    config = f"{env}triggers:\n{triggers['first']}{triggers['second']}"
    deploy(platform, folder := write_function(tmp_path / "f", TWO, config=config))
    wanted = set()
    for kind in ("first", "second") * 5:
        identity = str(uuid.uuid4())
        headers = {"ce-specversion": "1.0", "ce-type": f"com.example.{kind}", "ce-source": "/t", "ce-id": identity}
        platform.publish(headers, b"{}")
        wanted |= {f"com.example.{kind} {identity}"} if kind == "second" else set()
    deploy(platform, write_function(folder, ONE, config=f"{env}triggers:\n{triggers['second']}"))
    until(lambda: record.exists() and wanted <= set(record.read_text().splitlines()), "the events of the second")
    assert set(record.read_text().splitlines()) == wanted


STUCK = """
    import asyncio
    from shoal import http, start

    @start
    async def never() -> None:
        await asyncio.sleep(600)

    @http
    def f():
        return {}
"""


def test_down_ends_a_deployment_and_leaves_nothing_of_it(platform: LocalPlatform, tmp_path: Path) -> None:
    progress = platform.deploy(write_function(tmp_path / "f", STUCK))
    while next(progress) != Stage("ready", "started"):
        pass
    ended: list[ShoalError] = []

    def watch() -> None:
        try:
            list(progress)
        except ShoalError as error:
            ended.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert platform.down() is True
    watcher.join()
    assert [type(error) for error in ended] == [NotRunningError]
    assert list(platform.home.revisions.iterdir()) == []
    platform.up()
    assert platform.functions() == []
