"""Control of one Triton: load, unload, and what it holds; over gRPC, as an HTTP load stalls unrelated connections.

Synchronous: the pool's agent calls it from threads. The gRPC client is imported on first use, as it costs 0.3 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shoal.core.errors import ShoalError
from shoal.core.limits import CONTROL_CALL_SECONDS_MAX, CONTROL_LOAD_SECONDS_MAX
from shoal.triton.classify import from_grpc
from shoal.triton.metadata import signature_of
from shoal.triton.tensors import Signature

READY = "READY"


class Control(Protocol):
    """What can be asked of one Triton; every call ends within a limit and raises from ``core.errors`` only."""

    def load(self, name: str) -> None:
        """Load a model from the repository; returns once it is ready. ModelFaultError carries the reason."""
        ...

    def unload(self, name: str) -> None:
        """Begin to unload a model; its memory is free once the index says UNAVAILABLE."""
        ...

    def index(self) -> dict[str, tuple[str, str]]:
        """Give the models of the repository: name -> (state, reason); an empty state was never loaded."""
        ...

    def metadata(self, name: str) -> Signature:
        """Give a loaded model's interface; ModelNotLoadedError when it is not."""
        ...

    def config(self, name: str) -> dict[str, Any]:
        """Give a loaded model's configuration as Triton completed it, ``max_batch_size`` included."""
        ...

    def server_ready(self) -> bool:
        """Whether the server takes requests."""
        ...

    def server_live(self) -> bool:
        """Whether the server answers at all."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class GrpcControl:
    """Control over the gRPC endpoint ``address`` (host:port); ``headers`` carry the key of restricted calls."""

    def __init__(
        self,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        call_timeout_s: float = CONTROL_CALL_SECONDS_MAX,
        load_timeout_s: float = CONTROL_LOAD_SECONDS_MAX,
    ) -> None:
        self.address = address
        self._headers = dict(headers or {})
        self._call_timeout_s = call_timeout_s
        self._load_timeout_s = load_timeout_s
        self._client: Any = None

    def load(self, name: str) -> None:
        """Load a model from the repository; returns once it is ready. ModelFaultError carries the reason."""
        self._call(name, "load_model", self._load_timeout_s, name)

    def unload(self, name: str) -> None:
        """Begin to unload a model; its memory is free once the index says UNAVAILABLE."""
        self._call(name, "unload_model", self._call_timeout_s, name)

    def index(self) -> dict[str, tuple[str, str]]:
        """Give the models of the repository: name -> (state, reason); a version that is READY counts first."""
        answer = self._call("*", "get_model_repository_index", self._call_timeout_s)
        found: dict[str, tuple[str, str]] = {}
        for entry in answer.models:
            if found.get(entry.name, ("", ""))[0] != READY:
                found[entry.name] = (entry.state, entry.reason)
        return found

    def metadata(self, name: str) -> Signature:
        """Give a loaded model's interface; ModelNotLoadedError when it is not."""
        answer = self._call(name, "get_model_metadata", self._call_timeout_s, name, as_json=True)
        return signature_of(name, {"inputs": [], "outputs": []} | answer, self.config(name))

    def config(self, name: str) -> dict[str, Any]:
        """Give a loaded model's configuration as Triton completed it, ``max_batch_size`` included."""
        answer = self._call(name, "get_model_config", self._call_timeout_s, name, as_json=True)
        config: dict[str, Any] = {"max_batch_size": 0} | answer.get("config", {})
        return config

    def server_ready(self) -> bool:
        """Whether the server takes requests; False when it cannot be reached."""
        return self._probe("is_server_ready")

    def server_live(self) -> bool:
        """Whether the server answers at all."""
        return self._probe("is_server_live")

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _probe(self, method: str) -> bool:
        try:
            return bool(self._call("*", method, self._call_timeout_s))
        except ShoalError:
            return False

    def _call(self, model: str, method: str, timeout_s: float, *args: Any, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        call: Callable[..., Any] = getattr(self._connected(), method)
        try:
            return call(*args, headers=self._headers, client_timeout=timeout_s, **options)
        except InferenceServerException as error:
            code = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
            raise from_grpc(model, code, str(error.message())).error from None

    def _connected(self) -> Any:
        if self._client is None:
            from tritonclient.grpc import InferenceServerClient

            self._client = InferenceServerClient(self.address)
        return self._client
