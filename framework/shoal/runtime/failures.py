"""Why a handler's file could not be used: the exception's type and message, and the line of the user's code."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from shoal.core.errors import ShoalError
from shoal.core.text import bounded
from shoal.runtime.settings import Settings

# Modules whose package has another name.
_PACKAGES: Final = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One exception, as a person reads it; ``where`` is ``file:line`` of the user's code, or empty."""

    type: str
    message: str
    where: str
    last_line: str  # of the traceback

    def as_json(self) -> dict[str, str]:
        """Give the fields for a JSON line."""
        return asdict(self)


def failure_of(error: BaseException, folder: Path) -> Failure:
    """Describe ``error``, its texts bounded; the line is the deepest one inside ``folder``, the handler's."""
    message = bounded(error.message if isinstance(error, ShoalError) else str(error))
    last_line = bounded(traceback.format_exception_only(error)[-1].strip())
    return Failure(type(error).__name__, message, _where(error, folder.resolve()), last_line)


def hint_of(error: BaseException, folder: Path) -> str:
    """Give the next edit: an error's own hint, or where to pin a package that is not there; empty without one."""
    if isinstance(error, ShoalError):
        return error.hint
    if not isinstance(error, ModuleNotFoundError) or not error.name or "." in error.name:
        return ""
    file = "requirements.lock" if (folder / "requirements.lock").is_file() else "requirements.txt"
    return f"add {_PACKAGES.get(error.name, error.name)}==VERSION to {folder / file}"


def report(stage: str, error: BaseException, settings: Settings) -> None:
    """Write one JSON line on standard error: why the process could not start, and at which stage."""
    about = failure_of(error, settings.source).as_json()
    hint = {"hint": told} if (told := hint_of(error, settings.source)) else {}
    labels = {"service": settings.service, "revision": settings.revision}
    print(json.dumps({"level": "error", "stage": stage, **about, **hint, **labels}), file=sys.stderr, flush=True)


def _where(error: BaseException, folder: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(folder)]
    return f"{ours[-1].filename}:{ours[-1].lineno}" if ours else ""
