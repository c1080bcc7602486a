"""What function.yaml may say, and reading it.

The models are the format: the JSON Schema comes from them, and so does every rule. Fields carry the unit in their
Python name (``timeout_s``) and the field's usual name in the file (``timeout``); triggers use Knative's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from shoal.core import limits, names
from shoal.core.errors import SpecError, UsageError
from shoal.spec import document, durations
from shoal.spec.explain import explain, spec_error

FILE_NAME: Final = "function.yaml"
HANDLER_DEFAULT: Final = "handler.py"
FROM_FILE: Final = {"file": True}  # validation context: a bare number is then no duration

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = re.compile(r"PORT|HOST|K_.*|SHOAL_.*")
_OBJECT = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"  # a ConfigMap's or a Secret's name
_CPU = r"^([0-9]{1,6}m|[0-9]{1,3}(\.[0-9]{1,3})?)$"
_MEMORY = r"^[0-9]{1,6}(Ki|Mi|Gi)$"


def _rule(message: str, *, key: str = "") -> PydanticCustomError:
    """Make a validator's error; ``key`` points at one key of the mapping it is about."""
    return PydanticCustomError("rule", "{message}", {"message": message, "key": key})


def _checked(check: Any) -> AfterValidator:
    """Turn a check from core/names, which raises UsageError, into a validator."""

    def validate(value: str) -> str:
        try:
            return str(check(value))
        except UsageError as error:
            raise _rule(error.message) from None

    return AfterValidator(validate)


@dataclass(frozen=True)
class _Duration:
    """Annotation of a float: seconds from ``200ms``-like text, within bounds."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        bounds = f"{durations.show(self.low)} to {durations.show(self.high)}"
        return {"type": "string", "pattern": durations.PATTERN, "examples": ["60s"], "$comment": bounds}

    def _validate(self, value: Any, info: ValidationInfo) -> float:
        seconds = _seconds(value, in_file=bool(info.context and info.context.get("file")))
        if not self.low <= seconds <= self.high:
            bounds = f"{durations.show(self.low)} to {durations.show(self.high)}"
            raise _rule(f"{durations.show(seconds)} is outside {bounds}")
        return seconds


def _seconds(value: Any, *, in_file: bool) -> float:
    if isinstance(value, str):
        try:
            return durations.parse(value)
        except ValueError as error:
            raise _rule(str(error)) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _rule("a duration is text such as 200ms, 60s, 1.5m or 1h")
    if in_file:
        raise _rule(f"{value} has no unit: write {value}s for seconds")
    return float(value)


Timeout = Annotated[float, _Duration(0.001, limits.TIMEOUT_SECONDS_MAX)]
Backoff = Annotated[float, _Duration(0.001, limits.BACKOFF_SECONDS_MAX)]
Window = Annotated[float, _Duration(limits.WINDOW_SECONDS_MIN, limits.WINDOW_SECONDS_MAX)]
FunctionName = Annotated[str, _checked(names.check_function)]
ModelName = Annotated[str, _checked(names.check_model)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_by_alias=True, validate_by_name=True, allow_inf_nan=False
    )


class Delivery(_Part):
    """How a broker delivers to the function; Knative's ``spec.delivery``. All fields hold, none is merged."""

    retry: int = Field(
        default=5, ge=0, le=limits.DELIVERY_ATTEMPTS_MAX, description="Attempts after the first one."
    )
    backoff_policy: Literal["exponential", "linear"] = Field(
        default="exponential", validation_alias="backoffPolicy", description="How the wait between attempts grows."
    )
    backoff_delay_s: Backoff = Field(
        default=0.2, validation_alias="backoffDelay", description="Wait before the first retry."
    )
    timeout_s: Timeout = Field(
        default=limits.TIMEOUT_SECONDS_DEFAULT,
        validation_alias="timeout",
        description="One attempt; default: the function's timeout.",
    )


class Trigger(_Part):
    """Which events of a broker come to the function."""

    broker: FunctionName = Field(default="default", description="The broker's name.")
    filter: Mapping[str, str] = Field(
        default_factory=dict, description="CloudEvents attribute -> exact value; '' means any value, {} any event."
    )
    delivery: Delivery = Field(default_factory=lambda: Delivery(), description="Retry and time limits.")

    @field_validator("filter")
    @classmethod
    def _attributes(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if len(value) > limits.FILTER_ATTRIBUTES_MAX:
            raise _rule(f"{len(value)} attributes: {limits.FILTER_ATTRIBUTES_MAX} at most")
        for name, wanted in value.items():
            if not _ATTRIBUTE.fullmatch(name):
                shown = document.shorten(name)
                raise _rule(f"attribute {shown!r}: lower-case letters and digits, 20 at most", key=name)
            if len(wanted.encode()) > limits.EVENT_ATTRIBUTE_BYTES_MAX:
                raise _rule(f"attribute {name!r}: {limits.EVENT_ATTRIBUTE_BYTES_MAX} bytes at most", key=name)
        return value


class Scale(_Part):
    """How many instances run."""

    min: int = Field(default=0, ge=0, le=limits.INSTANCES_PER_REVISION_MAX, description="0: none while idle.")
    max: int = Field(default=5, ge=1, le=limits.INSTANCES_PER_REVISION_MAX, description="Never more than this.")
    window_s: Window = Field(
        default=60.0, validation_alias="window", description="Idle time before an instance ends."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise _rule(f"min {self.min} is above max {self.max}")
        return self


class EnvFrom(_Part):
    """A ConfigMap or a Secret whose keys become variables; by name only, a value never stands in a file."""

    config_map: str = Field(
        default="", validation_alias="configMap", pattern=_OBJECT, description="The ConfigMap's name."
    )
    secret: str = Field(default="", pattern=_OBJECT, description="The Secret's name.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.config_map) == bool(self.secret):
            raise _rule("name either a configMap or a secret")
        return self


class Resources(_Part):
    """What one instance is promised on a cluster, and what it may use at most; in Kubernetes' units."""

    cpu: str = Field(default="100m", pattern=_CPU, description="Processor promised: 100m is a tenth of a core.")
    memory: str = Field(default="128Mi", pattern=_MEMORY, description="Memory promised.")
    cpu_max: str = Field(default="2", validation_alias="cpuMax", pattern=_CPU, description="Processor at most.")
    memory_max: str = Field(
        default="1Gi", validation_alias="memoryMax", pattern=_MEMORY, description="Memory at most; past it: killed."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, low, high in (("cpu", self.cpu, self.cpu_max), ("memory", self.memory, self.memory_max)):
            if _quantity(low) > _quantity(high):
                raise _rule(f"{name} {low} is above {name}Max {high}")
        return self


def _quantity(text: str) -> float:
    """Read an amount: ``100m`` -> 0.1, ``1.5`` -> 1.5, ``1Ki`` -> 1024."""
    number, unit = text.rstrip("mKMGi"), text.lstrip("0123456789.")
    return float(number) * {"": 1.0, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


class FunctionSpec(_Part):
    """One function as its folder describes it."""

    shoal: Literal[1] = Field(default=1, description="Version of this format.")
    name: FunctionName = Field(description="The function's name; default: the folder's.")
    description: str = Field(default="", max_length=1_000, description="One sentence for people.")
    handler: str = Field(default=HANDLER_DEFAULT, description="Python file in the folder.")
    models: Mapping[str, ModelName] | None = Field(
        default=None,
        description="Alias in the handler -> model in the repository; default: as the handler declares.",
    )
    timeout_s: Timeout = Field(
        default=limits.TIMEOUT_SECONDS_DEFAULT, validation_alias="timeout", description="One request's deadline."
    )
    concurrency: int = Field(
        default=limits.CONCURRENCY_DEFAULT,
        ge=1,
        le=limits.CONCURRENCY_MAX,
        description="Requests in the handler at once.",
    )
    threads: int = Field(
        default=limits.THREADS_DEFAULT,
        ge=1,
        le=limits.CONCURRENCY_MAX,
        description="For handlers that are not async.",
    )
    scale: Scale = Field(default_factory=lambda: Scale(), description="How many instances run.")
    env: Mapping[str, str] = Field(default_factory=dict, description="Environment of the function's process.")
    env_from: tuple[EnvFrom, ...] = Field(
        default=(),
        strict=False,
        validation_alias="envFrom",
        description="ConfigMaps and Secrets of the cluster whose keys become variables.",
    )
    resources: Resources = Field(default_factory=lambda: Resources(), description="On a cluster.")
    triggers: tuple[Trigger, ...] | None = Field(
        default=None,
        strict=False,
        description="Default: one for each @event(type=…) of the handler on broker 'default'.",
    )

    @field_validator("handler")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if (
            path.is_absolute()
            or ".." in path.parts
            or path.suffix != ".py"
            or "\\" in value
            or not value.isprintable()
        ):
            raise _rule(f"{document.shorten(value)!r} is not a Python file in the function's folder")
        return value

    @field_validator("models")
    @classmethod
    def _few(cls, value: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if value and len(value) > limits.MODELS_PER_FUNCTION_MAX:
            raise _rule(f"{len(value)} models: {limits.MODELS_PER_FUNCTION_MAX} at most")
        for alias in value or ():
            if not _ALIAS.fullmatch(alias):
                shown = document.shorten(alias)
                raise _rule(
                    f"alias {shown!r}: letters, digits, '_' and '-', starting with a letter or '_'", key=alias
                )
        return value

    @field_validator("env")
    @classmethod
    def _variables(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if len(value) > limits.ENV_VARIABLES_MAX:
            raise _rule(f"{len(value)} variables: {limits.ENV_VARIABLES_MAX} at most")
        for name, text in value.items():
            _check_variable(name, text)
        return value

    @field_validator("env_from")
    @classmethod
    def _few_sources(cls, value: tuple[EnvFrom, ...]) -> tuple[EnvFrom, ...]:
        if len(value) > limits.ENV_SOURCES_MAX:
            raise _rule(f"{len(value)} sources: {limits.ENV_SOURCES_MAX} at most")
        return value

    @field_validator("triggers")
    @classmethod
    def _same_timeout(cls, value: tuple[Trigger, ...] | None, info: ValidationInfo) -> tuple[Trigger, ...] | None:
        """Give each trigger that names no attempt timeout the function's: shorter would send twice."""
        if value is None:
            return None
        if len(value) > limits.TRIGGERS_PER_FUNCTION_MAX:
            raise _rule(f"{len(value)} triggers: {limits.TRIGGERS_PER_FUNCTION_MAX} at most")
        timeout_s = info.data.get("timeout_s", limits.TIMEOUT_SECONDS_DEFAULT)
        return tuple(_with_timeout(trigger, timeout_s) for trigger in value)

    def trigger_for(self, event_type: str) -> Trigger:
        """Make the trigger an ``@event(type=event_type)`` handler gets when the file names none ('': any type)."""
        wanted = {"type": event_type} if event_type else {}
        return Trigger(filter=wanted, delivery=Delivery(timeout_s=self.timeout_s))


def _with_timeout(trigger: Trigger, timeout_s: float) -> Trigger:
    if "timeout_s" in trigger.delivery.model_fields_set:
        return trigger
    return trigger.model_copy(update={"delivery": trigger.delivery.model_copy(update={"timeout_s": timeout_s})})


def _check_variable(name: str, text: str) -> None:
    shown = document.shorten(name)
    if not _VARIABLE.fullmatch(name):
        raise _rule(f"variable {shown!r}: letters, digits and '_', not starting with a digit", key=name)
    if _RESERVED.fullmatch(name):
        message = f"variable {shown!r} is set by the platform: PORT, HOST, K_* and SHOAL_* are reserved"
        raise _rule(message, key=name)
    if "\0" in text or len(text.encode()) > limits.ENV_VALUE_BYTES_MAX:
        raise _rule(
            f"variable {shown!r}: {limits.ENV_VALUE_BYTES_MAX} bytes at most, without a zero byte", key=name
        )


def parse(raw: bytes, *, file: str, name: str) -> FunctionSpec:
    """Read the bytes of a function.yaml called ``file`` in messages; ``name`` is used where it names none.

    Raises SpecError with one line ``file:line:column: what`` for each mistake, and nothing else.
    """
    try:
        read = document.read(raw)
    except document.DocumentError as error:
        raise spec_error(file, [error.mistake]) from None
    data = {"name": name, **read.data}
    try:
        spec = FunctionSpec.model_validate(data, by_name=False, context=FROM_FILE)
    except ValidationError as error:
        raise spec_error(file, [*read.mistakes, *explain(error, read, FunctionSpec)]) from None
    if read.mistakes:
        raise spec_error(file, read.mistakes)
    return spec


def load(folder: Path) -> FunctionSpec:
    """Read the function in ``folder``; without a function.yaml, a handler.py with the defaults is a function.

    Raises SpecError with ``file:line:column`` for each mistake.
    """
    raw = _read_file(folder)
    file = folder / FILE_NAME
    spec = _bare(folder) if raw is None else parse(raw, file=str(file), name=folder.resolve().name)
    if not _is_file(folder / spec.handler):
        where = str(folder) if raw is None else str(file)
        raise SpecError(
            f"the handler {spec.handler!r} is not a file in {folder}", where=where, hint=_handler_hint(folder)
        )
    return spec


def _bare(folder: Path) -> FunctionSpec:
    name = folder.resolve().name
    if not _is_file(folder / HANDLER_DEFAULT):
        message = f"neither {FILE_NAME} nor {HANDLER_DEFAULT} is in the folder"
        raise SpecError(message, where=str(folder), hint=_handler_hint(folder) or "shoal new NAME makes both")
    try:
        return FunctionSpec(name=name)
    except ValidationError:
        hint = f"name the function in {folder / FILE_NAME}:  name: my-function"
        raise SpecError(f"the folder's name {name!r} is no function name", where=str(folder), hint=hint) from None


def _read_file(folder: Path) -> bytes | None:
    """Give the bytes of the folder's function.yaml, bounded; None when it has none."""
    path = folder / FILE_NAME
    try:
        if not folder.is_dir():
            hint = (
                f"give its folder: {folder.parent}"
                if folder.is_file()
                else "shoal new NAME makes a folder to start from"
            )
            raise SpecError("no such folder", where=str(folder), hint=hint)
        if not path.is_file():
            _check_absent(path)
            return None
        with path.open("rb") as file:
            return file.read(limits.SPEC_BYTES_MAX + 1)
    except (OSError, RuntimeError) as error:
        raise SpecError(f"cannot be read: {_os_reason(error)}", where=str(path)) from None


def _check_absent(path: Path) -> None:
    """Tell apart an absent function.yaml, which is legal, from one that is there under a wrong name or shape."""
    if path.is_symlink() or path.exists():
        raise SpecError("is not a regular file", where=str(path), hint=f"ls -l {path}")
    if path.with_suffix(".yml").exists():
        wrong = path.with_suffix(".yml")
        raise SpecError(f"the file must be called {FILE_NAME}", where=str(wrong), hint=f"mv {wrong} {path}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _handler_hint(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.py") if not path.name.startswith("test_"))
    return f"handler: {found[0]}   (in {folder / FILE_NAME})" if found else ""


def _os_reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "its symbolic links form a loop"
