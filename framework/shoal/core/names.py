"""Names: what a function, a revision, a tag and a model version may be called."""

from __future__ import annotations

import re
from typing import Final

from shoal.core.errors import UsageError
from shoal.core.text import bounded

LABEL_CHARS_MAX: Final = 63  # RFC 1035; Knative puts "<tag>-<name>" into one label
FUNCTION_CHARS_MAX: Final = 40  # leaves room for "-00001" and for a tag in one label
REVISION_DIGITS: Final = 5
HASH_CHARS: Final = 12  # 48 bits of SHA-256: one name in 2**24 versions collides with probability 1e-7

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MODEL = re.compile(r"[a-zA-Z0-9][-_.a-zA-Z0-9]*")


def check_function(name: str) -> str:
    """Return ``name`` if a function may have it, else raise UsageError with the rule."""
    return _check_label("function", name, FUNCTION_CHARS_MAX)


def check_tag(name: str) -> str:
    """Return ``name`` if a traffic tag may have it, else raise UsageError with the rule."""
    return _check_label("tag", name, LABEL_CHARS_MAX - FUNCTION_CHARS_MAX - 1)


def check_model(name: str) -> str:
    """Return ``name`` if a model in the repository may have it, else raise UsageError with the rule."""
    if _MODEL.fullmatch(name) and "--" not in name and len(name) <= LABEL_CHARS_MAX:
        return name
    raise UsageError(
        f"model name {_shown(name)} is not usable: letters, digits, '.', '_' and single '-', "
        f"{LABEL_CHARS_MAX} characters at most ('--' separates the version)"
    )


def revision(function: str, number: int) -> str:
    """Name the ``number``-th revision of a function, as Knative does: ``filetype-00002``."""
    return f"{function}-{number:0{REVISION_DIGITS}d}"


def model_version(model: str, digest: str) -> str:
    """Name a model version by content: ``magika--3f2a9c1d22e0`` (``digest``: hexadecimal SHA-256)."""
    return f"{model}--{digest[:HASH_CHARS]}"


def model_of(version: str) -> str:
    """Give the model a version name belongs to: ``magika--3f2a9c1d22e0`` -> ``magika``."""
    return version.partition("--")[0]


def _shown(name: str) -> str:
    return repr(bounded(name, 2 * LABEL_CHARS_MAX))


def _check_label(what: str, name: str, chars_max: int) -> str:
    if _LABEL.fullmatch(name) and len(name) <= chars_max:
        return name
    raise UsageError(
        f"{what} name {_shown(name)} is not usable: lower-case letters, digits and '-', starting with a letter, "
        f"ending with a letter or digit, {chars_max} characters at most"
    )
