"""Pages in a real, headless Chromium, driven over its debugging protocol (no driver package)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_KEYS = {
    "Enter": (13, "\r"), "Escape": (27, None), "Tab": (9, None), "Backspace": (8, None), "ArrowLeft": (37, None),
    "ArrowUp": (38, None), "ArrowRight": (39, None), "ArrowDown": (40, None),
}  # fmt: skip
_SETTLED = "document.readyState === 'complete'"


@dataclass(frozen=True)
class Page:
    """What a person would see: the text on the page, and a picture of it (PNG)."""

    text: str
    png: bytes


def look_at(url: str, words: list[str], *, cookies: Mapping[str, str], deadline_s: float) -> Page:
    """The page once all ``words`` are on it, each as often as it is listed; past the deadline an error with what it says."""
    with start_browser() as browser, browser.open_page(url, width=1600, height=1000, cookies=cookies) as page:
        wanted = (
            f"Object.entries({json.dumps(Counter(words))})"
            ".every(([word, times]) => document.body.innerText.split(word).length > times)"
        )
        page.wait_for(wanted, deadline_s=deadline_s)
        return Page(page.text(), page.screenshot())


@contextmanager
def start_browser() -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    assert PROGRAM is not None
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={profile}",
            "--remote-debugging-port=0", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = loop.run_until_complete(asyncio.wait_for(_port(Path(profile) / "DevToolsActivePort"), 120))
            yield Browser(loop, port)
        finally:
            process.kill()
            process.wait()
            loop.close()


async def _port(file: Path) -> str:
    while not (file.exists() and file.read_text()):
        await asyncio.sleep(0.1)
    return file.read_text().splitlines()[0]


@dataclass(frozen=True)
class Browser:
    """A running browser; its pages share nothing but its profile."""

    loop: asyncio.AbstractEventLoop
    port: str

    @contextmanager
    def open_page(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        cookies: Mapping[str, str] | None = None,
        before: str = "",
    ) -> Iterator[OpenPage]:
        """A new page at ``url``, once it has loaded. ``before``: a script that runs before the page's own."""
        session = self.loop.run_until_complete(_session())
        try:
            page = self.loop.run_until_complete(_new_page(self.loop, session, self.port))
            page.ask(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            page.ask("Emulation.setEmulatedMedia", features=[scheme])
            for name, value in (cookies or {}).items():
                page.ask("Network.setCookie", name=name, value=value, url=url)
            page.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
            page.goto(url)
            yield page
            page.ask("Page.close")
        finally:
            self.loop.run_until_complete(session.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _new_page(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession, port: str) -> OpenPage:
    async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as response:
        target = await response.json()
    page = OpenPage(loop, await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
    for domain in ("Page", "Runtime", "Network", "Log"):
        await page.answer_to(f"{domain}.enable", {})
    return page


@dataclass
class OpenPage:
    """One page: what a person does to it and sees of it.

    Attributes:
        console_errors: exceptions, errors on the console, and what the page's own policy refused.
        requests: addresses that the page asked for, the page itself first; ``data:`` and ``blob:`` are none.
    """

    loop: asyncio.AbstractEventLoop
    socket: aiohttp.ClientWebSocketResponse
    console_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def goto(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait_for(_SETTLED)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression (awaited if it is a promise)."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str, *, deadline_s: float = 60.0) -> None:
        """Until an expression is true; past the deadline an error with what the page says instead."""

        async def look() -> None:
            while True:
                found = await self.answer_to(
                    "Runtime.evaluate", {"expression": f"!!({condition})", "returnByValue": True}
                )
                if found["result"].get("value"):
                    return
                await asyncio.sleep(0.05)

        try:
            self._do(asyncio.wait_for(look(), deadline_s))
        except TimeoutError:
            raise AssertionError(
                f"{condition} never held; {self.console_errors}; the page: {self.text()[:3000]}"
            ) from None

    def text(self) -> str:
        return self.evaluate("document.body ? document.body.innerText : ''")

    def click(self, selector: str) -> None:
        """Click where the element is, as a pointer does."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getClientRects()[0];"
            "return {x: r.x + Math.min(r.width / 2, 40), y: r.y + r.height / 2}; })()"
        )
        assert place is not None, f"no {selector} on the page: {self.text()[:2000]}"
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key by its name (``Enter``, ``j``)."""
        code, text = _KEYS.get(key, (ord(key.upper()) if len(key) == 1 else 0, key))
        parts = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **parts, **({"text": text} if text else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **parts)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """A picture (PNG) of what is in the window, or of the whole page."""
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        return base64.b64decode(picture["data"])

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.evaluate(
            "({width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight})"
        )
        return {"clip": {"x": 0, "y": 0, "scale": 1, **size}}

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        return self._do(asyncio.wait_for(self.answer_to(method, parameters), 120))

    async def answer_to(self, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:  # events of the page come in between
            message = await self.socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            with suppress(KeyError):
                self._hear(message["method"], message["params"])

    def _hear(self, event: str, of: Mapping[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = of["exceptionDetails"]
            self.console_errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and of["entry"]["level"] == "error":
            self.console_errors.append(of["entry"]["text"])
        elif event == "Runtime.consoleAPICalled" and of["type"] == "error":
            self.console_errors.append(" ".join(str(part.get("value", part.get("description"))) for part in of["args"]))
        elif event == "Network.requestWillBeSent" and not of["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(of["request"]["url"])

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)
