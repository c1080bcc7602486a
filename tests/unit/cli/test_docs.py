"""docs/cli.md names every verb and exit code as the program does."""

from __future__ import annotations

from pathlib import Path

from shoal.cli import exits
from shoal.cli.root import VERBS

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def rows(first: str) -> dict[str, str]:
    """Read the table whose header row begins with ``first``."""
    lines = PAGE.partition(f"| {first} |")[2].splitlines()[2:]
    table = {}
    for line in lines:
        if not line.startswith("|"):
            break
        key, value = (cell.strip() for cell in line.strip("|").split("|"))
        table[key.strip("`")] = value
    return table


def test_every_verb_is_listed_with_its_own_words() -> None:
    assert rows("verb") == {f"shoal {verb}": words for verb, words in VERBS.items()}


def test_every_exit_code_is_listed_with_its_meaning() -> None:
    assert rows("code") == {str(code): meaning for code, meaning in exits.MEANINGS.items()}
