"""Run by helpers_events.Sdk2: the CloudEvents SDK 2.x of a folder; one JSON question and one answer a line."""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime
from typing import Any

sys.path.insert(0, sys.argv[1])

from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    if question["do"] == "read":
        message = http.HTTPMessage(headers=question["headers"], body=base64.b64decode(question["body"]))
        event = http.from_http_event(message)
        attributes = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in event.get_attributes().items()
        }
        return {"attributes": attributes, "data": _tagged(event.get_data())}
    attributes = question["attributes"]
    if "time" in attributes:
        attributes["time"] = datetime.fromisoformat(attributes["time"])
    data = question["data"]
    event = CloudEvent(attributes, base64.b64decode(data["bytes"]) if "bytes" in data else data["value"])
    message = http.to_binary_event(event) if question["do"] == "binary" else http.to_structured_event(event)
    return {"headers": message.headers, "body": base64.b64encode(message.body).decode()}


def _tagged(data: Any) -> dict[str, Any]:
    return {"bytes": base64.b64encode(data).decode()} if isinstance(data, bytes) else {"value": data}


for line in sys.stdin:
    try:
        answer = _answer(json.loads(line))
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
