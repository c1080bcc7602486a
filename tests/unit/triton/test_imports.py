"""The pool client loads nothing that a function would pay for at its cold start."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = ("numpy", "tritonclient", "grpc", "pydantic", "aiohttp", "yaml", "click", "rich", "kubernetes")
CALL = """
import asyncio, sys
from shoal.triton.client import PoolClient
from shoal.triton.control import GrpcControl
from shoal.triton.tensors import Signature, TensorSpec
from shoal.core.errors import PoolUnreachableError
async def main():
    client = PoolClient(["127.0.0.1:1"])
    signature = Signature((TensorSpec("x", "BF16", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    try:
        await client.infer("m", signature, {"x": [1.0]}, timeout_s=30)
    except PoolUnreachableError:
        print(" ".join(sorted(sys.modules)))
    await client.close()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def modules() -> set[str]:
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_call_without_arrays_loads_no(package: str, modules: set[str]) -> None:
    assert "shoal.triton.client" in modules
    assert package not in modules
