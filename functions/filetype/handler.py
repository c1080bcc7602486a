"""Which kind of file is this? Bytes in, a label and how sure the model is out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from features import features

from shoal import CloudEvent, Model, event, http

LABELS = json.loads(Path(__file__).with_name("labels.json").read_text())
magika = Model("magika", inputs={"bytes": "INT32[-1,2048]"}, outputs={"target_label": "FP32[-1,214]"})


@dataclass
class Answer:
    label: str
    score: float


@http
async def filetype(content: bytes) -> Answer:
    out = await magika(bytes=features(content))
    scores = out["target_label"].values
    best = max(range(len(scores)), key=scores.__getitem__)
    return Answer(LABELS[best], scores[best])


@event(type="com.example.file.uploaded")
async def on_upload(content: bytes, uploaded: CloudEvent) -> CloudEvent:
    answer = asdict(await filetype(content))
    return CloudEvent(type="com.example.file.classified", subject=uploaded.subject, data=answer)
