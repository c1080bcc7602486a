"""Bases from strangers: looked through before anything is built on them."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import Any

import pytest

from helpers_image import PYTHON, PYTHON_FILE, raw_layer, strange_image, tiny_base, tiny_image
from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.image.base import read
from shoal.image.blobs import Blob, BlobStore


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_the_python_of_a_base_is_found_by_its_name(store: BlobStore) -> None:
    assert tiny_base(store).python == PYTHON


def test_the_official_images_variable_wins(store: BlobStore) -> None:
    layer = raw_layer([member("usr/bin/python3.11"), member("usr/local/bin/python3.13")])
    assert read(strange_image(store, layer), store).python == (3, 13)


def test_without_a_python_there_is_none(store: BlobStore) -> None:
    assert read(strange_image(store, raw_layer([member("etc/passwd")])), store).python is None


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "a/../../b", "/../x", "usr/./../../x"])
def test_a_path_out_of_the_image_is_refused(store: BlobStore, name: str) -> None:
    with pytest.raises(ImageError, match="has a path out of the image"):
        read(strange_image(store, raw_layer([member(name)])), store)


def test_a_hard_link_out_of_the_image_is_refused(store: BlobStore) -> None:
    layer = raw_layer([member("x", tarfile.LNKTYPE, linkname="../../etc/shadow")])
    with pytest.raises(ImageError, match="has a path out of the image, 'x'"):
        read(strange_image(store, layer), store)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(store: BlobStore, kind: bytes) -> None:
    with pytest.raises(ImageError, match="has a device or pipe, 'dev/sda'"):
        read(strange_image(store, raw_layer([member("dev/sda", kind)])), store)


def test_links_and_absolute_names_as_real_bases_have_them_are_fine(store: BlobStore) -> None:
    members = [member("/etc/x"), member("bin", tarfile.SYMTYPE, linkname="/usr/bin"), member("./" + PYTHON_FILE)]
    assert read(strange_image(store, raw_layer(members)), store).python == PYTHON


def test_names_that_are_not_utf_8_are_read(store: BlobStore) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", encoding="latin-1") as tar:
        tar.addfile(member("caf\xe9"))
    assert read(strange_image(store, gzip.compress(raw.getvalue())), store).python is None


def test_a_layer_that_unpacks_to_too_much_is_refused(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_UNPACKED_BYTES_MAX", 1 << 20)
    manifest = strange_image(store, raw_layer([member("zeros")], bytes(3 << 20)))
    with pytest.raises(ImageError, match="unpacks to more than 1048576 bytes"):
        read(manifest, store)


def test_a_layer_with_too_many_files_is_refused(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_FILES_MAX", 3)
    manifest = strange_image(store, raw_layer([member(f"f{number}") for number in range(4)]))
    with pytest.raises(ImageError, match="has over 3 files"):
        read(manifest, store)


@pytest.mark.parametrize("damage", [slice(0, 200), slice(4, None)])
def test_damaged_bytes_are_refused(store: BlobStore, damage: slice) -> None:
    layer = raw_layer([member("x", size=4)], bytes(range(256)) * 100)[damage]
    with pytest.raises(ImageError, match="is damaged"):
        read(strange_image(store, layer), store)


def test_zstd_is_refused_with_a_way_out(store: BlobStore) -> None:
    manifest = strange_image(store, b"", kind="application/vnd.oci.image.layer.v1.tar+zstd")
    with pytest.raises(ImageError, match="readable are tar and gzip") as caught:
        read(manifest, store)
    assert "skopeo" in caught.value.hint


def test_another_tar_than_the_configuration_names_is_refused(store: BlobStore) -> None:
    manifest = strange_image(store, raw_layer([member("x")]), diff_id="sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="is not the one its configuration names"):
        read(manifest, store)


def test_a_blob_with_other_bytes_than_its_digest_is_refused(store: BlobStore) -> None:
    image = tiny_image(store)
    path = store.path(image.layers[0].layer.blob.digest)
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(ImageError, match="has other bytes than its digest names"):
        read(image.manifest, store)


def test_musl_is_refused(store: BlobStore) -> None:
    layer = raw_layer([member("lib/ld-musl-x86_64.so.1"), member("usr/local/bin/python3.11")])
    with pytest.raises(ImageError, match="musl"):
        read(strange_image(store, layer), store)


@pytest.mark.parametrize(
    "manifest",
    [
        b"[]",
        b"{",
        b"{}",
        b'{"config": {"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}}',
        b'{"config": {"mediaType": "x", "digest": "md5:00", "size": -1}}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_refused(store: BlobStore, manifest: bytes) -> None:
    blob = store.add_bytes(manifest, "application/vnd.oci.image.manifest.v1+json")
    with pytest.raises(ImageError):
        read(Blob(blob.media_type, blob.digest, blob.size), store)


def test_a_layer_is_looked_through_once(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tiny_image(store).manifest
    first = read(manifest, store)
    monkeypatch.setattr("shoal.image.scan._read", None)
    assert read(manifest, store) == first
