"""A real browser without a window, driven over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from helpers_gateway import PATIENCE_S, until

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)  # fmt: skip


@dataclass
class Browser:
    """One page in one browser."""

    socket: aiohttp.ClientWebSocketResponse
    ids: Any

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and give its result."""
        identity = next(self.ids)
        await self.socket.send_json({"id": identity, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.socket.receive_json()
                if answer.get("id") == identity:
                    assert "error" not in answer, answer
                    return answer["result"]

    async def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Open a page in a window ``width`` CSS pixels wide and wait until its live sign says so."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)
        await until(
            lambda: self.run("document.getElementById('live')?.textContent.startsWith('live')"), f"for {url}"
        )

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page and give its JSON value."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def picture(self, path: Path) -> None:
        """Save a picture of the whole page."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@asynccontextmanager
async def running_browser(profile: Path) -> AsyncIterator[Browser]:
    """Start chromium with a fresh profile; it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        "chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        note = profile / "DevToolsActivePort"
        await until(lambda: note.exists() and len(note.read_text().splitlines()) == 2, "for the browser")
        port = note.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in json.loads(await answer.text()) if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket, count(1))
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
        await process.wait()
