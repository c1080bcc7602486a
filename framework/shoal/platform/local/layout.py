"""Where the local platform keeps its things: one folder, so that moving or removing it moves or removes all."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core.errors import UsageError

HOME_VARIABLE: Final = "SHOAL_HOME"
_SOCKET_PATH_BYTES_MAX: Final = 107  # sockaddr_un on Linux, less the final zero
_LONGEST_SOCKET: Final = "gateway.sock"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one local platform and the names in it."""

    root: Path

    @property
    def database(self) -> Path:
        """Functions, revisions, traffic and its history."""
        return self.root / "platform.db"

    @property
    def revisions(self) -> Path:
        """One folder per revision, an immutable copy of its code."""
        return self.root / "revisions"

    @property
    def models(self) -> Path:
        """Triton's model repository."""
        return self.root / "models"

    @property
    def logs(self) -> Path:
        """One file per component and per revision."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets, the lock and what describes the running processes; worthless once they are gone."""
        return self.root / "run"

    @property
    def scratch(self) -> Path:
        """Temporary folders of function instances."""
        return self.run / "tmp"

    @property
    def lock(self) -> Path:
        """The file whose lock the node holds as long as it lives."""
        return self.run / "node.lock"

    @property
    def card(self) -> Path:
        """Who runs and where: pids and addresses, written by the node."""
        return self.run / "node.json"

    def socket(self, component: str) -> Path:
        """Control socket of a component."""
        return self.run / f"{component}.sock"

    def log(self, name: str) -> Path:
        """Log file of a component or a revision."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Create the folders; UsageError when sockets in them would have too long a path or they cannot be made."""
        longest = os.fsencode(self.run / _LONGEST_SOCKET)
        if len(longest) > _SOCKET_PATH_BYTES_MAX:
            raise UsageError(
                f"{self.root} is too long a path: "
                f"a socket's may have {_SOCKET_PATH_BYTES_MAX} bytes, {_LONGEST_SOCKET} in it has {len(longest)}",
                hint=f"{HOME_VARIABLE}=~/.shoal shoal up",
            )
        try:
            for folder in (self.root, self.revisions, self.models, self.logs, self.run, self.scratch):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise OSError(errno.EACCES, f"{folder} cannot be written to")
            self._close_to_others()
        except OSError as error:
            raise UsageError(
                f"{self.root} cannot be used: {error.strerror}", hint=f"{HOME_VARIABLE}=DIR"
            ) from error

    def _close_to_others(self) -> None:
        """Let only the owner in, also where the folder was there before: the sockets in it take any command."""
        owner = self.root.stat().st_uid
        if owner != os.getuid():
            raise UsageError(
                f"{self.root} belongs to user {owner}, not to you ({os.getuid()})", hint=f"{HOME_VARIABLE}=DIR"
            )
        self.root.chmod(0o700)
        self.run.chmod(0o700)


def home_of(value: str | Path | None = None) -> Home:
    """Give the home named by ``value``, else by SHOAL_HOME, else ``~/.shoal``."""
    chosen = value or os.environ.get(HOME_VARIABLE) or Path.home() / ".shoal"
    return Home(Path(chosen).expanduser().absolute())
