"""Small real files of many kinds: name -> bytes, written by the formats' own tools where Python has them."""

from __future__ import annotations

import bz2
import configparser
import csv
import gzip
import io
import json
import lzma
import marshal
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
import zlib
from email.message import EmailMessage
from importlib.util import MAGIC_NUMBER
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# name -> head, a piece that is repeated with @N as its number, tail
_PARTS = {
    "data.xml": ('<?xml version="1.0"?>\n<orders>\n', '  <order id="@N"><sum>@N</sum></order>\n', "</orders>\n"),
    "page.html": (
        '<!DOCTYPE html>\n<html lang="en">\n<head><title>List</title></head>\n<body>\n<ul>\n',
        '<li class="item"><a href="/items/@N">Item @N</a></li>\n',
        "</ul>\n</body>\n</html>\n",
    ),
    "style.css": ("", ".item-@N { color: #3@N; margin: @Npx auto; display: flex; }\n", ""),
    "manifest.yaml": (
        "apiVersion: v1\nkind: List\nitems:\n",
        "  - kind: ConfigMap\n    metadata:\n      name: settings-@N\n    data:\n      level: info\n",
        "",
    ),
    "notes.md": ("# Notes\n\n", "## Day @N\n\n- read *one* [page](https://example.com/@N)\n- `run @N`\n\n", ""),
    "picture.svg": (
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90">\n',
        '  <circle cx="@N" cy="@N" r="4" fill="none" stroke="#000"/>\n',
        "</svg>\n",
    ),
    "main.c": (
        "#include <stdio.h>\n#include <stdlib.h>\n\n",
        """static int step@N(int x)
{
    if (x > @N) {
        printf("%d\\n", x);
    }
    return x + @N;
}

""",
        "int main(void)\n{\n    return step1(2);\n}\n",
    ),
    "main.go": (
        'package main\n\nimport (\n\t"fmt"\n\t"os"\n)\n\n',
        """func step@N(x int) (int, error) {
\tif x < 0 {
\t\treturn 0, fmt.Errorf("bad %d", x)
\t}
\treturn x + @N, nil
}

""",
        "func main() {\n\tfmt.Println(step1(2))\n\tos.Exit(0)\n}\n",
    ),
    "main.rs": (
        "use std::collections::HashMap;\n\n",
        """pub fn step@N(x: &mut Vec<u32>) -> Option<u32> {
    x.push(@N);
    x.iter().copied().max()
}

""",
        'fn main() {\n    let m: HashMap<u32, u32> = HashMap::new();\n    println!("{:?}", m);\n}\n',
    ),
    "Main.java": (
        "package com.example;\n\nimport java.util.List;\n\npublic class Main {\n",
        """    private static int step@N(final List<Integer> x) {
        return x.stream().mapToInt(i -> i + @N).sum();
    }

""",
        '    public static void main(String[] args) {\n        System.out.println("done");\n    }\n}\n',
    ),
    "app.js": (
        "'use strict';\nconst fs = require('fs');\n\n",
        """async function step@N(x) {
  const y = await fs.promises.readFile(`${x}/@N.txt`);
  return y.length === @N;
}

""",
        "module.exports = { step1 };\n",
    ),
    "run.sh": (
        "#!/bin/sh\nset -eu\n\n",
        """if [ -f "/etc/step@N" ]; then
  echo "step @N" >&2
  grep -q x "/etc/step@N" || exit @N
fi
""",
        'exec "$@"\n',
    ),
    "schema.sql": (
        "BEGIN;\n",
        """CREATE TABLE orders_@N (
  id INTEGER PRIMARY KEY,
  name VARCHAR(80) NOT NULL
);
INSERT INTO orders_@N VALUES (1, 'a');
""",
        "COMMIT;\n",
    ),
}


def make() -> dict[str, bytes]:
    """Make the files, the same bytes each time but for those of the running Python."""
    source = Path(json.__file__).read_bytes()
    return {
        **_texts(),
        **_code(),
        "source.py": source,
        "module.pyc": MAGIC_NUMBER + bytes(12) + marshal.dumps(compile(source, "json", "exec")),
        "python.elf": Path(sys.executable).resolve().read_bytes()[:65_536],
        "pixel.png": _png(),
        "pixel.gif": _gif(),
        "pixel.bmp": _bmp(),
        "tone.wav": _wav(),
        "paper.pdf": _pdf(),
        "source.zip": _zip(source),
        "source.tar": _tar(source),
        "source.gz": gzip.compress(source, mtime=0),
        "source.bz2": bz2.compress(source),
        "source.xz": lzma.compress(source),
        "table.sqlite": _sqlite(),
        "model.onnx": _onnx(),
        "pyproject.toml": (ROOT / "pyproject.toml").read_bytes(),
        "Makefile": (ROOT / "Makefile").read_bytes(),
    }


def _texts() -> dict[str, bytes]:
    table = io.StringIO()
    rows = [("id", "name", "price", "stock"), *((n, f"article {n}", f"{n * 1.25:.2f}", n % 7) for n in range(60))]
    csv.writer(table).writerows(rows)
    settings, ini = configparser.ConfigParser(), io.StringIO()
    settings.read_dict(
        {f"section{n}": {"path": f"/srv/{n}", "enabled": "yes", "retries": str(n)} for n in range(9)}
    )
    settings.write(ini)
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "The report", "ada@example.com", "bob@example.com"
    mail["Date"] = "Mon, 05 Jan 2026 10:00:00 +0000"
    mail.set_content("Please find the figures of last week below.\n" * 8)
    return {
        "table.csv": table.getvalue().encode(),
        "settings.ini": ini.getvalue().encode(),
        "mail.eml": mail.as_bytes(),
        "data.json": json.dumps([{"id": n, "tags": ["a", "b"]} for n in range(40)], indent=2).encode(),
        "prose.txt": b"It was a calm evening and nobody in the house expected a visitor at all. " * 12,
    }


def _code() -> dict[str, bytes]:
    return {name: _repeat(*parts) for name, parts in _PARTS.items()}


def _repeat(head: str, line: str, tail: str, count: int = 12) -> bytes:
    """Put ``count`` numbered copies of ``line``, @N its number, between head and tail."""
    lines = "".join(line.replace("@N", str(number)) for number in range(1, count + 1))
    return (head + lines + tail).encode()


def _png(side: int = 32) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(side)) for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _gif() -> bytes:
    palette = bytes(range(6))
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + palette
        + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00;"
    )  # fmt: skip


def _bmp(side: int = 16) -> bytes:
    pixels = bytes((n * 7) % 256 for n in range(side * side * 3))
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, len(pixels), 2_835, 2_835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels


def _wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(b"".join(struct.pack("<h", 8_000 if n // 20 % 2 else -8_000) for n in range(800)))
    return buffer.getvalue()


def _pdf() -> bytes:
    text = b"BT /F1 24 Tf 72 720 Td (Hello) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    return body + head + table + trailer


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("source/json.py", "source/again.py", "notes.txt"):
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("source/json.py", "source/again.py"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _sqlite() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE files (name TEXT, size INTEGER)")
    connection.executemany("INSERT INTO files VALUES (?, ?)", [(f"file {n}", n) for n in range(50)])
    connection.commit()
    content = bytes(connection.serialize())
    connection.close()
    return content


def _onnx() -> bytes:
    import magika

    return next(Path(magika.__file__).parent.rglob("*.onnx")).read_bytes()
