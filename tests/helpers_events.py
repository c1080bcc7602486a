"""CloudEvents for tests: strategies that make legal ones, and the SDK's 2.x line in a process of its own."""

from __future__ import annotations

import base64
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from shoal.runtime.events import RESERVED, CloudEvent
from shoal.runtime.messages import Headers

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "cloudevents2.lock"

# Strings without control characters, half surrogate pairs and noncharacters.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=40)
ASCII = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"%'), min_size=1, max_size=40
)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,19}", fullmatch=True).filter(lambda name: name not in RESERVED)
NAMES = NAMES.filter(lambda name: name != "database64")
EXTENSIONS = st.booleans() | st.integers(-(2**31), 2**31 - 1) | TEXT
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: value is not None)
PLAIN_TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
TIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=ZONES)
DATA = st.one_of(
    st.tuples(
        st.sampled_from(["application/json", "application/vnd.x+json; charset=utf-8", "text/json"]), JSON_VALUES
    ),
    st.tuples(st.none(), JSON_VALUES),
    st.tuples(st.sampled_from(["text/plain", "text/xml; charset=utf-8"]), PLAIN_TEXT),
    st.tuples(st.sampled_from(["application/octet-stream", "image/png"]), st.binary(min_size=1)),
    st.tuples(st.sampled_from([None, "application/json", "text/plain"]), st.none()),
)


@st.composite
def events(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> CloudEvent:
    """Draw a legal event."""
    content_type, data = draw(DATA)
    return CloudEvent(
        type=draw(text),
        source=draw(text),
        id=draw(text),
        subject=draw(st.none() | text),
        time=draw(st.none() | TIMES),
        datacontenttype=content_type,
        dataschema=draw(st.none() | text),
        extensions=draw(st.dictionaries(NAMES, EXTENSIONS if text is TEXT else text, max_size=3)),
        data=data,
    )


def wire(headers: dict[str, str]) -> Headers:
    """Give headers as a server reads them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def sdk2_folder(cache: Path) -> Path:
    """Install the SDK's 2.x line beside the environment, once per lock file and machine."""
    folder = cache / "oracles" / f"cloudevents2-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--require-hashes", "--target", part, "-r", LOCK], check=True, timeout=280)
            part.rename(folder)
    return folder


class Sdk2:
    """The SDK's 2.x line, asked over a pipe; it ends with this process."""

    def __init__(self, folder: Path) -> None:
        script = Path(__file__).with_name("helpers_sdk2_child.py")
        self._process = subprocess.Popen(
            [sys.executable, "-S", script, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def read(self, headers: dict[str, str], body: bytes) -> tuple[dict[str, Any], Any]:
        """Read a message: attributes (``time`` as ISO text) and data."""
        answer = self._ask({"do": "read", "headers": headers, "body": base64.b64encode(body).decode()})
        return answer["attributes"], _untagged(answer["data"])

    def write(self, how: str, attributes: dict[str, Any], data: Any) -> tuple[dict[str, str], bytes]:
        """Write an event in mode ``how``."""
        answer = self._ask({"do": how, "attributes": attributes, "data": tagged(data)})
        return answer["headers"], base64.b64decode(answer["body"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def tagged(data: Any) -> dict[str, Any]:
    """Make data fit for a pipe of JSON."""
    return {"bytes": base64.b64encode(data).decode()} if isinstance(data, bytes) else {"value": data}


def _untagged(data: dict[str, Any]) -> Any:
    return base64.b64decode(data["bytes"]) if "bytes" in data else data["value"]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
