"""Requests to a replica: what is the same for every call is made once, the rest when a connection is there."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from shoal.core.errors import ModelDeadlineError, ModelInputError
from shoal.core.limits import POOL_BUDGET_SECONDS_MIN, POOL_MARGIN_SECONDS
from shoal.triton.codec import Call, Codec
from shoal.triton.inputs import Buffer
from shoal.triton.replica import Replica


class Plan:
    """What is the same for every call to one model."""

    __slots__ = ("codec", "model", "start")

    def __init__(self, model: str, codec: Codec) -> None:
        self.model = model
        self.codec = codec
        self.start = (
            f"POST /v2/models/{quote(model, safe='')}/infer HTTP/1.1\r\nContent-Type: application/octet-stream\r\n"
        )


class InferRequest:
    """One inference request, written out when a connection is there: its timeout is what is left then."""

    __slots__ = ("call", "lines", "model", "plan", "priority", "request_id")

    def __init__(self, plan: Plan, call: Call, request_id: str, lines: str, priority: int) -> None:
        self.model = plan.model
        self.plan = plan
        self.call = call
        self.request_id = request_id
        self.lines = lines
        self.priority = priority

    def parts(self, replica: Replica, seconds: float) -> list[Buffer]:
        """Give the bytes to send, ``seconds`` before the deadline."""
        call = self.call
        timeout_us = int((seconds - POOL_MARGIN_SECONDS) * 1e6)
        json = call.json(self.request_id, timeout_us, self.priority)
        head = (
            f"{self.plan.start}Host: {replica.address}\r\n{self.lines}"
            f"Inference-Header-Content-Length: {len(json)}\r\n"
            f"Content-Length: {len(json) + call.nbytes}\r\n\r\n{json}"
        )
        return [head.encode("ascii"), *call.buffers]


class Question:
    """A question about a model."""

    __slots__ = ("_path", "model")

    def __init__(self, model: str, path: str) -> None:
        self.model = model
        self._path = path

    def parts(self, replica: Replica, seconds: float) -> list[Buffer]:
        """Give the bytes to send."""
        return [f"GET {self._path} HTTP/1.1\r\nHost: {replica.address}\r\n\r\n".encode("ascii")]


def budget_left(seconds: float, model: str) -> float:
    """Give ``seconds`` back, or raise ModelDeadlineError when they are too few to send anything."""
    if seconds < POOL_BUDGET_SECONDS_MIN:
        raise ModelDeadlineError(
            f"{max(0.0, seconds) * 1e3:.1f} ms are left for model {model}, "
            f"a call needs {POOL_BUDGET_SECONDS_MIN * 1e3:.0f} ms or more"
        )
    return seconds


def header_lines(headers: Mapping[str, str]) -> str:
    """Write extra request headers; one that could end its line is the caller's mistake."""
    lines = ""
    for name, value in headers.items():
        if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
            raise ModelInputError(f"header {name!r:.80} has the value {value!r:.80}: printable ASCII only")
        lines += f"{name}: {value}\r\n"
    return lines
