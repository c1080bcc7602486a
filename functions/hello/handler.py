"""The smallest function: a greeting over HTTP, and a note in the log about every file that was classified."""

import logging
from dataclasses import dataclass

from shoal import CloudEvent, event, http

log = logging.getLogger("hello")


@dataclass
class Guest:
    name: str = "world"


@dataclass
class Greeting:
    text: str


@http
async def hello(guest: Guest) -> Greeting:
    return Greeting(f"Hello, {guest.name}!")


@event(type="com.example.file.classified")
async def on_classified(data: dict, classified: CloudEvent) -> None:
    log.info("classified subject=%s label=%s", classified.subject, data.get("label"))
