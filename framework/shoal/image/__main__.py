"""``python -m shoal.image FOLDER [--base BASE] [--push REFERENCE] [--save FOLDER] [--plain-http HOST]``.

Prints progress to standard error, and one line to standard output: the pushed reference, or the image's digest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shoal.core.errors import ShoalError, UsageError
from shoal.core.packages import cache_folder
from shoal.image.base import DEBIAN, connect, resolve
from shoal.image.blobs import BlobStore
from shoal.image.build import Step, build, megabytes, push, stage
from shoal.image.compose import source_date
from shoal.image.layout import save
from shoal.image.reference import Reference
from shoal.image.registry import plain_hosts
from shoal.spec.function import load


def main(arguments: Sequence[str]) -> int:
    """Build an image and push or save it: 0, 1 with the reason, 2 when the command or the function is wrong."""
    options = _parser().parse_args(arguments)
    try:
        print(_build(options))
    except ShoalError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _build(options: argparse.Namespace) -> str:
    reference = Reference.parse(options.push) if options.push else None
    folder, cache, mtime = Path(options.folder), Path(options.cache or cache_folder()), source_date(os.environ)
    spec = load(folder)
    open_registry = connect(plain_hosts(os.environ) | set(options.plain_http))
    with stage("base", _show) as told:
        base = resolve(options.base, BlobStore(cache / "images"), open_registry, mtime=mtime)
        told.append(megabytes(sum(layer.blob.size for layer in base.layers)))
    image = build(folder, spec, base=base, cache=cache, report=_show, mtime=mtime)
    if options.save:
        save(image, Path(options.save), name=spec.name)
    return str(push(image, reference, connect=open_registry, report=_show)) if reference else image.digest


def _show(step: Step) -> None:
    if step.state != "started":
        print(f"{step.name:<14}{step.state:<8}{step.seconds:6.2f} s  {step.detail}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shoal.image", description="Build a function's image.")
    parser.add_argument("folder", help="the function's folder")
    parser.add_argument(
        "--base", default=DEBIAN, help="debian, an OCI layout, a folder of .deb files, or a reference"
    )
    parser.add_argument("--push", default="", metavar="REFERENCE", help="HOST[:PORT]/REPOSITORY[:TAG]")
    parser.add_argument("--save", default="", metavar="FOLDER", help="write an OCI layout")
    parser.add_argument("--plain-http", action="append", default=[], metavar="HOST", help="a registry without TLS")
    parser.add_argument("--cache", default="", metavar="FOLDER", help="default: SHOAL_CACHE, else ~/.cache/shoal")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
