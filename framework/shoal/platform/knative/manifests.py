"""A folder's manifests without a cluster: what ``shoal render`` prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shoal.platform.knative import render
from shoal.platform.knative.describe import describe
from shoal.platform.knative.objects import Object
from shoal.platform.knative.settings import Settings
from shoal.platform.knative.supply import Registries
from shoal.spec.function import load


def of_folder(folder: Path, settings: Settings, image: str, note: Callable[[str], None]) -> list[Object]:
    """Give a function's manifests; without ``image`` one is built and pushed, as a deployment does.

    Raises SpecError, ContractError or UsageError with the one reason.
    """
    folder = folder.expanduser().resolve()
    spec = load(folder)
    described = describe(folder, spec)
    supply = Registries(settings)
    wanted = described.wanted(spec)
    versions = supply.versions(folder, wanted, described.models) if wanted else {}
    plan = render.plan(spec, image or supply.image(folder, spec, note), versions, described.event_types)
    return render.documents(plan, settings.namespace)
