"""What a deployment brings to the cluster besides manifests: the function's image, and its models' versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shoal.core.errors import UsageError
from shoal.core.packages import cache_folder
from shoal.models import contract
from shoal.models.repository import ModelRepository
from shoal.platform.knative.settings import Settings
from shoal.platform.local.client import find_repository
from shoal.spec.function import FunctionSpec

Note = Callable[[str], None]


class Supply(Protocol):
    """Where images and models come from."""

    def image(self, folder: Path, spec: FunctionSpec, note: Note) -> str:
        """Build and push a function's image; give the reference pods use, with its digest."""
        ...

    def versions(
        self, folder: Path, wanted: Mapping[str, str], declared: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        """Resolve alias -> model to alias -> exact version, held against what the handler declares."""
        ...

    def send_models(self, folder: Path, models: Mapping[str, str]) -> None:
        """Bring versions (model -> exact version) to where the pool's agents find them."""
        ...


class Registries:
    """Images built here and pushed; models from ``triton-repo/``, sent to the same registry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def image(self, folder: Path, spec: FunctionSpec, note: Note) -> str:
        """Build and push; what is in cache and registry is not made or sent again. Raises as shoal.image does."""
        from shoal.image import base, blobs, build, compose
        from shoal.image.reference import Reference

        registry, mtime = self._registry(), compose.source_date(os.environ)
        found = base.resolve(
            self._settings.base, blobs.BlobStore(cache_folder() / "images"), self._connect(), mtime=mtime
        )

        def report(step: build.Step) -> None:
            if step.state == "done":
                note(f"{step.name} {step.detail}")

        image = build.build(folder, spec, base=found, cache=cache_folder(), report=report, mtime=mtime)
        tag = image.digest.removeprefix("sha256:")[:12]
        build.push(image, Reference.parse(f"{registry}/{spec.name}:{tag}"), connect=self._connect(), report=report)
        return f"{self._settings.pull}/{spec.name}@{image.digest}"

    def versions(
        self, folder: Path, wanted: Mapping[str, str], declared: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        """Resolve and check; UsageError for a model that is not there, ContractError for a tensor that differs."""
        repository = self._repository(folder, wanted)
        found = {alias: repository.version(model) for alias, model in wanted.items()}
        for one in declared:
            contract.check(
                str(one["name"]),
                found[str(one["name"])].signature,
                inputs=one.get("inputs"),
                outputs=one.get("outputs"),
                called_inputs=one.get("called_inputs") or (),
                used_outputs=one.get("used_outputs") or (),
            )
        return {alias: version.name for alias, version in found.items()}

    def send_models(self, folder: Path, models: Mapping[str, str]) -> None:
        """Materialise each version in the cache and push what the registry lacks of it."""
        from shoal.image import blobs
        from shoal.platform.knative import install_images

        repository, cache = self._repository(folder, models), cache_folder()
        store = blobs.BlobStore(cache / "images")
        for model in models:
            version = repository.materialise(model, cache / "models")
            install_images.push_model(cache / "models" / version.name, store, self._registry(), self._connect())

    # Inside.

    def _connect(self) -> Any:
        from shoal.image import base
        from shoal.image.registry import plain_hosts

        return base.connect(plain_hosts({"SHOAL_PLAIN_HTTP": self._settings.plain_http}))

    def _registry(self) -> str:
        if self._settings.registry:
            return self._settings.registry
        raise UsageError(
            "no registry is set, which the cluster pulls images from",
            hint="registry: HOST[:PORT][/PATH] in the settings, or SHOAL_REGISTRY",
        )

    def _repository(self, folder: Path, wanted: Mapping[str, str]) -> ModelRepository:
        root = find_repository(folder)
        if root is None:
            names = ", ".join(sorted(wanted.values()))
            raise UsageError(
                f"the function needs the model {names}; there is no triton-repo/ above {folder}",
                hint="SHOAL_MODEL_REPOSITORY=DIR shoal deploy …",
            )
        return ModelRepository(root, cache_folder())
