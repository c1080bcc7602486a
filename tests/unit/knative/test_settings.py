"""Where a setting comes from, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.core.errors import UsageError
from shoal.platform.knative.settings import load, path


def env(tmp_path: Path, text: str | None = None, **variables: str) -> dict[str, str]:
    if text is None:
        return {"XDG_CONFIG_HOME": str(tmp_path), **variables}
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return {"SHOAL_SETTINGS": str(file), **variables}


def test_without_anything_it_is_this_machine(tmp_path: Path) -> None:
    found = load(env(tmp_path))
    assert (found.target, found.base, found.namespace) == ("local", "debian", "")


def test_what_is_typed_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    text = "target: cluster\nnamespace: file\ncontext: file\nregistry: file.example\n"
    found = load(env(tmp_path, text, SHOAL_NAMESPACE="env", SHOAL_CONTEXT="env"), namespace="typed", context="")
    assert (found.target, found.registry, found.context, found.namespace) == (
        "cluster",
        "file.example",
        "env",
        "typed",
    )


def test_pods_name_the_registry_as_it_is_pushed_to_unless_told(tmp_path: Path) -> None:
    assert load(env(tmp_path, SHOAL_REGISTRY="a.example")).pull == "a.example"
    assert load(env(tmp_path, SHOAL_REGISTRY="a.example", SHOAL_REGISTRY_PULL="b.example")).pull == "b.example"


def test_the_file_is_in_the_users_configuration(tmp_path: Path) -> None:
    assert path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "shoal" / "settings.yaml"
    assert path({"SHOAL_SETTINGS": "/x/y.yaml"}) == Path("/x/y.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("targett: cluster\n", "unknown key 'targett'"),
        ("target: mars\n", "no target 'mars'"),
        ("namespace: 3\n", "it must be text"),
        ("[1]\n", "not a mapping"),
        ("a: [\n", "not YAML"),
        ("gateway: example.com\n", "must begin with http"),
        ("registry: http://example.com\n", "without a scheme"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(env(tmp_path, text))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not there"):
        load({"SHOAL_SETTINGS": str(tmp_path / "none.yaml")})
