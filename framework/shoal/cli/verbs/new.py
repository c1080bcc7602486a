"""``shoal new``: a folder with a function that works at once."""

from __future__ import annotations

import keyword
import shlex
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import click

from shoal.cli import options, terminal
from shoal.cli.session import Session, pass_session
from shoal.core.errors import ConflictError, UsageError
from shoal.core.names import check_function

TEMPLATES: Final = ("http", "event", "model")
FILES: Final = ("function.yaml", "handler.py", "test_handler.py")


@click.command("new")
@click.argument("path", metavar="NAME", type=click.Path(path_type=Path))
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default="http",
    show_default=True,
    help="What it does at first: see above.",
)
@options.common
@pass_session
def command(session: Session, path: Path, template: str) -> None:
    """Make a folder with a function that works at once.

    NAME is a new folder, its last part the function's name: handler.py, function.yaml and test_handler.py. Nothing
    that is there is overwritten.

    \b
    Templates:
      http   answers HTTP requests with JSON
      event  takes a CloudEvent and answers with another
      model  asks the model magika which kind of file it was sent
    """
    made = write(options.check_path(path), template)
    if session.as_json:
        terminal.out_json({"function": path.name, "folder": str(path), "files": [str(one) for one in made]})
        return
    for one in made:
        terminal.out(str(one))
    place = shlex.quote(str(path))
    terminal.note(f"{terminal.strong('test:')} cd {place} && python -m unittest   (or pytest)")
    terminal.note(f"{terminal.strong('next:')} shoal deploy {place}")


def write(folder: Path, template: str) -> list[Path]:
    """Write the template's files; ConflictError, and nothing written, when one is already there."""
    name = check_function(folder.absolute().name)
    targets = [folder / file for file in FILES]
    if there := [target for target in targets if target.exists() or target.is_symlink()]:
        raise ConflictError(f"{there[0]} is already there: nothing was written", hint=f"shoal deploy {folder}")
    texts = [_text(template, file, name) for file in FILES]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, text in zip(targets, texts, strict=True):
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    return targets


def _text(template: str, file: str, name: str) -> str:
    source = files("shoal.cli") / "templates" / template / f"{file}.tmpl"
    return Template(source.read_text("utf-8")).substitute(name=name, ident=identifier(name))


def identifier(name: str) -> str:
    """Give a Python name for a function's name: ``my-function`` -> ``my_function``."""
    word = name.replace("-", "_")
    return f"{word}_" if keyword.iskeyword(word) or keyword.issoftkeyword(word) or word in _TAKEN else word


_TAKEN: Final = frozenset({"http", "event", "model", "answers", "magika", "handler", "body", "data", "name"})
