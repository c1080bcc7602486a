"""Whether this process should get requests: kept here, so that a probe reads it and asks nobody."""

from __future__ import annotations


class Readiness:
    """What still stands in the way, each with its reason; requests are served from the first time nothing does.

    Afterwards a model that is lost turns the probe, not the requests: a handler may not need it, and if it does,
    its own error is the better answer.
    """

    def __init__(self) -> None:
        self.serving = False
        self.draining = False
        self._reasons: dict[str, str] = {}

    @property
    def ready(self) -> bool:
        """Say what the readiness probe answers."""
        return self.serving and not self.draining and not self._reasons

    @property
    def reason(self) -> str:
        """Say why it is not ready; empty when it is."""
        if self.draining:
            return "the process was told to stop"
        if self._reasons:
            return "; ".join(self._reasons.values())
        return "" if self.serving else "the process is starting"

    def wait_for(self, what: str, reason: str) -> None:
        """Not ready from now on, until ``clear(what)``."""
        self._reasons[what] = reason

    def clear(self, what: str) -> None:
        """Take ``what`` off the list; with nothing left, requests are served from now on."""
        self._reasons.pop(what, None)
        self.open_if_clear()

    def open_if_clear(self) -> None:
        """Serve requests if nothing stands in the way."""
        if not self._reasons:
            self.serving = True
