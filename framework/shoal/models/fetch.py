"""``python -m shoal.models.fetch [REPOSITORY]``: bring every model's weights into the cache ahead of time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shoal.core.errors import ShoalError
from shoal.models.repository import ModelRepository


def main() -> int:
    """Fetch; 0 when every file is here and has its digest, 1 with the reason when not."""
    parser = argparse.ArgumentParser(prog="python -m shoal.models.fetch", description=__doc__)
    parser.add_argument("repository", type=Path, nargs="?", default=Path("triton-repo"))
    repository = ModelRepository(parser.parse_args().repository)
    try:
        for model in repository.names():
            print(repository.fetch(model).name)
    except ShoalError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
