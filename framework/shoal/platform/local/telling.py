"""The messages that tell gateway, broker and pool what to do, made from the state as it is at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shoal.platform.local import documents
from shoal.platform.local.state import State


def routes(state: State, endpoints: Callable[[str], list[tuple[str, int]]]) -> dict[str, Any]:
    """Give the gateway's table; ``endpoints`` lists a revision's ready instances as (instance, port)."""
    functions: dict[str, Any] = {}
    revisions: dict[str, Any] = {}
    for name in state.function_names():
        known, targets = state.revisions(name), state.traffic(name)
        functions[name] = documents.function_route(targets, known)
        reachable = {target.revision for target in targets}
        for revision in known:
            if revision.name in reachable:
                ready = {revision.name: endpoints(revision.name)}
                revisions[revision.name] = documents.revision_route(revision, ready)
    return {"generation": state.next_generation(), "functions": functions, "revisions": revisions}


def triggers(state: State, gateway: str) -> dict[str, Any]:
    """Give the broker's triggers; ``gateway`` is where it delivers."""
    found = [
        trigger
        for name in state.function_names()
        for trigger in documents.triggers(name, state.traffic(name), state.revisions(name))
    ]
    return {"generation": state.next_generation(), "gateway": gateway, "triggers": found}


def models(state: State, leases: Iterable[set[str]]) -> list[str]:
    """Name the model versions the pool should hold: those functions keep, and ``leases`` of work under way."""
    kept = [documents.leased(state.revisions(name), state.traffic(name)) for name in state.function_names()]
    return sorted(set[str]().union(*kept, *leases))
