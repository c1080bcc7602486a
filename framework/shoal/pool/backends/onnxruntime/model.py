"""A Triton backend named ``onnxruntime``, in Python: the stand-in where the C++ backend is not installed.

Triton prefers ``libtriton_onnxruntime.so`` where that is there: one repository serves a GPU pool and a laptop.
Runs inside Triton's Python stub: only numpy (1.26), onnxruntime and Triton's own utilities are there.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

_THREADS_MAX = 4  # without the parameter intra_op_thread_count: a laptop's cores are shared with the functions
_GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}  # numbers as in Triton's optimization.graph.level; 0 is its default


_PARENT = os.getppid()
_PARENT_LOOK_SECONDS = 1.0


def _die_with_server() -> None:
    """End this process when the server that started it is gone: killed, it takes nobody along.

    PR_SET_PDEATHSIG would not do: it follows the thread that loaded the model, and that ends with the load.
    """
    while os.getppid() == _PARENT:
        time.sleep(_PARENT_LOOK_SECONDS)
    os._exit(1)


threading.Thread(target=_die_with_server, name="parent", daemon=True).start()


class TritonPythonModel:
    """One instance of one model version: an ONNX Runtime session on the CPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; raise with the reason when the model cannot be served, which fails its load."""
        if int(np.__version__.partition(".")[0]) >= 2:
            raise RuntimeError(f"numpy {np.__version__}: with numpy 2 the stub reads zeros, it needs 1.26")
        config = json.loads(args["model_config"])
        self._inputs = _names(config, "input")
        self._outputs = _names(config, "output")
        self._batches = config["max_batch_size"] > 0
        file, options = _model_file(args, config), _options(config)
        self._session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        self._check_names()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request: together as one batch where the model batches, else one by one."""
        responses: dict[int, Any] = {}
        live = []
        for position, request in enumerate(requests):
            if request.is_cancelled():
                responses[position] = _error("cancelled", pb_utils.TritonError.CANCELLED)
            else:
                live.append((position, request))
        for group in [live] if self._batches and live else [[one] for one in live]:
            answers = self._answer([request for _, request in group])
            responses.update(zip([position for position, _ in group], answers, strict=True))
        return [responses[position] for position in range(len(requests))]

    def _check_names(self) -> None:
        real_inputs = {one.name for one in self._session.get_inputs()}
        real_outputs = {one.name for one in self._session.get_outputs()}
        missing = real_inputs.difference(self._inputs)
        unknown = set(self._inputs).difference(real_inputs) | set(self._outputs).difference(real_outputs)
        if missing or unknown or not self._outputs:
            raise ValueError(
                f"config.pbtxt names inputs {self._inputs} and outputs {self._outputs}, the model file has inputs "
                f"{sorted(real_inputs)} and outputs {sorted(real_outputs)}"
            )

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        try:
            columns = [[_input(request, name) for request in requests] for name in self._inputs]
            feed = {name: _joined(column) for name, column in zip(self._inputs, columns, strict=True)}
            asked = set().union(*(one.requested_output_names() for one in requests))
            wanted = [name for name in self._outputs if name in asked]
            arrays = dict(zip(wanted, self._session.run(wanted, feed), strict=True))
        except Exception as error:
            if len(requests) > 1:  # one request's fault is not its neighbours'
                return [answer for request in requests for answer in self._answer([request])]
            return [_error(f"onnxruntime: {error}", pb_utils.TritonError.INTERNAL)]
        return self._split(requests, [len(array) if array.ndim else 1 for array in columns[0]], arrays)

    def _split(self, requests: Sequence[Any], rows: Sequence[int], arrays: dict[str, Any]) -> list[Any]:
        responses, start = [], 0
        for request, count in zip(requests, rows, strict=True):
            own = slice(start, start + count) if self._batches else ...
            wanted = [name for name in self._outputs if name in request.requested_output_names()]
            responses.append(pb_utils.InferenceResponse([_output(name, arrays[name][own]) for name in wanted]))
            start += count
        return responses


def _names(config: dict[str, Any], kind: str) -> list[str]:
    tensors = config[kind]
    if not tensors:
        raise ValueError(f"config.pbtxt states no {kind}: this backend does not guess them")
    odd = [one["name"] for one in tensors if one["data_type"] == "TYPE_BF16"]
    if odd:
        raise ValueError(f"{kind} {odd[0]} is BF16, which numpy has no type for")
    return [one["name"] for one in tensors]


def _model_file(args: dict[str, str], config: dict[str, Any]) -> str:
    name = config.get("default_model_filename") or "model.onnx"
    return str(Path(args["model_repository"]) / args["model_version"] / name)


def _options(config: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    default = min(_THREADS_MAX, len(os.sched_getaffinity(0)))
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count") or default)
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count") or 1)
    if parameters.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVELS[level]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle pool burns no CPU
    return options


def _input(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    array = tensor.as_numpy()
    if array.dtype != np.object_:
        return array
    return np.array([one.decode() for one in array.reshape(-1)], dtype=np.object_).reshape(array.shape)


def _joined(arrays: Sequence[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=0)


def _output(name: str, array: Any) -> Any:
    if array.dtype == np.object_:
        array = np.array([one.encode() for one in array.reshape(-1)], dtype=np.object_).reshape(array.shape)
    return pb_utils.Tensor(name, np.asarray(array, order="C"))


def _error(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
