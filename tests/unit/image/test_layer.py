"""A layer's bytes depend on its entries and on nothing of this machine."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from helpers_image import layer_names
from shoal.core.errors import ImageError
from shoal.image.blobs import BlobStore
from shoal.image.layer import Entry, cached_layer, write_layer

ENTRIES = [
    Entry("app/b.txt", data=b"b"),
    Entry("app/a.txt", mode=0o755, data=b"a"),
    Entry("app/link", "link", target="a.txt"),
    Entry("tmp", "folder", 0o1777),
]


def test_the_order_of_entries_does_not_matter(store: BlobStore) -> None:
    assert write_layer(ENTRIES, store) == write_layer(reversed(ENTRIES), store)


def test_the_members_have_no_owner_and_one_time_and_the_folders_above_them_are_there(store: BlobStore) -> None:
    members = layer_names(store, write_layer(ENTRIES, store, mtime=7).blob.digest)
    assert list(members) == ["app", "app/a.txt", "app/b.txt", "app/link", "tmp"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {(0, 0, "", "", 7)}
    assert {name: oct(member.mode) for name, member in members.items()} == {
        "app": "0o755", "app/a.txt": "0o755", "app/b.txt": "0o644", "app/link": "0o777", "tmp": "0o1777",
    }  # fmt: skip


def test_the_digests_are_those_of_the_bytes(store: BlobStore) -> None:
    layer = write_layer(ENTRIES, store)
    packed = store.path(layer.blob.digest).read_bytes()
    assert layer.blob.digest == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(packed)).hexdigest()}"
    assert (layer.blob.size, layer.unpacked) == (len(packed), len(gzip.decompress(packed)))


def test_a_file_of_this_machine_leaves_no_trace_but_its_bytes(tmp_path: Path, store: BlobStore) -> None:
    digests = set()
    for number, mode in enumerate((0o600, 0o4777)):
        path = tmp_path / f"elsewhere-{number}"
        path.write_bytes(b"same")
        path.chmod(mode)
        os.utime(path, (number * 1_000, number * 1_000))
        digests.add(write_layer([Entry("app/x", source=path)], store).blob.digest)
    assert len(digests) == 1


def test_long_and_foreign_names_come_back(store: BlobStore) -> None:
    names = ["app/" + "d" * 150 + "/" + "f" * 200, "app/Zoë/日本.txt"]
    layer = write_layer([Entry(name, data=b"x") for name in names], store)
    with tarfile.open(store.path(layer.blob.digest)) as tar:
        assert set(names) <= set(tar.getnames())
        assert all(not member.pax_headers for member in tar)


def test_two_files_with_one_path_are_refused(store: BlobStore) -> None:
    with pytest.raises(ImageError, match="two files of one layer have the path /app/a"):
        write_layer([Entry("app/a", data=b"1"), Entry("app/a", data=b"2")], store)


def test_a_path_longer_than_linux_takes_is_refused(store: BlobStore) -> None:
    with pytest.raises(ImageError, match="Linux takes 4096 bytes"):
        write_layer([Entry("x" * 5_000, data=b"1")], store)


def test_a_file_that_went_away_is_named(tmp_path: Path, store: BlobStore) -> None:
    with pytest.raises(ImageError, match=r"gone\.py cannot be read: No such file"):
        write_layer([Entry("app/gone.py", source=tmp_path / "gone.py")], store)
    assert list((store.root / "blobs" / "sha256").iterdir()) == []


def test_a_layer_is_made_once_for_a_key(store: BlobStore) -> None:
    made = []

    def make(scratch: Path) -> list[Entry]:
        made.append(scratch)
        return ENTRIES

    first, again = cached_layer(store, "key", make), cached_layer(store, "key", make)
    assert (first[0], first[1], again[1], len(made)) == (again[0], False, True, 1)
    assert not made[0].exists()


@pytest.mark.parametrize("damage", ["remove", "shorten", "record"])
def test_a_damaged_cache_is_made_again(store: BlobStore, damage: str) -> None:
    layer, _ = cached_layer(store, "key", lambda scratch: ENTRIES)
    blob = store.path(layer.blob.digest)
    if damage == "remove":
        blob.unlink()
    elif damage == "shorten":
        blob.write_bytes(blob.read_bytes()[:-1])
    else:
        (store.root / "records" / "key.json").write_text("{broken")
    again, reused = cached_layer(store, "key", lambda scratch: ENTRIES)
    assert (again, reused) == (layer, False)
    store.verify(again.blob)
