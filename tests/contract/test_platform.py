"""What every platform promises, through the port alone: the laptop and the cluster pass the same suite."""

from __future__ import annotations

import json
import math
import re
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers_functions import Make, deploy, until, write_function
from helpers_wheels import write_wheel
from shoal.core.errors import (
    ConflictError,
    ContractError,
    DeployError,
    NotFoundError,
    ShoalError,
    SpecError,
    UsageError,
)
from shoal.platform.port import FunctionStatus, HandlerInfo, Platform, RevisionStatus, Stage, Target, TriggerInfo

ECHO = """
    from shoal import http

    @http
    def echo(body: bytes):
        return {{"version": {version}, "length": len(body)}}
"""
QUICK_ZERO = "scale: {window: 1s}\n"


def echo(version: int = 1) -> str:
    return ECHO.format(version=version)


def answer(platform: Platform, name: str, *, tag: str = "", path: str = "/") -> dict[str, object]:
    reply = platform.invoke(name, tag=tag, path=path, body=b"abc")
    assert reply.status == 200, reply.body
    found: dict[str, object] = json.loads(reply.body)
    return found


def newest(status: FunctionStatus) -> RevisionStatus:
    return status.revisions[0]


# Deploying.


def test_a_deployed_function_answers_and_names_its_revision(platform: Platform, make: Make) -> None:
    done = deploy(platform, folder := make(echo()))
    assert (done.function, done.revision, done.created) == (folder.name, f"{folder.name}-00001", True)
    reply = platform.invoke(folder.name, body=b"abcd")
    assert (reply.status, json.loads(reply.body)) == (200, {"version": 1, "length": 4})
    assert reply.headers["shoal-revision"] == done.revision
    assert reply.headers["x-request-id"]
    status = platform.function(folder.name)
    assert status.ready
    assert (status.url, status.reason) == (done.url, "")
    assert status.traffic == (Target(done.revision, 100),)


def test_stages_are_told_as_they_begin_and_end(platform: Platform, make: Make) -> None:
    stages = [item for item in platform.deploy(make(echo())) if isinstance(item, Stage)]
    for name in {stage.name for stage in stages}:
        assert [stage.state for stage in stages if stage.name == name] == ["started", "done"]
    names = [stage.name for stage in stages if stage.state == "done"]
    assert names == ["check", "revision", "ready", "traffic"]
    assert all(stage.seconds >= 0 for stage in stages)


def test_the_same_inputs_make_no_new_revision(platform: Platform, make: Make) -> None:
    first = deploy(platform, folder := make(echo()))
    again = deploy(platform, folder)
    assert (again.revision, again.created) == (first.revision, False)
    assert len(platform.function(folder.name).revisions) == 1


def test_a_revision_is_immutable(platform: Platform, make: Make) -> None:
    first = deploy(platform, folder := make(echo(), config=QUICK_ZERO))
    make(echo(2), name=folder.name, config=QUICK_ZERO)
    until(lambda: newest(platform.function(folder.name)).instances == 0, "scale to zero")
    assert answer(platform, folder.name)["version"] == 1
    second = deploy(platform, folder)
    assert second.revision != first.revision
    assert answer(platform, folder.name)["version"] == 2
    digests = {item.digest for item in platform.function(folder.name).revisions}
    assert len(digests) == 2


def test_a_change_of_configuration_makes_a_revision(platform: Platform, make: Make) -> None:
    first = deploy(platform, folder := make(echo(), config="env: {A: b}\n"))
    make(echo(), name=folder.name, config="env: {A: c}\n")
    second = deploy(platform, folder)
    assert (second.created, second.revision != first.revision) == (True, True)


def test_the_environment_of_a_function_is_its_own(platform: Platform, make: Make) -> None:
    code = """
        import os
        from shoal import http

        @http
        def env():
            return dict(os.environ)
    """
    done = deploy(platform, folder := make(code, config="env: {GREETING: hello}\n"))
    reply = platform.invoke(folder.name)
    env = json.loads(reply.body)
    assert env["GREETING"] == "hello"
    assert (env["K_SERVICE"], env["K_REVISION"]) == (folder.name, done.revision)
    assert not [name for name in env if name.startswith(("PYTEST", "SSH", "GIT"))]


def test_files_beside_the_handler_come_along(platform: Platform, make: Make) -> None:
    folder = make("from shoal import http\nimport beside\n@http\ndef f():\n    return beside.WORDS\n")
    (folder / "beside.py").write_text("from pathlib import Path\nWORDS = Path('words.txt').read_text()\n")
    (folder / "words.txt").write_text("from a file")
    deploy(platform, folder)
    assert platform.invoke(folder.name).body == b"from a file"


def test_a_function_has_the_third_party_packages_it_pins(
    platform: Platform, make: Make, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for version in ("1.0", "2.0"):
        write_wheel(wheels, "shoal_test_pinned", version, {"shoal_test_pinned.py": f"VERSION = '{version}'\n"})
    code = (
        "from shoal import http\nimport shoal_test_pinned\n@http\ndef f():\n    return shoal_test_pinned.VERSION\n"
    )
    folder = make(code)
    with pytest.raises(DeployError, match="No module named 'shoal_test_pinned'") as caught:
        deploy(platform, folder)
    assert caught.value.hint == f"add shoal_test_pinned==VERSION to {folder}/requirements.txt"
    (folder / "requirements.txt").write_text("shoal-test-pinned\n")
    with pytest.raises(SpecError, match=r"requirements\.txt:1:1: 'shoal-test-pinned' is without a version"):
        deploy(platform, folder)
    (folder / "requirements.txt").write_text("shoal-test-pinned==1.0\n")
    stages = [item for item in platform.deploy(folder) if isinstance(item, Stage) and item.state == "done"]
    assert (stages[0].name, stages[0].detail) == ("packages", "shoal-test-pinned==1.0")
    assert platform.invoke(folder.name).body == b"1.0"
    (folder / "requirements.txt").write_text("shoal-test-pinned==2.0\n")
    assert deploy(platform, folder).created
    assert platform.invoke(folder.name).body == b"2.0"
    assert not deploy(platform, folder).created


# Traffic.


def two_revisions(platform: Platform, make: Make) -> tuple[str, str, str]:
    old = deploy(platform, folder := make(echo(1))).revision
    make(echo(2), name=folder.name)
    return folder.name, old, deploy(platform, folder, traffic=False).revision


def test_without_traffic_the_split_stays_and_a_tag_reaches_the_revision(platform: Platform, make: Make) -> None:
    name, old, new = two_revisions(platform, make)
    assert answer(platform, name)["version"] == 1
    platform.set_traffic(name, [Target(old, 100), Target(new, 0, "next")])
    assert answer(platform, name, tag="next")["version"] == 2
    assert {answer(platform, name)["version"] for _ in range(20)} == {1}
    status = platform.function(name)
    assert [(item.name, item.percent, item.tags) for item in status.revisions] == [
        (new, 0, ("next",)),
        (old, 100, ()),
    ]


def test_a_split_holds_within_what_chance_allows(platform: Platform, make: Make) -> None:
    name, old, new = two_revisions(platform, make)
    platform.set_traffic(name, [Target(old, 80), Target(new, 20)])
    requests = 400
    with ThreadPoolExecutor(4) as threads:
        counts = Counter(
            answers["version"] for answers in threads.map(lambda _: answer(platform, name), range(requests))
        )
    deviation = 5 * math.sqrt(requests * 0.2 * 0.8)  # five sigma: wrong once in two million runs
    assert abs(counts[2] - requests * 0.2) <= deviation, counts
    assert sum(counts.values()) == requests


def test_a_split_is_in_effect_when_the_call_returns(platform: Platform, make: Make) -> None:
    name, old, new = two_revisions(platform, make)
    for revision, version in [(new, 2), (old, 1), (new, 2)]:
        platform.set_traffic(name, [Target(revision, 100)])
        assert {answer(platform, name)["version"] for _ in range(5)} == {version}


@pytest.mark.parametrize(
    ("percents", "text"), [((50, 40), "sum to 90"), ((150, -50), "between 0 and 100"), ((0, 0), "sum to 0")]
)
def test_a_wrong_split_is_refused_and_nothing_changes(
    platform: Platform, make: Make, percents: tuple[int, int], text: str
) -> None:
    name, old, new = two_revisions(platform, make)
    with pytest.raises(UsageError, match=text):
        platform.set_traffic(name, [Target(old, percents[0]), Target(new, percents[1])])
    assert platform.function(name).traffic == (Target(old, 100),)


def test_a_split_over_revisions_that_are_not_there_is_refused(platform: Platform, make: Make) -> None:
    name, old, _ = two_revisions(platform, make)
    with pytest.raises(NotFoundError, match="no revision"):
        platform.set_traffic(name, [Target(f"{name}-00077", 100)])
    assert platform.function(name).traffic == (Target(old, 100),)


def test_rollback_brings_back_what_had_the_traffic(platform: Platform, make: Make) -> None:
    name, old, new = two_revisions(platform, make)
    platform.set_traffic(name, [Target(old, 70), Target(new, 30, "next")])
    platform.set_traffic(name, [Target(new, 100)])
    assert {(item.revision, item.percent) for item in platform.rollback(name).traffic} == {(old, 70), (new, 30)}
    assert platform.rollback(name).traffic == (Target(old, 100),)
    assert {answer(platform, name)["version"] for _ in range(10)} == {1}
    with pytest.raises(ConflictError, match="nothing before"):
        platform.rollback(name)


def test_a_redeploy_of_an_unchanged_folder_keeps_the_split(platform: Platform, make: Make) -> None:
    name, old, new = two_revisions(platform, make)
    split = (Target(old, 90), Target(new, 10, "next"))
    platform.set_traffic(name, split)
    again = deploy(platform, make(echo(2), name=name))
    assert (again.revision, again.created, again.traffic, again.replaced) == (new, False, split, ())
    assert platform.function(name).traffic == split
    third = deploy(platform, make(echo(3), name=name))
    assert (third.created, third.replaced) == (True, split)
    assert third.traffic == platform.function(name).traffic == (Target(third.revision, 100), Target(new, 0, "next"))


def test_a_redeploy_after_a_rollback_stays_back(platform: Platform, make: Make) -> None:
    first = deploy(platform, folder := make(echo(1)))
    make(echo(2), name=folder.name)
    second = deploy(platform, folder)
    platform.rollback(folder.name)
    again = deploy(platform, folder)
    assert (again.revision, again.created) == (second.revision, False)
    assert again.traffic == (Target(first.revision, 100),)
    assert answer(platform, folder.name)["version"] == 1


def test_a_redeploy_where_nothing_has_traffic_gets_all(platform: Platform, make: Make) -> None:
    first = deploy(platform, folder := make(echo(1)), traffic=False)
    assert (first.traffic, platform.function(folder.name).ready) == ((), False)
    again = deploy(platform, folder)
    assert (again.created, again.traffic) == (False, (Target(first.revision, 100),))
    assert answer(platform, folder.name)["version"] == 1


def test_a_name_deployed_from_another_folder_is_told(platform: Platform, make: Make, tmp_path: Path) -> None:
    first = deploy(platform, folder := make(echo(1)))
    other = write_function(tmp_path / "other" / folder.name, echo(2))
    moved = deploy(platform, other)
    assert (first.source_before, moved.source_before) == ("", str(folder))
    assert deploy(platform, other).source_before == ""
    platform.delete(folder.name)
    assert deploy(platform, folder).source_before == ""


def test_a_function_says_what_it_takes(platform: Platform, make: Make) -> None:
    code = """
        from shoal import event, http

        @http(path="/size", methods=["POST", "PUT"])
        def size(body: bytes):
            return {"version": 1}

        @event(type="com.example.measured")
        def measured(data: bytes):
            return None
    """
    deploy(platform, folder := make(code))
    status = platform.function(folder.name)
    assert status.handlers == (
        HandlerInfo("size", "http", path="/size", methods=("POST", "PUT")),
        HandlerInfo("measured", "event", type="com.example.measured"),
    )
    assert status.triggers == (TriggerInfo("default", {"type": "com.example.measured"}),)


# Zero and back.


def test_an_idle_function_falls_to_zero_and_the_first_request_is_held(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(echo(), config=QUICK_ZERO))
    assert newest(platform.function(folder.name)).instances == 1
    until(lambda: newest(platform.function(folder.name)).instances == 0, "scale to zero")
    assert answer(platform, folder.name)["version"] == 1
    assert newest(platform.function(folder.name)).instances == 1


def test_requests_at_zero_share_one_start(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(echo(), config=QUICK_ZERO))
    until(lambda: newest(platform.function(folder.name)).instances == 0, "scale to zero")
    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(lambda _: answer(platform, folder.name)["version"], range(8)))
    assert versions == [1] * 8
    assert newest(platform.function(folder.name)).instances == 1


def test_a_minimum_keeps_instances_that_have_nothing_to_do(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(echo(), config="scale: {min: 1, window: 1s}\n"))
    idle, busy = folder.name, make(echo(), config=QUICK_ZERO)
    deploy(platform, busy)
    until(lambda: newest(platform.function(busy.name)).instances == 0, "the other function's fall to zero")
    assert newest(platform.function(idle)).instances == 1


def test_load_brings_more_instances(platform: Platform, make: Make) -> None:
    code = """
        import asyncio
        from shoal import http

        @http
        async def slow():
            await asyncio.sleep(0.5)
            return {}
    """
    deploy(platform, folder := make(code, config="concurrency: 1\nscale: {max: 2, window: 60s}\n"))
    over = threading.Event()

    def call() -> list[int]:
        statuses = []
        while not over.is_set():
            statuses.append(platform.invoke(folder.name).status)
        return statuses

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call) for _ in range(4)]
        try:
            until(lambda: newest(platform.function(folder.name)).instances == 2, "a second instance")
        finally:
            over.set()
    assert {status for done in calls for status in done.result()} == {200}


# Failing deployments.

BAD = {
    "spec": (echo(2), "concurrencyy: 3\n", SpecError, "concurrency"),
    "import": ("import nothing_of_that_name\n", "", ShoalError, "nothing_of_that_name"),
    "no handler": ("x = 1\n", "", SpecError, "no handler"),
    "start": (
        """
        import asyncio
        from shoal import http, start

        @start
        def open_files():
            raise ValueError("the start hook failed")

        @http
        def f():
            return {}
        """,
        "",
        DeployError,
        "the start hook failed",
    ),
    "missing model": (
        """
        from shoal import Model, http

        model = Model("no-such-model")

        @http
        async def f():
            return {}
        """,
        "",
        ShoalError,
        "no-such-model",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_failing_deployment_gives_one_reason_and_leaves_what_served(
    platform: Platform, make: Make, kind: str
) -> None:
    code, config, error, text = BAD[kind]
    good = deploy(platform, folder := make(echo(1)))
    make(code, name=folder.name, config=config)
    with pytest.raises(error, match=text) as raised:
        deploy(platform, folder)
    assert "Traceback" not in raised.value.message
    status = platform.function(folder.name)
    assert [item.name for item in status.revisions] == [good.revision]
    assert (status.ready, status.traffic) == (True, (Target(good.revision, 100),))
    assert answer(platform, folder.name)["version"] == 1


@pytest.mark.parametrize("kind", BAD)
def test_a_failing_first_deployment_leaves_nothing(platform: Platform, make: Make, kind: str) -> None:
    code, config, error, text = BAD[kind]
    folder = make(code, config=config)
    with pytest.raises(error, match=text):
        deploy(platform, folder)
    with pytest.raises(NotFoundError):
        platform.function(folder.name)
    assert platform.invoke(folder.name).status == 404


def test_a_deployment_whose_caller_leaves_can_be_run_again(platform: Platform, make: Make) -> None:
    folder = make(echo())
    for stages in range(1, 6):
        progress = platform.deploy(folder)
        for _ in range(stages):
            next(progress)
        progress.close()  # type: ignore[attr-defined]
    deploy(platform, folder)
    assert len(platform.function(folder.name).revisions) == 1
    assert answer(platform, folder.name)["version"] == 1


# Models.

CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { default_queue_policy {
  default_timeout_microseconds: 60000000 allow_timeout_override: true max_queue_size: 16 } }
"""
MODEL_HANDLER = """
    from array import array
    from shoal import Model, http

    model = Model("{model}", inputs={{"{input}": "FP32[-1]"}})

    @http
    async def call():
        out = await model({input}=array("f", [1, 2, 3]))
        return {{"shape": list(out["y"].shape)}}
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Put a model beside the test's functions and give its name."""
    name = f"m-{uuid.uuid4().hex[:10]}"
    code = tmp_path / "triton-repo" / name / "1" / "model.py"
    code.parent.mkdir(parents=True)
    code.write_text("# the platform's stand-in answers from the configuration\n")
    (code.parents[1] / "config.pbtxt").write_text(CONFIG)
    return name


def test_a_revision_carries_the_exact_models_it_was_deployed_with(
    platform: Platform, make: Make, model: str
) -> None:
    done = deploy(platform, folder := make(MODEL_HANDLER.format(model=model, input="x")))
    version = done.models[model]
    assert re.fullmatch(rf"{model}--[0-9a-f]{{12}}", version)
    reply = platform.invoke(folder.name)
    assert (reply.status, reply.headers["shoal-models"]) == (200, f"{model}={version}"), reply.body
    assert len(json.loads(reply.body)["shape"]) == 1
    assert platform.status().models[version] == "READY"


def test_a_changed_model_makes_a_revision_and_both_versions_serve(
    platform: Platform, make: Make, model: str, tmp_path: Path
) -> None:
    first = deploy(platform, folder := make(MODEL_HANDLER.format(model=model, input="x")))
    (tmp_path / "triton-repo" / model / "1" / "model.py").write_text("# other weights\n")
    second = deploy(platform, folder, traffic=False)
    assert (second.created, second.models != first.models) == (True, True)
    platform.set_traffic(folder.name, [Target(first.revision, 100), Target(second.revision, 0, "next")])
    for tag, done in (("", first), ("next", second)):
        assert platform.invoke(folder.name, tag=tag).headers["shoal-models"] == f"{model}={done.models[model]}"


def test_a_handler_that_breaks_the_contract_is_refused(platform: Platform, make: Make, model: str) -> None:
    good = deploy(platform, folder := make(echo(1)))
    make(MODEL_HANDLER.format(model=model, input="xx"), name=folder.name)
    with pytest.raises(ContractError, match="no input 'xx'"):
        deploy(platform, folder)
    assert [item.name for item in platform.function(folder.name).revisions] == [good.revision]
    assert answer(platform, folder.name)["version"] == 1


def test_models_nothing_names_any_more_are_unloaded(platform: Platform, make: Make, model: str) -> None:
    done = deploy(platform, folder := make(MODEL_HANDLER.format(model=model, input="x")))
    platform.delete(folder.name)
    until(lambda: done.models[model] not in platform.status().models, "the unloading")


# Deleting.


def test_delete_leaves_nothing(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(echo()))
    platform.delete(folder.name)
    assert platform.invoke(folder.name).status == 404
    assert folder.name not in [item.name for item in platform.functions()]
    for call in (platform.function, platform.delete, platform.rollback, lambda name: list(platform.logs(name))):
        with pytest.raises(NotFoundError, match=folder.name):
            call(folder.name)
    again = deploy(platform, folder)
    assert (again.revision, again.created) == (f"{folder.name}-00001", True)


# Events.

RECORDER = """
    import json
    from shoal import Context, event, http

    seen = []

    @event(type="TYPE")
    async def take(data: bytes, ctx: Context) -> None:
        seen.append({name: str(value) for name, value in ctx.attributes.items()})

    @http
    def events():
        return seen
"""
ONE_INSTANCE = "scale: {min: 1, max: 1}\n"


def publish(platform: Platform, kind: str, **attributes: str) -> str:
    identity = str(uuid.uuid4())
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    fixed = {"ce-specversion": "1.0", "ce-type": kind, "ce-source": "/test", "ce-id": identity}
    platform.publish({**fixed, **headers, "content-type": "application/json"}, b'{"a": 1}')
    return identity


def seen(platform: Platform, name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(platform.invoke(name, method="GET").body)
    return found


def test_an_event_goes_to_a_function_and_its_reply_to_another(platform: Platform, make: Make) -> None:
    kind, reply = f"com.example.{uuid.uuid4().hex}", f"com.example.{uuid.uuid4().hex}"
    code = f"""
        from shoal import CloudEvent, event

        @event(type="{kind}")
        async def answer(incoming: CloudEvent) -> CloudEvent:
            return CloudEvent(id="reply-" + incoming.id, type="{reply}", source="/first", data=b"words")
    """
    deploy(platform, make(code))
    deploy(platform, recorder := make(RECORDER.replace("TYPE", reply), config=ONE_INSTANCE))
    identity = publish(platform, kind)
    until(lambda: seen(platform, recorder.name), "the reply")
    assert [item["id"] for item in seen(platform, recorder.name)] == [f"reply-{identity}"]


def test_only_events_that_pass_the_filter_are_delivered(platform: Platform, make: Make) -> None:
    kind = f"com.example.{uuid.uuid4().hex}"
    config = ONE_INSTANCE + f"triggers:\n  - filter: {{type: {kind}, subject: wanted}}\n"
    deploy(platform, recorder := make(RECORDER.replace("TYPE", kind), config=config))
    for subject in ("other", "wanted", "else"):
        publish(platform, kind, subject=subject)
    last = publish(platform, kind, subject="wanted")
    until(lambda: last in [item["id"] for item in seen(platform, recorder.name)], "the last event")
    assert {item["subject"] for item in seen(platform, recorder.name)} == {"wanted"}


def test_a_failing_handler_is_tried_again(platform: Platform, make: Make) -> None:
    kind = f"com.example.{uuid.uuid4().hex}"
    code = f"""
        from shoal import Context, event, http

        tries = []

        @event(type="{kind}")
        async def take(data: bytes, ctx: Context) -> None:
            tries.append(ctx.attributes["id"])
            if len(tries) < 3:
                raise ValueError("not yet")

        @http
        def count():
            return tries
    """
    config = (
        ONE_INSTANCE + f"triggers:\n  - filter: {{type: {kind}}}\n    delivery: {{retry: 5, backoffDelay: 50ms}}\n"
    )
    deploy(platform, folder := make(code, config=config))
    identity = publish(platform, kind)
    until(lambda: len(seen(platform, folder.name)) >= 3, "the third try")
    assert seen(platform, folder.name) == [identity] * 3


def test_an_event_wakes_a_function_at_zero(platform: Platform, make: Make) -> None:
    kind = f"com.example.{uuid.uuid4().hex}"
    code = f"""
        from shoal import Context, event

        @event(type="{kind}")
        async def take(data: bytes, ctx: Context) -> None:
            print("took", ctx.attributes["id"], flush=True)
    """
    deploy(platform, folder := make(code, config=QUICK_ZERO))
    until(lambda: newest(platform.function(folder.name)).instances == 0, "scale to zero")
    identity = publish(platform, kind)
    until(lambda: any(identity in line for line in platform.logs(folder.name)), "the event in the log")


def test_a_malformed_event_is_refused(platform: Platform) -> None:
    with pytest.raises(ShoalError):
        platform.publish({"ce-specversion": "1.0", "ce-type": "x"}, b"")


# Draining.

SLOW = """
    import asyncio
    from shoal import http

    @http
    async def slow():
        print("began", flush=True)
        await asyncio.sleep({seconds})
        return {{"version": {version}}}
"""


def test_a_request_in_flight_survives_a_redeploy(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(SLOW.format(seconds=4, version=1), config=QUICK_ZERO))
    with ThreadPoolExecutor(1) as threads:
        flying = threads.submit(answer, platform, folder.name)
        until(lambda: "began" in platform.logs(folder.name), "the request to begin")
        make(SLOW.format(seconds=0, version=2), name=folder.name, config=QUICK_ZERO)
        deploy(platform, folder)
        assert answer(platform, folder.name)["version"] == 2
        assert flying.result()["version"] == 1
    until(lambda: platform.function(folder.name).revisions[1].instances == 0, "the old revision's end")


def test_a_request_in_flight_survives_the_removal_of_its_function(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(SLOW.format(seconds=3, version=1)))
    with ThreadPoolExecutor(1) as threads:
        flying = threads.submit(answer, platform, folder.name)
        until(lambda: "began" in platform.logs(folder.name), "the request to begin")
        platform.delete(folder.name)
        assert flying.result()["version"] == 1


# Looking.


def test_logs_come_oldest_first_bounded_and_by_revision(platform: Platform, make: Make) -> None:
    code = "from shoal import http\n@http\ndef f(body: bytes):\n    print('line', body.decode())\n    return {}\n"
    done = deploy(platform, folder := make(code))
    for number in range(5):
        platform.invoke(folder.name, body=str(number).encode())
    lines = [line for line in platform.logs(folder.name) if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(5)]
    assert len(list(platform.logs(folder.name, lines=2))) == 2
    assert list(platform.logs(folder.name, revision=done.revision, lines=1000))
    with pytest.raises(NotFoundError):
        list(platform.logs(folder.name, revision=f"{folder.name}-00077"))


def test_logs_can_be_followed(platform: Platform, make: Make) -> None:
    code = "from shoal import http\n@http\ndef f(body: bytes):\n    print('line', body.decode())\n    return {}\n"
    deploy(platform, folder := make(code))
    over = threading.Event()

    def call() -> None:
        for number in range(10_000):
            platform.invoke(folder.name, body=str(number).encode())
            if over.wait(0.2):
                return

    caller = threading.Thread(target=call)
    caller.start()
    try:
        lines = platform.logs(folder.name, follow=True, lines=0)
        assert next(line for line in lines if line.startswith("line"))
    finally:
        over.set()
        caller.join()


def test_every_access_is_a_line_with_revision_and_status(platform: Platform, make: Make) -> None:
    done = deploy(platform, folder := make(echo()))
    request = platform.invoke(folder.name).headers["x-request-id"]

    def access() -> list[dict[str, object]]:
        found = [json.loads(line) for line in platform.logs(folder.name) if line.startswith("{")]
        return [line for line in found if line.get("request_id") == request]

    (line,) = until(access, "the line of the request")
    assert (line["revision"], line["service"], line["status"]) == (done.revision, folder.name, 200)


def test_the_platform_describes_its_parts(platform: Platform) -> None:
    parts = {part.name: part for part in platform.status().components}
    assert parts
    assert all(part.ready for part in parts.values() if part.name != "pool")


def test_an_unknown_function_names_those_there_are(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(echo()))
    with pytest.raises(NotFoundError, match=folder.name):
        platform.function("nobody")
    assert platform.invoke("nobody").status == 404


def test_functions_are_listed_by_name(platform: Platform, make: Make) -> None:
    for folder in (make(echo()), make(echo())):
        deploy(platform, folder)
    names = [item.name for item in platform.functions()]
    assert names == sorted(names)


def test_a_function_that_takes_too_long_is_told_so(platform: Platform, make: Make) -> None:
    deploy(platform, folder := make(SLOW.format(seconds=60, version=1), config="timeout: 1s\n"))
    reply = platform.invoke(folder.name)
    assert reply.status == 504
    assert "traceback" not in reply.body.decode().lower()


def test_a_crash_is_survived(platform: Platform, make: Make) -> None:
    code = """
        import os
        from shoal import http

        @http
        async def f(body: bytes):
            if body == b"die":
                os._exit(9)
            return {}
    """
    deploy(platform, folder := make(code))
    assert platform.invoke(folder.name, body=b"die").status >= 500
    assert until(lambda: platform.invoke(folder.name, body=b"live").status == 200, "an answer after the crash")
