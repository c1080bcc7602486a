"""Every error shoal raises, as one tree; the number is the HTTP status it becomes when a request meets it.

    ShoalError                    500  root; never raised itself
    ├── UsageError                400  the person at the keyboard: a flag, a name, a file
    │   ├── SpecError             400  a line of function.yaml (or a sibling) breaks a rule
    │   └── ContractError         400  handler and model disagree on a tensor
    ├── RequestError              400  the caller of a function
    │   ├── NotFoundError         404  no such function, route or handler
    │   ├── MethodError           405  the handler does not take this method
    │   ├── SlowRequestError      408  the request's bytes came too slowly
    │   ├── BodyTooLargeError     413  the body passes its limit
    │   ├── MediaTypeError        415  a content type no handler takes
    │   ├── BodyError             422  the body is not what the handler declares
    │   ├── HeadersTooLargeError  431  the header fields pass their limit
    │   └── EventError            400  not a legal CloudEvent
    ├── OverloadError             503  the function's admission queue is full; temporary
    ├── DeadlineError             504  the caller's deadline passed
    ├── HandlerError              500  the handler raised, or answered something it may not
    ├── ModelError                502  component "model"
    │   ├── ModelInputError       500  component "handler": it sent a tensor the model does not take; never retried
    │   ├── ModelNotLoadedError   503  not on this replica; temporary
    │   ├── ModelOverloadError    503  Triton's queue is full; temporary
    │   ├── ModelDeadlineError    504  expired in Triton's queue or on the wire
    │   └── ModelFaultError       502  the backend raised, or its stub process died
    ├── PoolError                 502  component "pool"
    │   ├── PoolUnreachableError  503  no replica answers; temporary
    │   ├── PoolForbiddenError    502  a restricted endpoint, or a wrong key
    │   └── PoolProtocolError     502  the answer is not the protocol
    └── PlatformError             500  component "platform"
        ├── NotRunningError       503  the platform (or one of its processes) is not up
        ├── InstanceError         502  a function's instance broke off after it was sent the request
        ├── StoreError            503  a database of the platform refuses (disk full, locked); temporary
        ├── ForbiddenError        403  whoever runs shoal may not do that on the cluster
        ├── ConflictError         409  the state changed meanwhile, or the name is taken
        ├── DeployError           500  a deployment ended without a ready revision; carries the one reason
        ├── ImageError            500  an image cannot be made from what there is
        └── RegistryError         502  an image registry refused, or did not answer

A message says what, the value and the rule; ``hint`` is the next command or edit. ``temporary`` tells a caller
whether the same call may succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class ShoalError(Exception):
    """Root of the tree: a message, an optional hint, and how it looks over HTTP."""

    status: ClassVar[int] = 500
    component: ClassVar[str] = "platform"
    temporary: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> str:
        """The stable, kebab-case name of the class, for machines: ``model-overload``."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class UsageError(ShoalError):
    """What was typed breaks a rule."""

    status = 400
    component = "caller"


class SpecError(UsageError):
    """A specification file breaks a rule; ``where`` is ``file:line:column``."""

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{where}: {message}" if where else message, hint=hint, retry_after_s=retry_after_s)
        self.where = where


class ContractError(UsageError):
    """Handler and model disagree about a tensor's name, datatype or rank."""


class RequestError(ShoalError):
    """The caller of a function sent something it may not; a handler may raise it, or a subclass with its status."""

    status = 400
    component = "caller"


class NotFoundError(RequestError):
    """Nothing answers to that name."""

    status = 404


class MethodError(RequestError):
    """The handler does not take this method; ``allowed`` are those it takes (the answer's ``Allow`` header)."""

    status = 405

    def __init__(
        self, message: str, *, allowed: tuple[str, ...] = (), hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.allowed = allowed


class SlowRequestError(RequestError):
    """The request's bytes came too slowly."""

    status = 408


class BodyTooLargeError(RequestError):
    """The body passes its limit."""

    status = 413


class MediaTypeError(RequestError):
    """No handler takes this content type."""

    status = 415


class BodyError(RequestError):
    """The body is not what the handler declares."""

    status = 422


class HeadersTooLargeError(RequestError):
    """The header fields pass their limit."""

    status = 431


class EventError(RequestError):
    """The bytes are not a legal CloudEvent."""


class OverloadError(ShoalError):
    """The function has no slot free and its queue is full."""

    status = 503
    component = "handler"
    temporary = True


class DeadlineError(ShoalError):
    """The caller's deadline passed before the answer was there."""

    status = 504
    component = "handler"


class HandlerError(ShoalError):
    """The handler raised, or returned what it may not."""

    status = 500
    component = "handler"


class ModelError(ShoalError):
    """A call to a model failed."""

    status = 502
    component = "model"


class ModelInputError(ModelError):
    """A tensor the model does not take: the handler's mistake, never retried."""

    status = 500
    component = "handler"


class ModelNotLoadedError(ModelError):
    """The replica asked does not hold the model at this moment."""

    status = 503
    temporary = True


class ModelOverloadError(ModelError):
    """Triton's queue for the model is full."""

    status = 503
    temporary = True


class ModelDeadlineError(ModelError):
    """The request expired in Triton's queue, or its answer came too late."""

    status = 504


class ModelFaultError(ModelError):
    """The model's backend raised, or its process died."""


class PoolError(ShoalError):
    """The pool as a whole failed."""

    status = 502
    component = "pool"


class PoolUnreachableError(PoolError):
    """No replica answers."""

    status = 503
    temporary = True


class PoolForbiddenError(PoolError):
    """A restricted endpoint was called without its key."""


class PoolProtocolError(PoolError):
    """A replica's answer is not the inference protocol."""


class PlatformError(ShoalError):
    """The platform failed."""


class NotRunningError(PlatformError):
    """The platform, or the part asked, is not up."""

    status = 503
    temporary = True


class InstanceError(PlatformError):
    """A function's instance broke off after it was sent the request: whether it acted on it is unknown."""

    status = 502


class StoreError(PlatformError):
    """A database of the platform cannot keep what it was given, or cannot be read."""

    status = 503
    temporary = True


class ForbiddenError(PlatformError):
    """The cluster does not let this user do that; the message names the verb and the resource."""

    status = 403


class ConflictError(PlatformError):
    """The state is not what the caller took it for."""

    status = 409


class DeployError(PlatformError):
    """A deployment ended without a ready revision; the message is the one reason."""


class ImageError(PlatformError):
    """An image cannot be made: a base that is damaged or unsafe, a build step that failed."""


class RegistryError(PlatformError):
    """An image registry refused a request, or answered nothing usable."""

    status = 502
