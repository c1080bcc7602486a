"""``shoal check``: what a deployment would find wrong, without a platform."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import options, show, terminal
from shoal.cli.session import Session, pass_session
from shoal.core.errors import DeployError
from shoal.core.folders import code_files
from shoal.core.limits import DESCRIBE_SECONDS_MAX
from shoal.core.packages import cache_folder

if TYPE_CHECKING:
    from shoal.spec.function import FunctionSpec


@click.command("check")
@options.folder
@options.common
@pass_session
def command(session: Session, folder: Path) -> None:
    """Check a function's folder without deploying it.

    Reads function.yaml, imports the handler in a process of its own, and holds what it says about its models
    against the model repository: SHOAL_MODEL_REPOSITORY, else triton-repo/ in a folder above. Where there is none,
    a function with models fails: nothing is known about them.
    """
    from shoal.platform.local.records import handler_info
    from shoal.spec.function import load

    spec = load(folder)
    code_files(folder)
    found = describe(folder, spec)
    if not session.as_json:
        for handler in found["handlers"]:
            terminal.out(show.handler(handler_info(handler)))
    versions = _hold_to_contract(folder, spec, found)
    if session.as_json:
        terminal.out_json({"function": spec.name, **found, "versions": versions})
        return
    for model in found["models"]:
        terminal.out(f"model {model['name']}: {versions[model['name']]}")
    terminal.note(f"{spec.name} can be deployed")


def describe(folder: Path, spec: FunctionSpec) -> dict[str, Any]:
    """Import the handler in a process of its own and give what it declares; raises what that process reports."""
    from shoal.platform.local import descriptions, environment, packages

    argv = [sys.executable, "-m", "shoal.runtime.describe", str(folder), spec.handler]
    installed = packages.install(packages.wanted(folder), cache_folder())
    env = {**os.environ, **spec.env, "K_SERVICE": spec.name, **environment.with_packages(installed)}
    try:
        ended = subprocess.run(argv, env=env, capture_output=True, timeout=DESCRIBE_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise DeployError(f"importing {spec.handler} took over {DESCRIBE_SECONDS_MAX:g} s") from None
    lines = [*_lines(ended.stderr), *_lines(ended.stdout)]
    return asdict(descriptions.read(ended.returncode, lines, spec.handler))


def _lines(output: bytes) -> list[str]:
    return output.decode("utf-8", "replace").splitlines()


def _hold_to_contract(folder: Path, spec: FunctionSpec, found: Mapping[str, Any]) -> dict[str, str]:
    """Check each declared model against the repository; alias -> exact version. DeployError without one."""
    if not found["models"]:
        return {}
    from shoal.models import contract
    from shoal.models.repository import ModelRepository
    from shoal.platform.local.client import find_repository

    root = find_repository(folder.resolve())
    if root is None:
        names = ", ".join(str(model["name"]) for model in found["models"])
        raise DeployError(
            f"cannot say: model {names} not checked, no model repository above {folder}",
            hint=f"SHOAL_MODEL_REPOSITORY=DIR shoal check {folder}",
        )
    repository = ModelRepository(root, cache_folder())
    versions = {}
    for declared in found["models"]:
        alias = str(declared["name"])
        version = repository.version((spec.models or {}).get(alias, alias))
        contract.check(
            alias,
            version.signature,
            inputs=declared.get("inputs"),
            outputs=declared.get("outputs"),
            called_inputs=declared.get("called_inputs") or (),
            used_outputs=declared.get("used_outputs") or (),
        )
        versions[alias] = version.name
    return versions
