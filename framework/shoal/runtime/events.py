"""CloudEvents 1.0.2: the event a handler sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event; ``id``, ``source`` and ``time`` left empty are filled in when it is sent."""

    type: str
    source: str = ""
    id: str = ""
    specversion: str = "1.0"
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    data: Any = None
