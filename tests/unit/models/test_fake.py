"""The fake pool answers from signatures alone, the same each time, and fails as it is told to."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from shoal.models.fake import FakeError, FakeModels, FakeTensor
from shoal.triton.tensors import DATATYPE_BYTES, DATATYPE_FORMAT, Signature, TensorSpec

BATCHING = Signature((TensorSpec("x", "INT32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 3)),), max_batch_size=4)


def fake(signature: Signature = BATCHING) -> FakeModels:
    models = FakeModels()
    models.serve("m", signature)
    return models


def rows(*values: int) -> FakeTensor:
    return FakeTensor(
        "x", "INT32", (len(values), 2), struct.pack(f"<{2 * len(values)}i", *(v for v in values for _ in "ab"))
    )


async def test_the_same_input_gives_the_same_output_and_another_another() -> None:
    first = await fake().infer("m", [rows(1)])
    assert first == await fake().infer("m", [rows(1)])
    assert first != await fake().infer("m", [rows(2)])


async def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    models = fake()
    (batch,) = await models.infer("m", [rows(1, 2, 3)])
    alone = [(await models.infer("m", [rows(value)]))[0].data for value in (1, 2, 3)]
    assert batch.shape == (3, 3)
    assert batch.data == b"".join(alone)


@pytest.mark.parametrize("datatype", DATATYPE_BYTES)
async def test_every_datatype_is_made_and_has_its_size(datatype: str) -> None:
    signature = Signature((TensorSpec("x", "INT32", (2,)),), (TensorSpec("y", datatype, (5,)),))
    given = FakeTensor("x", "INT32", (2,), struct.pack("<2i", 1, 2))
    (output,) = await fake(signature).infer("m", [given])
    if datatype == "BYTES":
        assert output.data[:4] == struct.pack("<I", 8)
        assert len(output.data) == 5 * 12
        return
    assert len(output.data) == 5 * DATATYPE_BYTES[datatype]
    if datatype in ("FP16", "FP32", "FP64"):
        values = struct.unpack(f"<5{DATATYPE_FORMAT[datatype]}", output.data)
        assert all(0 <= value <= 1 for value in values)
        assert len(set(values)) > 1
    if datatype == "BOOL":
        assert set(output.data) <= {0, 1}


async def test_an_output_like_an_input_echoes_it() -> None:
    signature = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),))
    given = FakeTensor("x", "BYTES", (2,), b"\x01\0\0\0a\0\0\0\0")
    (output,) = await fake(signature).infer("m", [given])
    assert (output.name, output.shape, output.data) == ("y", given.shape, given.data)


async def test_only_the_wanted_outputs_are_given() -> None:
    signature = Signature(BATCHING.inputs, (*BATCHING.outputs, TensorSpec("z", "BOOL", (-1, 1))), 4)
    outputs = await fake(signature).infer("m", [rows(1)], wanted=["z"])
    assert [one.name for one in outputs] == ["z"]


async def test_a_full_queue_refuses_and_lets_the_others_finish() -> None:
    models = fake()
    models.turn("m", delay_s=0.2)
    models._loaded["m"].queue_max = 1
    answers = await asyncio.gather(*(models.infer("m", [rows(n)]) for n in range(3)), return_exceptions=True)
    refused = [one for one in answers if isinstance(one, FakeError)]
    assert [(one.status, one.code) for one in refused] == [(503, "UNAVAILABLE")]
    assert "Exceeds maximum queue size" in refused[0].text
    assert models.executed["m"] == 2


async def test_a_request_that_waits_too_long_is_refused_and_never_executed() -> None:
    models = fake()
    models.turn("m", delay_s=0.5)
    first = asyncio.create_task(models.infer("m", [rows(1)]))
    while not models._loaded["m"].slot.locked():
        await asyncio.sleep(0)
    with pytest.raises(FakeError, match="Request timeout expired"):
        await models.infer("m", [rows(2)], timeout_us=10_000)
    await first
    assert models.executed["m"] == 1


async def test_a_cancelled_request_gives_its_slot_back() -> None:
    models = fake()
    models.turn("m", delay_s=30.0)
    first = asyncio.create_task(models.infer("m", [rows(1)]))
    while not models._loaded["m"].slot.locked():
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    models.turn("m")
    assert await models.infer("m", [rows(1)])
    assert models._loaded["m"].waiting == 0


@pytest.mark.parametrize(
    ("knobs", "status", "text"),
    [
        ({"fault": "the backend raised"}, 500, "the backend raised"),
        ({"overload": True}, 503, "Exceeds maximum queue size"),
        ({"stub_dead": True}, 500, "Stub process 'm_0_0' is not healthy."),
    ],
)
async def test_a_knob_makes_every_request_fail_until_it_is_off(
    knobs: dict[str, object], status: int, text: str
) -> None:
    models = fake()
    models.turn("m", **knobs)
    for _ in range(2):
        with pytest.raises(FakeError) as caught:
            await models.infer("m", [rows(1)])
        assert (caught.value.status, text in caught.value.text) == (status, True)
    models.turn("m")
    assert await models.infer("m", [rows(1)])


def test_a_load_that_fails_is_in_the_index_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "x"')
    models = FakeModels(tmp_path)
    models.turn("m", load_fault="no such luck")
    with pytest.raises(FakeError, match="no such luck"):
        models.load("m")
    assert models.index() == [
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "Internal: no such luck"}
    ]
    models.turn("m")
    models.load("m")
    assert models.ready("m")
