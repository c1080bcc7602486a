"""Small real files of several kinds, made on the spot: name -> (the label the model should give, bytes)."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import struct
import tarfile
import wave
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make() -> dict[str, tuple[str, bytes]]:
    """Make the files."""
    source = (ROOT / "framework" / "shoal" / "core" / "errors.py").read_bytes()
    return {
        "errors.py": ("python", source),
        "Makefile": ("makefile", (ROOT / "Makefile").read_bytes()),
        "pyproject.toml": ("toml", (ROOT / "pyproject.toml").read_bytes()),
        "run.sh": ("shell", (ROOT / ".ci" / "run").read_bytes()),
        "report.json": ("json", json.dumps({"runs": [{"n": n, "ok": True} for n in range(40)]}, indent=1).encode()),
        "pixel.png": ("png", png()),
        "tone.wav": ("wav", wav()),
        "source.zip": ("zip", zipped(source)),
        "source.tar": ("tar", tarred(source)),
        "source.py.gz": ("gzip", gzip.compress(source)),
        "table.sqlite": ("sqlite", sqlite()),
    }


def png(side: int = 32) -> bytes:
    """A grey gradient, as the PNG specification lays it out."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(side)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav() -> bytes:
    """A tenth of a second of a square wave."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(b"".join(struct.pack("<h", 8_000 if n // 20 % 2 else -8_000) for n in range(800)))
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    """Several files and a folder in a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("pictures/a.png", "pictures/b.png", "notes/read me.txt", "code/errors.py"):
            archive.writestr(name, png() if name.endswith("png") else content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    """One file in a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("errors.py")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def sqlite() -> bytes:
    """A database with one small table."""
    database = sqlite3.connect(":memory:")
    database.execute("create table fish (name text, length_cm real)")
    database.executemany("insert into fish values (?, ?)", [("herring", 30.0), ("sprat", 12.5)])
    database.commit()
    content = database.serialize()
    database.close()
    return content
