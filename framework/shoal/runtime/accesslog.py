"""JSON lines: one per request, and one per record of the standard ``logging`` that a handler may use."""

from __future__ import annotations

import json
import logging
import time
import traceback
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final

from shoal.core.clock import Clock
from shoal.core.errors import ShoalError
from shoal.runtime import current
from shoal.runtime.lines import LineWriter
from shoal.runtime.settings import LOG_LEVELS

_LOGGING_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
HUNG_UP: Final = 499  # the caller left before the answer; never sent, only logged and counted


class Timestamps:
    """RFC 3339 times in UTC with milliseconds; within one millisecond the text is made once."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._millisecond = -1
        self._text = ""

    def now(self) -> str:
        """Give the time as ``2026-01-31T12:00:00.123Z``."""
        return self.text(self._now())

    def text(self, at: float) -> str:
        """Give a time, in seconds since the epoch, in the same form."""
        millisecond = int(at * 1000)
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            self._millisecond = millisecond
            self._text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:03d}Z"
        return self._text


class Log:
    """Everything a function process says, as JSON lines that carry service and revision."""

    def __init__(self, writer: LineWriter, clock: Clock, service: str, revision: str, level: str) -> None:
        self.writer = writer
        self._times = Timestamps(clock)
        self._labels = {"service": service, "revision": revision}
        self._labels_text = json.dumps(self._labels, separators=(",", ":"))[1:-1]
        self._rank = LOG_LEVELS.index(level)

    def takes(self, level: str) -> bool:
        """Say whether lines of this level are written."""
        return LOG_LEVELS.index(level) >= self._rank

    def request(
        self,
        trace_id: str,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        queue_s: float,
        error: ShoalError | None,
        at: float | None = None,
    ) -> None:
        """Write a finished request's line, on the loop's thread; a warning for 4xx, an error for 5xx.

        ``at`` is when it was finished, in seconds since the epoch; now, without it.
        """
        rank, level = (1, "info") if status < 400 else (2, "warning") if status < 500 else (3, "error")
        if rank < self._rank:
            return
        time_text = self._times.now() if at is None else self._times.text(at)
        queued = f"{queue_s * 1e3:.3f}" if queue_s else "0.000"
        self.writer.keep(
            f'{{"time":"{time_text}","level":"{level}","message":"request","trace_id":"{trace_id}",'
            f'"request_id":{quoted(request_id)},{self._labels_text},"method":"{method}","path":{quoted(path)},'
            f'"status":{status},"duration_ms":{seconds * 1e3:.3f},"queue_ms":{queued}'
            f"{'' if error is None else _about(error)}}}\n"
        )

    def say(self, level: str, message: str, **fields: Any) -> None:
        """Write one line with ``fields``; inside a request it carries the request's ids."""
        if self.takes(level):
            line = {
                "time": self._times.now(),
                "level": level,
                "message": message,
                **_ids(),
                **self._labels,
                **fields,
            }
            self.writer.write(json.dumps(line, default=str) + "\n")

    def failure(self, message: str, error: BaseException) -> None:
        """Write an exception with its whole traceback, for the log only."""
        text = "".join(traceback.format_exception(error))
        self.say("error", message, error=f"{type(error).__name__}: {error}", traceback=text)

    def adopt_logging(self) -> None:
        """Send the standard library's logging through here, from the same level on."""
        root = logging.getLogger()
        root.handlers[:] = [_Bridge(self)]
        root.setLevel(_LOGGING_LEVELS[LOG_LEVELS[self._rank]])


class _Bridge(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {"logger": record.name}
            if record.exc_info and record.exc_info[1]:
                fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
            self._log.say(_level_of(record.levelno), record.getMessage(), **fields)
        except Exception:
            self.handleError(record)


def _level_of(number: int) -> str:
    return next((name for name in reversed(LOG_LEVELS) if number >= _LOGGING_LEVELS[name]), "debug")


def _ids() -> dict[str, str]:
    context = current.context.get()
    return {} if context is None else {"trace_id": context.traceparent[3:35], "request_id": context.request_id}


def _about(error: ShoalError) -> str:
    return f',"component":"{error.component}","code":"{error.code}","detail":{quoted(error.message)}'
