"""One look at a page with a real, headless Chromium, driven over its debugging protocol (no driver package)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass(frozen=True)
class Page:
    """What a person would see: the text on the page, and a picture of it (PNG)."""

    text: str
    png: bytes


def look_at(url: str, words: list[str], *, cookies: Mapping[str, str], deadline_s: float) -> Page:
    """Open the page and wait until all ``words`` are on it, at most until the deadline; the page as it is then."""
    return asyncio.run(_look(url, words, cookies, deadline_s))


async def _look(url: str, words: list[str], cookies: Mapping[str, str], deadline_s: float) -> Page:
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--window-size=1600,1000", f"--user-data-dir={profile}",
            "--remote-debugging-port=0", "about:blank",
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(deadline_s), aiohttp.ClientSession() as session:
                port = await _port(Path(profile) / "DevToolsActivePort")
                return await _visit(session, port, url, words, cookies)
        finally:
            browser.kill()
            browser.wait()


async def _port(file: Path) -> str:
    while not (file.exists() and file.read_text()):
        await asyncio.sleep(0.1)
    return file.read_text().splitlines()[0]


async def _visit(
    session: aiohttp.ClientSession, port: str, url: str, words: list[str], cookies: Mapping[str, str]
) -> Page:
    async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
        target = next(page for page in await response.json() if page["type"] == "page")
    async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        numbers = itertools.count()

        async def ask(method: str, **parameters: Any) -> dict[str, Any]:
            number = next(numbers)
            await socket.send_json({"id": number, "method": method, "params": parameters})
            while True:  # events of the page come in between
                answer = await socket.receive_json()
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]

        for name, value in cookies.items():
            await ask("Network.setCookie", name=name, value=value, url=url)
        await ask("Page.navigate", url=url)
        while True:
            found = await ask("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
            text = found["result"].get("value", "")
            if all(word in text for word in words):
                break
            await asyncio.sleep(0.5)
        picture = await ask("Page.captureScreenshot", format="png")
        return Page(text, base64.b64decode(picture["data"]))
