"""The manifests under ``knative/``, rendered: the part of kustomize they use, so that installing needs no kubectl.

``kubectl kustomize`` renders the same, and a test compares the two. Understood are ``resources`` (files and
folders), ``patches`` (strategic merges by ``path``), ``replicas`` and ``images``; anything else is an error.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import SpecError, UsageError
from shoal.platform.knative.objects import Object

KUSTOMIZATION: Final = "kustomization.yaml"
_KNOWN: Final = frozenset({"apiVersion", "kind", "resources", "patches", "replicas", "images"})
# Lists that merge by a key of their elements, as the Kubernetes API declares them; all other lists are replaced.
_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}


def root() -> Path:
    """Give the folder of the manifests, in the installed package or in the repository; UsageError for neither."""
    here = Path(__file__).resolve()
    for folder in (here.with_name("manifests"), here.parents[4] / "knative"):
        if (folder / "pool" / "base" / KUSTOMIZATION).is_file():
            return folder
    raise UsageError("the manifests of the pool are not installed", hint="use a clone of the repository")


def render(folder: Path) -> list[Object]:
    """Give the objects of a kustomization, in the order it names them; SpecError with the file it is about."""
    file = folder / KUSTOMIZATION
    document = _one(file)
    for key in sorted(document.keys() - _KNOWN):
        raise SpecError(f"{key} is not understood here", where=str(file))
    objects = [item for name in document.get("resources", ()) for item in _resource(folder / name)]
    for patch in document.get("patches", ()):
        _patch(objects, _one(folder / patch["path"]), folder / patch["path"])
    for one in document.get("replicas", ()):
        _target(objects, "Deployment", one["name"], file)["spec"]["replicas"] = one["count"]
    set_images(objects, {one["name"]: _image(one) for one in document.get("images", ())})
    return objects


def set_images(objects: Sequence[Object], images: Mapping[str, str]) -> None:
    """Put whole image references in the place of the names the manifests use."""
    for container in (one for item in objects for one in containers(item)):
        container["image"] = images.get(container["image"], container["image"])


def containers(item: Object) -> Iterator[Object]:
    """Yield the containers of an object's pod template, those that start first among them."""
    spec = pod_spec(item)
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def pod_spec(item: Object) -> Object:
    """Give the pod specification of an object with a template; empty for any other."""
    found: Object = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
    return found


def merge(target: Any, patch: Any, name: str = "") -> Any:
    """Merge strategically: mappings key by key (null removes), keyed lists by key, the rest is replaced.

    The patch's elements of a keyed list come first, as kustomize has it.
    """
    if isinstance(target, dict) and isinstance(patch, dict):
        merged = {key: merge(value, patch[key], key) if key in patch else value for key, value in target.items()}
        merged |= {key: copy.deepcopy(value) for key, value in patch.items() if key not in target}
        return {key: value for key, value in merged.items() if value is not None}
    key = _KEYS.get(name)
    if key and isinstance(target, list) and isinstance(patch, list):
        known = {one[key]: one for one in target}
        changed = [merge(known.pop(one[key], {}), one) for one in patch]
        return [*changed, *known.values()]
    return copy.deepcopy(patch)


def _resource(path: Path) -> list[Object]:
    if path.is_dir():
        return render(path)
    return [copy.deepcopy(item) for item in _documents(path)]  # YAML anchors make one object of two


def _patch(objects: list[Object], patch: Object, file: Path) -> None:
    target = _target(objects, patch["kind"], patch["metadata"]["name"], file)
    objects[objects.index(target)] = merge(target, patch)


def _target(objects: Sequence[Object], kind: str, name: str, file: Path) -> Object:
    for item in objects:
        if (item["kind"], item["metadata"]["name"]) == (kind, name):
            return item
    raise SpecError(f"there is no {kind} {name!r} to change", where=str(file))


def _image(entry: Mapping[str, str]) -> str:
    name = entry.get("newName", entry["name"])
    return f"{name}@{entry['digest']}" if "digest" in entry else name


def _one(file: Path) -> Object:
    found = _documents(file)
    if len(found) != 1:
        raise SpecError(f"{len(found)} documents where one is expected", where=str(file))
    return found[0]


def _documents(file: Path) -> list[Object]:
    import yaml

    try:
        found = [item for item in yaml.safe_load_all(file.read_text()) if item is not None]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"cannot be read: {error}", where=str(file)) from None
    if not all(isinstance(item, dict) for item in found):
        raise SpecError("a document is no mapping", where=str(file))
    return found
