"""The port's values as JSON between node and client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shoal.platform.local.records import handler_info
from shoal.platform.port import (
    Component,
    Deployment,
    FunctionStatus,
    PlatformStatus,
    RevisionStatus,
    Stage,
    Target,
    TriggerInfo,
)


def encode(value: Any) -> dict[str, Any]:
    """Give the JSON form of one of the port's values."""
    return asdict(value)


def stage(value: Mapping[str, Any]) -> Stage:
    """Read a Stage."""
    return Stage(**value)


def deployment(value: Mapping[str, Any]) -> Deployment:
    """Read a Deployment."""
    splits = {key: tuple(target(item) for item in value[key]) for key in ("traffic", "replaced")}
    return Deployment(**{**value, **splits})


def target(value: Mapping[str, Any]) -> Target:
    """Read a Target."""
    return Target(**value)


def function_status(value: Mapping[str, Any]) -> FunctionStatus:
    """Read a FunctionStatus."""
    traffic = tuple(target(item) for item in value["traffic"])
    revisions = tuple(RevisionStatus(**{**item, "tags": tuple(item["tags"])}) for item in value["revisions"])
    handlers = tuple(handler_info(item) for item in value["handlers"])
    triggers = tuple(TriggerInfo(**item) for item in value["triggers"])
    return FunctionStatus(
        **{**value, "traffic": traffic, "revisions": revisions, "handlers": handlers, "triggers": triggers}
    )


def platform_status(value: Mapping[str, Any]) -> PlatformStatus:
    """Read a PlatformStatus."""
    components = tuple(Component(**item) for item in value["components"])
    return PlatformStatus(components, value["models"])
