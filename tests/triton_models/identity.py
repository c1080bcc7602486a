"""Answers its input: ``y`` = ``x``, in any datatype; BF16, which numpy lacks, passes as DLPack."""

import json
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._bf16 = json.loads(args["model_config"])["input"][0]["data_type"] == "TYPE_BF16"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb_utils.InferenceResponse([self._same(request)]) for request in requests]

    def _same(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x")
        return pb_utils.Tensor.from_dlpack("y", x.to_dlpack()) if self._bf16 else pb_utils.Tensor("y", x.as_numpy())
