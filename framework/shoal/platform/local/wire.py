"""The port's values as JSON between node and client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shoal.platform.port import Component, Deployment, FunctionStatus, PlatformStatus, RevisionStatus, Stage, Target


def encode(value: Any) -> dict[str, Any]:
    """Give the JSON form of one of the port's values."""
    return asdict(value)


def stage(value: Mapping[str, Any]) -> Stage:
    """Read a Stage."""
    return Stage(**value)


def deployment(value: Mapping[str, Any]) -> Deployment:
    """Read a Deployment."""
    return Deployment(**value)


def target(value: Mapping[str, Any]) -> Target:
    """Read a Target."""
    return Target(**value)


def function_status(value: Mapping[str, Any]) -> FunctionStatus:
    """Read a FunctionStatus."""
    traffic = tuple(target(item) for item in value["traffic"])
    revisions = tuple(RevisionStatus(**{**item, "tags": tuple(item["tags"])}) for item in value["revisions"])
    return FunctionStatus(**{**value, "traffic": traffic, "revisions": revisions})


def platform_status(value: Mapping[str, Any]) -> PlatformStatus:
    """Read a PlatformStatus."""
    components = tuple(Component(**item) for item in value["components"])
    return PlatformStatus(components, value["models"])
