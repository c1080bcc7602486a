"""What the agent does follows from what is wanted, what is held and what was checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.pool.agent import Action, plan

READY = ("READY", "")


@pytest.mark.parametrize(
    ("wanted", "held", "checked", "steps"),
    [
        ([], {}, [], []),
        (["a"], {}, [], ["load a"]),
        (["a"], {"a": READY}, ["a"], []),
        (["a"], {"a": READY}, [], ["load a"]),  # held before this agent came: its interface was never compared
        (["a"], {"a": ("UNAVAILABLE", "no")}, ["a"], ["load a"]),
        (["b"], {"a": READY, "b": READY}, ["a", "b"], ["unload a"]),
        (["b", "c"], {"a": READY, "x": ("LOADING", "")}, ["a"], ["unload a", "unload x", "load b", "load c"]),
        ([], {"a": ("UNAVAILABLE", "unloaded"), "b": ("", ""), "c": ("UNLOADING", "")}, [], []),
    ],
)
def test_the_plan(
    wanted: list[str], held: dict[str, tuple[str, str]], checked: list[str], steps: list[str]
) -> None:
    assert [f"{step.verb} {step.model}" for step in plan(wanted, held, checked)] == steps


NAMES = st.sampled_from("abcde")
STATES = st.sampled_from(["READY", "UNAVAILABLE", "LOADING", "UNLOADING", ""])


@given(st.sets(NAMES), st.dictionaries(NAMES, st.tuples(STATES, st.just(""))), st.sets(NAMES))
def test_after_the_plan_nothing_is_left_to_do(
    wanted: set[str], held: dict[str, tuple[str, str]], checked: set[str]
) -> None:
    steps = plan(wanted, held, checked)
    for step in steps:
        held = held | {step.model: READY if step.verb == "load" else ("UNAVAILABLE", "unloaded")}
    assert plan(wanted, held, checked | wanted) == []
    assert {step.model for step in steps if step.verb == "load"} <= wanted
    assert not {step.model for step in steps if step.verb == "unload"} & wanted
    verbs = [step.verb for step in steps]
    assert verbs == sorted(verbs, reverse=True), "unloads come first"
    assert all(isinstance(step, Action) for step in steps)
