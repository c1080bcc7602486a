"""A small base image from Debian packages, where no registry is at hand: Python, its libraries, nothing else.

The packages are downloaded by apt, which checks Debian's signatures, and unpacked without running their scripts;
the few things those scripts would do are done here. The same packages give the same digest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import ImageError, UsageError
from shoal.core.hashing import file_digest, parts_digest
from shoal.image.blobs import Blob, BlobStore
from shoal.image.bytecode import Version, with_bytecode
from shoal.image.compose import Base, Made, Run, compose
from shoal.image.layer import FORMAT, Entry, Layer, cached_layer
from shoal.image.tree import folder_entries

PYTHON: Final[Version] = (3, 11)  # Debian 12's
# libstdc++ because most wheels with native code load it; tzdata for zoneinfo.
_ROOTS: Final = (
    "python3.11-minimal",
    "libpython3.11-stdlib",
    "ca-certificates",
    "tzdata",
    "libstdc++6",
    "base-files",
)
# Wanted by scripts that do not run here, or by modules of the library that a function has no terminal or use for.
_NOT_WANTED: Final = frozenset(
    {
        "debconf", "openssl", "awk", "mawk", "libdb5.3", "libncursesw6", "libtinfo6", "libreadline8",
        "readline-common", "libnsl2", "libtirpc3", "libtirpc-common", "media-types", "gcc-12-base", "libc-bin",
    }
)  # fmt: skip
_BROKEN_MODULES: Final = ("_curses", "_curses_panel", "_dbm", "readline", "nis")  # their libraries are left out
_STRIPPED: Final = (
    "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/menu", "usr/share/info",
    "usr/share/pixmaps", "usr/share/applications", "usr/share/binfmts", "usr/share/python3", "usr/share/gcc",
    "usr/share/gdb", "usr/lib/valgrind", "usr/sbin", "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/share/base-files", "etc/update-motd.d", "etc/issue", "etc/issue.net", "var",
    "usr/share/zoneinfo/right", "etc/ca-certificates", "etc/kernel", "home", "boot", "proc", "sys", "dev", "run",
    "root", "media", "mnt", "srv", "opt", "usr/games", "usr/src", "usr/lib/pcrlib", "usr/include",
)  # fmt: skip
_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr since Debian 12
_PASSWD: Final = (
    b"root:x:0:0:root:/root:/usr/sbin/nologin\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    b"shoal:x:65532:65532:shoal:/tmp:/usr/sbin/nologin\n"
)
_GROUP: Final = b"root:x:0:\nnogroup:x:65534:\nshoal:x:65532:\n"
_APT_STATE: Final = (Path("/var/lib/apt/lists"), Path("/etc/apt"), Path("/var/lib/dpkg/status"))
_URI: Final = re.compile(r"'[^']*' (\S+) (\d+) (\S+)")
_CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Package:
    """One package's file: its name, and the SHA-256 that apt's signed lists name (hexadecimal)."""

    file: str
    digest: str


def from_debian(store: BlobStore, *, mtime: int = 0) -> Blob:
    """Give the manifest of the base made of Debian packages, downloaded by apt when they are new.

    Raises UsageError where apt is missing or has no lists, ImageError when a step fails.
    """
    packages = _wanted_now(store)
    key = _key([(package.file, package.digest) for package in packages], mtime)

    def make(scratch: Path) -> Iterator[Entry]:
        (scratch / "packages").mkdir()
        _apt(["apt-get", "download", "-qq", *sorted(closure(_ROOTS))], scratch / "packages")
        got = {file_digest(file) for file in (scratch / "packages").iterdir()}
        if got != {package.digest for package in packages}:
            raise ImageError(
                "apt's lists changed while packages were downloaded", hint="run the same command again"
            )
        return rootfs_entries(scratch / "packages", scratch)

    layer, _ = cached_layer(store, key, make, mtime=mtime)
    return _manifest(layer, store, mtime)


def from_packages(folder: Path, store: BlobStore, *, mtime: int = 0) -> Blob:
    """Give the manifest of the base made of the ``.deb`` files in a folder, all of them."""
    files = sorted(folder.glob("*.deb"))
    if not files:
        raise UsageError(f"no .deb file is in {folder}", hint="apt-get download PACKAGE…, in that folder")
    key = _key([(file.name, file_digest(file)) for file in files], mtime)
    layer, _ = cached_layer(store, key, lambda scratch: rootfs_entries(folder, scratch), mtime=mtime)
    return _manifest(layer, store, mtime)


def _wanted_now(store: BlobStore) -> list[Package]:
    """Give what apt would download, asking it (seconds) only after something it decides by has changed."""
    parts = [
        (str(path), f"{found.st_size} {found.st_mtime_ns}")
        for place in _APT_STATE
        for path in (sorted(place.rglob("*")) if place.is_dir() else [place])
        if path.is_file() and (found := path.stat())
    ]
    key = f"apt-{parts_digest([*parts, ('roots', repr((_ROOTS, sorted(_NOT_WANTED))))])[:32]}"
    if (known := store.record(key)) is not None and shutil.which("dpkg-deb"):
        return [Package(file, digest) for file, digest in known["packages"]]
    found_now = wanted()
    store.note(key, {"packages": [[package.file, package.digest] for package in found_now]})
    return found_now


def wanted() -> list[Package]:
    """List the packages of the base in the versions apt would download now."""
    for program in ("apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise UsageError(
                f"{program} is not on PATH; a base from Debian packages needs it",
                hint="name a base in a registry: --base HOST/REPOSITORY:TAG, or an OCI layout on disk",
            )
    listed = _apt(["apt-get", "download", "--print-uris", "-qq", *sorted(closure(_ROOTS))], Path("/"))
    found = [Package(match[1], match[3].rpartition(":")[2]) for match in _URI.finditer(listed)]
    if not found:
        raise UsageError("apt knows no package to download", hint="apt-get update")
    return sorted(found, key=lambda package: package.file)


def closure(roots: Sequence[str]) -> set[str]:
    """Follow the dependencies of packages, by the first of each alternative, but for those a base does not want."""
    found: set[str] = set()
    new = set(roots)
    while new:
        found |= new
        text = _apt(["apt-cache", "show", "--no-all-versions", *sorted(new)], Path("/"))
        new = {name for line in text.splitlines() for name in _dependencies(line)} - found - _NOT_WANTED
    return found


def _dependencies(line: str) -> Iterator[str]:
    field, _, value = line.partition(": ")
    if field in ("Depends", "Pre-Depends"):
        for part in value.split(","):
            yield part.split("|")[0].split("(")[0].strip().partition(":")[0]


def _apt(command: Sequence[str], folder: Path) -> str:
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}
    options = ["-o", "APT::Sandbox::User=root"] if command[0] == "apt-get" and os.geteuid() == 0 else []
    try:
        done = subprocess.run(
            [command[0], *options, *command[1:]],
            cwd=folder, env=environment, capture_output=True, text=True,
            timeout=limits.APT_SECONDS_MAX, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"a base from Debian packages cannot be made: {error}") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise ImageError(
            f"a base from Debian packages cannot be made: {command[0]}: {reason}", hint="apt-get update"
        )
    return done.stdout


def _key(parts: Sequence[tuple[str, str]], mtime: int) -> str:
    rules = repr((sorted(_NOT_WANTED), _STRIPPED, _BROKEN_MODULES, _PASSWD, _GROUP))
    fixed = [("format", FORMAT), ("mtime", str(mtime)), ("rules", rules), ("kind", "debian")]
    return f"debian-{parts_digest([*parts, *fixed])[:32]}"


def rootfs_entries(packages: Path, scratch: Path) -> Iterator[Entry]:
    """Unpack packages below ``scratch`` and list the files of the base."""
    root = scratch / "root"
    root.mkdir()
    for file in sorted(packages.glob("*.deb")):
        _apt(["dpkg-deb", "-x", str(file), str(root)], scratch)
        _register(file, root, scratch)
    _merge_usr(root)
    _tidy(root)
    entries = list(folder_entries(root, "", links_inside=False))  # absolute links stay inside an image, too
    # A distroless image has no users but those in its files, and no folder to write into but /tmp.
    entries.append(Entry("tmp", "folder", 0o1777))
    return with_bytecode(entries, PYTHON, scratch)


def _register(file: Path, root: Path, scratch: Path) -> None:
    """Note the package where scanners for known weaknesses look in an image without dpkg."""
    folder = root / "usr" / "lib" / "shoal-dpkg"
    folder.mkdir(parents=True, exist_ok=True)
    name = file.name.partition("_")[0]
    (folder / name).write_text(_apt(["dpkg-deb", "-f", str(file)], scratch))


def _merge_usr(root: Path) -> None:
    for name in _MERGED:
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if (root / "usr" / name).is_dir() and not old.is_symlink():
            old.symlink_to(f"usr/{name}")


def _tidy(root: Path) -> None:
    """Do what the packages' scripts would, and remove what a function never reads."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = b"".join(path.read_bytes().rstrip(b"\n") + b"\n" for path in certificates)
    if (root / "tmp").is_dir():
        (root / "tmp").rmdir()
    for name in _STRIPPED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).unlink(missing_ok=True) if not (root / name).is_dir() else None
    shutil.rmtree(root / "usr/share/ca-certificates", ignore_errors=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_symlink() or (path.is_file() and path.name != "copyright"):
            path.unlink()
    for module in _BROKEN_MODULES:
        for path in (root / "usr/lib/python3.11/lib-dynload").glob(f"{module}.cpython-*.so"):
            path.unlink()
    _write(root, _CERTIFICATES, bundle)
    _write(root, "etc/passwd", _PASSWD)
    _write(root, "etc/group", _GROUP)
    status = root / "var/lib/dpkg"
    status.mkdir(parents=True)
    (root / "usr/lib/shoal-dpkg").rename(status / "status.d")
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to(f"python{PYTHON[0]}.{PYTHON[1]}")


def _write(root: Path, name: str, data: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).unlink(missing_ok=True)
    (root / name).write_bytes(data)


def _manifest(layer: Layer, store: BlobStore, mtime: int) -> Blob:
    variables = {"SSL_CERT_FILE": f"/{_CERTIFICATES}", "LANG": "C.UTF-8"}
    run = Run(entrypoint=["python3"], folder="/", variables=variables, labels={})
    return compose(Base(digest=""), [Made("debian", layer, False)], run, store, mtime=mtime).manifest
