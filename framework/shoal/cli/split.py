"""Traffic as typed to traffic as a platform takes it: revisions by short names, percents that sum to 100, tags.

A revision may be written as its name, its number (``2``), ``@latest``, or a tag
that points to it. Pure functions over a function's status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.core import names
from shoal.core.errors import NotFoundError, UsageError
from shoal.platform.port import FunctionStatus, Target

LATEST = "@latest"


def resolve(reference: str, function: FunctionStatus) -> str:
    """Give the full name of the revision ``reference`` means; NotFoundError lists those there are."""
    known = [revision.name for revision in function.revisions]
    if reference == LATEST and known:
        return known[0]
    by_tag = {target.tag: target.revision for target in function.traffic if target.tag}
    numbered = names.revision(function.name, int(reference)) if _is_number(reference) else ""
    for name in (reference, numbered, by_tag.get(reference, "")):
        if name in known:
            return name
    shown = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
    raise NotFoundError(
        f"{function.name} has no revision {reference!r}: it has {shown or 'none'}",
        hint=f"shoal status {function.name}",
    )


def percents(words: Sequence[str], function: FunctionStatus) -> dict[str, int]:
    """Read ``1=90 2=10``; one revision without a percent gets the rest. UsageError unless they sum to 100."""
    found: dict[str, int] = {}
    rest = ""
    for word in words:
        reference, sign, percent = word.rpartition("=") if "=" in word else (word, "", "")
        revision = resolve(reference, function)
        if revision in found or revision == rest:
            raise UsageError(f"{revision} is named twice")
        if sign:
            found[revision] = _percent(percent, word)
        elif rest:
            raise UsageError(f"{rest} and {revision} have no percent: one may go without and gets the rest")
        else:
            rest = revision
    return _complete(found, rest)


def targets(function: FunctionStatus, shares: Mapping[str, int], tags: Mapping[str, str]) -> list[Target]:
    """Write the split: one entry per share with its first tag, one with 0 percent for each other tag."""
    left = dict(tags)
    entries = []
    for revision in (one.name for one in function.revisions):
        mine = [tag for tag, owner in left.items() if owner == revision]
        if shares.get(revision) or mine:
            entries.append(Target(revision, shares.get(revision, 0), mine[0] if mine else ""))
        entries += [Target(revision, 0, tag) for tag in mine[1:]]
    return sorted(entries, key=lambda target: -target.percent)


def shares_of(function: FunctionStatus) -> dict[str, int]:
    """Give the percents now in effect, by revision."""
    found: dict[str, int] = {}
    for target in function.traffic:
        found[target.revision] = found.get(target.revision, 0) + target.percent
    return found


def percents_of(entries: Sequence[Target]) -> dict[str, int]:
    """Give the percents of a split by revision, without those that have none."""
    found: dict[str, int] = {}
    for target in entries:
        if target.percent:
            found[target.revision] = found.get(target.revision, 0) + target.percent
    return found


def told(entries: Sequence[Target]) -> str:
    """Write a split in one line, the largest share first: ``90 % greet-00001, 10 % greet-00002``."""
    shares = sorted(percents_of(entries).items(), key=lambda item: -item[1])
    return ", ".join(f"{percent} % {revision}" for revision, percent in shares)


def tags_of(function: FunctionStatus) -> dict[str, str]:
    """Give the tags now in effect: tag -> revision."""
    return {target.tag: target.revision for target in function.traffic if target.tag}


def retagged(function: FunctionStatus, new: Sequence[tuple[str, str]], gone: Sequence[str] = ()) -> dict[str, str]:
    """Give the tags after setting ``new`` (revision, tag) and removing ``gone``; a tag set again moves."""
    tags = tags_of(function)
    for tag in gone:
        if tag not in tags:
            raise NotFoundError(f"{function.name} has no tag {tag!r}: it has {', '.join(tags) or 'none'}")
        del tags[tag]
    for reference, tag in new:
        tags[names.check_tag(tag)] = resolve(reference, function)
    return tags


def _complete(found: dict[str, int], rest: str) -> dict[str, int]:
    total = sum(found.values())
    if rest and total <= 100:
        return {**found, rest: 100 - total}
    if total != 100:
        raise UsageError(
            f"the percents sum to {total}: they must sum to 100", hint="one revision may go without '=…'"
        )
    return found


def _percent(text: str, word: str) -> int:
    digits = text.strip().removesuffix("%")
    if not _is_number(digits) or int(digits) > 100:
        raise UsageError(f"{word!r}: a percent is a whole number from 0 to 100")
    return int(digits)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= names.REVISION_DIGITS
