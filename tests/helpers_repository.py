"""Model repositories as they lie in version control, for tests: one small model, its weights beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

CONFIG = """\
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] } ]
dynamic_batching {
  default_queue_policy { default_timeout_microseconds: 1000000 allow_timeout_override: true max_queue_size: 8 }
}
"""
WEIGHTS = b"not really a model"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def write(
    root: Path, name: str = "small", *, config: str = CONFIG, weights: bytes = WEIGHTS, sha256: str = ""
) -> Path:
    """Add a model whose weights lie in ``../weights`` and are named by its source.yaml; give its folder."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (root.parent / "weights").write_bytes(weights)
    (folder / "config.pbtxt").write_text(config)
    digest = sha256 or hashlib.sha256(weights).hexdigest()
    path = root.parent / "weights"
    (folder / "source.yaml").write_text(f"files:\n  - dest: 1/model.onnx\n    path: {path}\n    sha256: {digest}\n")
    return folder
