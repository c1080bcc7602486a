"""Answers its input after as many seconds as it says, 30 at most."""

import time
from typing import Any

import triton_python_backend_utils as pb_utils

SECONDS_MAX = 30.0


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        time.sleep(min(float(x.reshape(-1)[0]), SECONDS_MAX))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x)])
