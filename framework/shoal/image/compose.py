"""An image from layers: its configuration and its manifest, as documents whose bytes depend on nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import ImageError, UsageError
from shoal.image.blobs import CONFIG_TYPE, MANIFEST_TYPE, Blob, BlobStore, to_json
from shoal.image.layer import Layer

USER: Final = "65532:65532"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH_VARIABLE: Final = "SOURCE_DATE_EPOCH"
_EPOCH_MAX: Final = 2**33 - 1  # what tar's field for the time holds


@dataclass(frozen=True, slots=True)
class Base:
    """An image to build on: its layers, its configuration's document, and its Python's version if it has one."""

    digest: str  # of its manifest; empty for none
    name: str = ""  # its reference in a registry; empty when it came from this machine
    layers: tuple[Layer, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    python: tuple[int, int] | None = None
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True)
class Made:
    """One layer of an image: what it is, and whether it was there before this build."""

    name: str
    layer: Layer
    reused: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A complete image in a store; ``digest`` is its manifest's."""

    manifest: Blob
    config: Blob
    layers: tuple[Made, ...]
    store: BlobStore

    @property
    def digest(self) -> str:
        """What a node pulls it by."""
        return self.manifest.digest

    @property
    def size(self) -> int:
        """Bytes to pull: all compressed layers, the configuration and the manifest."""
        return sum(made.layer.blob.size for made in self.layers) + self.config.size + self.manifest.size


@dataclass(frozen=True, slots=True)
class Run:
    """How an image starts."""

    entrypoint: Sequence[str]
    folder: str
    variables: Mapping[str, str]
    labels: Mapping[str, str]
    port: int = 8080


def source_date(env: Mapping[str, str]) -> int:
    """Read SOURCE_DATE_EPOCH, the time all files get, in seconds; 0 without it, UsageError when it is no time."""
    text = env.get(EPOCH_VARIABLE, "") or "0"
    if not (text.isascii() and text.isdigit()) or int(text) > _EPOCH_MAX:
        raise UsageError(f"environment variable {EPOCH_VARIABLE} is {text[:40]!r}; it must be seconds since 1970")
    return int(text)


def compose(base: Base, layers: Sequence[Made], run: Run, store: BlobStore, *, mtime: int = 0) -> Image:
    """Put layers on a base; ImageError when they are too many, or unpack to too much."""
    made = (*(Made("base", layer, True) for layer in base.layers), *layers)
    unpacked = sum(item.layer.unpacked for item in made)
    if len(made) > limits.IMAGE_LAYERS_MAX or unpacked > limits.IMAGE_UNPACKED_BYTES_MAX:
        raise ImageError(
            f"the image has {len(made)} layers of {unpacked} bytes unpacked; it may have "
            f"{limits.IMAGE_LAYERS_MAX} of {limits.IMAGE_UNPACKED_BYTES_MAX}"
        )
    config = store.add_bytes(to_json(_config(base, made, layers, run, mtime)), CONFIG_TYPE)
    manifest = store.add_bytes(to_json(_manifest(base, made, config)), MANIFEST_TYPE)
    return Image(manifest, config, made, store)


def _config(base: Base, made: Sequence[Made], layers: Sequence[Made], run: Run, mtime: int) -> dict[str, Any]:
    created = datetime.fromtimestamp(mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    inherited = base.config.get("config") or {}
    history = [*(base.config.get("history") or []), *(_history(item.name, created) for item in layers)]
    return {
        "architecture": base.architecture,
        "os": "linux",
        "created": created,
        "config": {
            "Entrypoint": list(run.entrypoint),
            "Cmd": [],
            "Env": _variables(inherited.get("Env") or [], run.variables),
            "User": USER,
            "WorkingDir": run.folder,
            "ExposedPorts": {f"{run.port}/tcp": {}},
            "Labels": {**(inherited.get("Labels") or {}), **run.labels},
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [item.layer.diff_id for item in made]},
        "history": history,
    }


def _history(name: str, created: str) -> dict[str, str]:
    return {"created": created, "created_by": f"shoal: {name}"}


def _variables(inherited: Sequence[str], own: Mapping[str, str]) -> list[str]:
    found = {"PATH": PATH, **dict(item.split("=", 1) for item in inherited if "=" in item), **own}
    return [f"{name}={value}" for name, value in sorted(found.items())]


def _manifest(base: Base, made: Sequence[Made], config: Blob) -> dict[str, Any]:
    annotations = {"org.opencontainers.image.base.digest": base.digest} if base.digest else {}
    if base.name:
        annotations["org.opencontainers.image.base.name"] = base.name
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.document(),
        "layers": [item.layer.blob.document() for item in made],
        **({"annotations": annotations} if annotations else {}),
    }
