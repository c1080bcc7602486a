"""The demonstration: every moment of the local platform on real parts, staged and timed; also an end-to-end test.

Run by ``make demo``. It starts its own platform in a temporary folder, on ports the kernel chooses, and leaves
nothing behind. Exit code 0 means that each stage saw what it promises.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import demo_files
from rich.console import Console
from rich.table import Table

from shoal.core.errors import ShoalError
from shoal.platform.local.client import LocalPlatform
from shoal.platform.port import Deployment, Stage, Target

ROOT = Path(__file__).resolve().parents[2]
SPLIT_REQUESTS = 1_000
SPLIT_TOLERANCE_PERCENT = 4.0  # over four standard deviations of a fair 10 % draw over 1,000 requests
CHAOS_EVENTS = 40
PROCESS_MARKS = {"triton": b"bin/tritonserver\0", "filetype": b"K_SERVICE=filetype\0"}
WAIT_SECONDS_MAX = 90.0  # for any one condition; a loaded machine may need most of it

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)


class DemoError(Exception):
    """A stage did not see what it promises."""


class Story:
    """The stages told so far: what happened, what was seen, how long it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    @contextmanager
    def stage(self, title: str) -> Iterator[list[str]]:
        """Announce a stage, time it, and keep the line it ends with."""
        console.print(f"\n[bold cyan]▸ {title}[/]")
        seen: list[str] = []
        begun = time.monotonic()
        yield seen
        seconds = time.monotonic() - begun
        self.rows.append((title, seen[-1] if seen else "", seconds))
        console.print(f"  [green]✓[/] {seen[-1] if seen else 'done'} [dim]({seconds:.1f} s)[/]")

    def summary(self) -> Table:
        """Give the closing table."""
        table = Table(title="What you saw", title_justify="left", title_style="bold")
        table.add_column("stage")
        table.add_column("seen")
        table.add_column("seconds", justify="right")
        for title, seen, seconds in self.rows:
            table.add_row(title, seen, f"{seconds:.1f}")
        table.add_row("[bold]total", "", f"[bold]{sum(row[2] for row in self.rows):.1f}")
        return table


def expect(condition: bool, message: str) -> None:
    """Fail the demonstration with ``message`` unless the condition holds."""
    if not condition:
        raise DemoError(message)


def wait_for(what: str, probe: Callable[[], bool]) -> float:
    """Wait until ``probe`` says yes; give the seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < WAIT_SECONDS_MAX:
        if probe():
            return time.monotonic() - begun
        time.sleep(0.1)
    raise DemoError(f"waited {WAIT_SECONDS_MAX:.0f} s for {what}")


def deploy(platform: LocalPlatform, folder: Path, *, traffic: bool = True) -> Deployment:
    """Deploy a folder and print its stages as they end."""
    for progress in platform.deploy(folder, traffic=traffic):
        if isinstance(progress, Stage):
            if progress.state == "done":
                console.print(f"  [dim]{progress.name:<10} {progress.seconds:6.2f} s  {progress.detail}[/]")
        else:
            return progress
    raise DemoError(f"the deployment of {folder.name} ended without a revision")


def show_deploys(story: Story, platform: LocalPlatform) -> None:
    """Deploy both example functions."""
    for name in ("hello", "filetype"):
        with story.stage(f"deploy functions/{name}") as seen:
            done = deploy(platform, ROOT / "functions" / name)
            models = ", ".join(done.models.values()) or "no model"
            console.print(f"  [dim]at {done.url}[/]")
            seen.append(f"{done.revision}, {models}")


def show_http(story: Story, platform: LocalPlatform) -> None:
    """Classify files of several kinds over HTTP."""
    with story.stage("classify files over HTTP") as seen:
        wrong = []
        files = demo_files.make()
        for name, (expected, content) in files.items():
            reply = platform.invoke("filetype", body=content)
            expect(reply.status == 200, f"{name}: status {reply.status}: {reply.body[:200]!r}")
            answer = json.loads(reply.body)
            wrong += [name] if answer["label"] != expected else []
            console.print(
                f"  {name:<16} {answer['label']:<12} {answer['score']:.3f}  [dim]{reply.seconds * 1000:.1f} ms[/]"
            )
        expect(not wrong, f"not what they are: {', '.join(wrong)}")
        seen.append(f"{len(files)} files, each named rightly by the real model")


def publish_upload(platform: LocalPlatform, content: bytes) -> str:
    """Publish one upload as a binary CloudEvent; give its id."""
    event_id = str(uuid.uuid4())
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": "/demo",
        "ce-type": "com.example.file.uploaded",
        "ce-subject": event_id,
        "content-type": "application/octet-stream",
    }
    platform.publish(headers, content)
    return event_id


def seen_subjects(platform: LocalPlatform) -> set[str]:
    """Give the subjects of the classified events that hello has written to its log."""
    subjects = set()
    for line in platform.logs("hello", lines=10_000):
        if "classified" in line:
            subjects |= {word.strip('",') for word in line.replace("=", " ").split()}
    return subjects


def show_events(story: Story, platform: LocalPlatform) -> None:
    """Follow one CloudEvent through broker, function, reply and second function."""
    with story.stage("CloudEvent: broker → filetype → reply → hello") as seen:
        event_id = publish_upload(platform, b'{"kind": "json"}')
        seconds = wait_for("hello to receive the reply", lambda: event_id in seen_subjects(platform))
        seen.append(f"event {event_id[:8]} came back classified, seen by hello after {seconds * 1000:.0f} ms")


def instances(platform: LocalPlatform, name: str) -> int:
    """Count a function's running instances."""
    return sum(revision.instances for revision in platform.function(name).revisions)


def show_scale_to_zero(story: Story, platform: LocalPlatform) -> None:
    """Let hello fall to zero, then hold the first request while it wakes."""
    with story.stage("scale to zero, and back with the first request held") as seen:
        idle = wait_for("hello to fall to zero", lambda: instances(platform, "hello") == 0)
        console.print(f"  the last instance ended {idle:.1f} s later: nobody had called")
        reply = platform.invoke("hello", body=b'{"name": "sleeper"}', headers={"content-type": "application/json"})
        expect(reply.status == 200, f"the held request got {reply.status}: {reply.body[:200]!r}")
        seen.append(f"zero instances, then the held request answered 200 after {reply.seconds * 1000:.0f} ms")


def second_version(work: Path) -> Path:
    """Write a second version of hello: the same code with another greeting."""
    folder = work / "hello"
    shutil.copytree(ROOT / "functions" / "hello", folder, ignore=shutil.ignore_patterns("__pycache__"))
    handler = folder / "handler.py"
    text = handler.read_text()
    expect("Hello" in text, "functions/hello/handler.py greets no more with Hello")
    handler.write_text(text.replace("Hello", "Good morning"))
    return folder


def count_revisions(platform: LocalPlatform, requests: int) -> Counter[str]:
    """Send ``requests`` requests over eight connections; count which revision answered each."""

    def one(_: int) -> str:
        reply = platform.invoke("hello", body=b'{"name": "you"}', headers={"content-type": "application/json"})
        return reply.headers["shoal-revision"] if reply.status == 200 else f"status {reply.status}"

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, range(requests)))


def show_split(story: Story, platform: LocalPlatform, work: Path) -> tuple[str, str]:
    """Split traffic 90/10 between two revisions and measure it; give both names."""
    with story.stage(f"90/10 split over {SPLIT_REQUESTS:,} requests") as seen:
        old = platform.function("hello").revisions[0].name
        new = deploy(platform, second_version(work), traffic=False).revision
        platform.set_traffic("hello", [Target(old, 90), Target(new, 10, tag="next")])
        counts = count_revisions(platform, SPLIT_REQUESTS)
        share = 100 * counts[new] / SPLIT_REQUESTS
        expect(counts[old] + counts[new] == SPLIT_REQUESTS, f"not all were answered: {dict(counts)}")
        expect(abs(share - 10) <= SPLIT_TOLERANCE_PERCENT, f"{new} got {share:.1f} % instead of 10 %")
        seen.append(f"{old}: {counts[old]}, {new}: {counts[new]} ({share:.1f} %)")
    return old, new


def show_tag_and_rollback(story: Story, platform: LocalPlatform, old: str, new: str) -> None:
    """Reach the new revision by its tag alone; then go back with one call."""
    with story.stage("a tag has its own address") as seen:
        replies = [platform.invoke("hello", tag="next", body=b"{}") for _ in range(20)]
        expect({reply.headers["shoal-revision"] for reply in replies} == {new}, "the tag reached another revision")
        seen.append(f"next-hello answered 20 of 20 times as {new}")
    with story.stage("rollback") as seen:
        platform.rollback("hello")
        counts = count_revisions(platform, 100)
        expect(counts == {old: 100}, f"after the rollback: {dict(counts)}")
        seen.append(f"100 of 100 requests answered by {old}")


def kill(platform: LocalPlatform, home: Path, victim: str) -> None:
    """End one of this platform's processes the hard way: a component, Triton, or a function's instance."""
    parts = {part.name: part.pid for part in platform.status().components}
    pid = parts[victim] if victim in parts else find_process(home, PROCESS_MARKS[victim])
    os.kill(pid, signal.SIGKILL)
    console.print(f"  kill -9 {victim} (process {pid})")


def find_process(home: Path, mark: bytes) -> int:
    """Find the process below ``home`` whose command line or environment carries ``mark``."""
    found: list[int] = []

    def look() -> bool:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if mark in text and bytes(home) in text:
                    found.append(int(process.name))
        return bool(found)

    wait_for(f"a process marked {mark!r}", look)
    return found[0]


def show_chaos(story: Story, platform: LocalPlatform, home: Path) -> None:
    """Kill gateway, broker, Triton and a function while events arrive; every accepted one must come through."""
    with story.stage("kill -9 of gateway, broker, Triton and function under traffic") as seen:
        accepted: list[str] = []
        victims = {8: "gateway", 16: "broker", 24: "triton", 32: "filetype"}
        for number in range(CHAOS_EVENTS):
            if victim := victims.get(number):
                kill(platform, home, victim)
            accepted.append(publish_patiently(platform))
        missing = set(accepted)
        wait_for("every accepted event", lambda: not (missing - seen_subjects(platform)))
        seen.append(f"{len(accepted)} events accepted, {len(accepted)} classified, none lost")


def publish_patiently(platform: LocalPlatform) -> str:
    """Publish until the broker says it keeps the event: while it restarts, a sender has to try again."""
    begun = time.monotonic()
    while True:
        try:
            return publish_upload(platform, b"<!doctype html><html><body><p>hello</p></body></html>")
        except ShoalError:
            if time.monotonic() - begun > WAIT_SECONDS_MAX:
                raise
            time.sleep(0.1)


def tell(story: Story, platform: LocalPlatform, work: Path) -> None:
    """Go through all stages."""
    with story.stage("start the platform") as seen:
        platform.up()
        parts = [part.name for part in platform.status().components]
        seen.append(", ".join(parts) + " are up")
    show_deploys(story, platform)
    show_http(story, platform)
    show_events(story, platform)
    show_scale_to_zero(story, platform)
    old, new = show_split(story, platform, work)
    show_tag_and_rollback(story, platform, old, new)
    show_chaos(story, platform, work / "home")


def main() -> int:
    """Tell the story; exit code 0 when every stage saw what it promises."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    work = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    platform = LocalPlatform(home=work / "home", gateway_port=0, broker_port=0)
    story = Story()
    try:
        tell(story, platform, work)
    except (DemoError, ShoalError) as error:
        console.print(f"\n[bold red]error:[/] {error}")
        return 1
    finally:
        with story.stage("end the platform") as seen:
            platform.down()
            seen.append("no process left")
        shutil.rmtree(work, ignore_errors=True)
    console.print()
    console.print(story.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
