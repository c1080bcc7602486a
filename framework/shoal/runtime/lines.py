"""Lines on their way out: kept for a moment, written together by a thread, dropped and counted when nobody reads.

A log reader that stalls blocks whoever writes to it. Here that is a thread of its own, never the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from queue import SimpleQueue

from shoal.core.limits import LOG_BUFFER_BYTES_MAX, LOG_FLUSH_BYTES, LOG_FLUSH_SECONDS


class LineWriter:
    """Writes whole lines to a file descriptor; ``write`` may be called from any thread.

    Until ``attach`` and after ``close`` a line is written at once.
    """

    def __init__(self, fd: int) -> None:
        self.dropped = 0  # lines
        self._fd = fd
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home = 0  # the loop's thread
        self._lines: list[str] = []
        self._chars = 0
        self._timer: asyncio.TimerHandle | None = None
        self._batches: SimpleQueue[bytes | None] = SimpleQueue()
        self._handed = 0  # bytes; changed by the loop only
        self._written = 0  # bytes; changed by the thread only
        self._thread: threading.Thread | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Buffer from now on; called on the loop's thread."""
        self._loop = loop
        self._home = threading.get_ident()

    def write(self, line: str) -> None:
        """Take one line, its newline included."""
        if self._loop is None:
            _write_all(self._fd, line.encode())
        elif threading.get_ident() == self._home:
            self.keep(line)
        else:
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile
                self._loop.call_soon_threadsafe(self.keep, line)

    def keep(self, line: str) -> None:
        """Take one line on the loop's thread, for the next flush."""
        self._lines.append(line)
        self._chars += len(line)
        if self._chars >= LOG_FLUSH_BYTES:
            self.flush()
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(LOG_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand what is kept to the thread, or drop it when the thread is too far behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        lines, self._lines, self._chars = self._lines, [], 0
        if self._handed - self._written > LOG_BUFFER_BYTES_MAX:
            self.dropped += len(lines)
            return
        batch = "".join(lines).encode()
        self._handed += len(batch)
        self._start()
        self._batches.put(batch)

    def close(self, timeout_s: float) -> None:
        """Flush and wait for the thread, at most ``timeout_s`` seconds."""
        self.flush()
        self._loop = None
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shoal-log", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            _write_all(self._fd, batch)
            self._written += len(batch)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(OSError):  # the reader is gone: there is nobody to tell
        while view:
            view = view[os.write(fd, view) :]
