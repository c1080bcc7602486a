"""Run as a script by the image's version of Python: compile sources to unchecked-hash files, one after the other.

Standard input: a JSON list of [source, path in the image, where to write]. A source that does not compile is left
out, as templates and code for other versions are; Python names the mistake when it is imported.
"""

from __future__ import annotations

import _imp
import json
import marshal
import sys
import warnings
from importlib.util import MAGIC_NUMBER

_UNCHECKED_HASH = 0b01


def main() -> None:
    """Compile everything listed on standard input."""
    warnings.simplefilter("ignore")
    raw_key = int.from_bytes(MAGIC_NUMBER[:2], "little")
    for source, shown, made in json.load(sys.stdin):
        with open(source, "rb") as file:
            data = file.read()
        try:
            code = compile(data, shown, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        header = MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + _imp.source_hash(raw_key, data)
        with open(made, "wb") as file:
            file.write(header + marshal.dumps(code))


if __name__ == "__main__":
    main()
