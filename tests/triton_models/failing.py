"""Fails as its input says: 0 refuses this request, 1 raises for the whole batch, 2 ends the stub; else answers."""

import os
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if x[0] == 2:
            os._exit(1)
        if x[0] == 1:
            raise RuntimeError("the model raised on purpose")
        if x[0] == 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("the model refused on purpose"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x)])
