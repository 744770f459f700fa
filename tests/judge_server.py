"""A scripted OpenAI-compatible server on loopback, for tests of what asks one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback_server import LoopbackServer

Play = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


def asked(request: dict[str, Any]) -> tuple[int, int]:
    """The steps a request asks about."""
    found = re.search(r"Grade steps (\d+) to (\d+)", request["messages"][1]["content"])
    assert found is not None
    return int(found[1]), int(found[2])


def verdicts(first: int, last: int, wrong: tuple[int, ...] = ()) -> str:
    """A right answer, as text."""
    items = [
        {
            "step": step,
            "reason": "checked",
            "error_type": "calculation" if step in wrong else "none",
            "correct": int(step not in wrong),
        }
        for step in range(first, last + 1)
    ]
    return json.dumps({"verdicts": items})


def completion(content: str | None, **message: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content} | message}
        ],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1050,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
    }


def sends(body: dict[str, Any]) -> Play:
    return lambda request: (200, {"content-type": "application/json"}, json.dumps(body).encode())


def good(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return sends(completion(verdicts(*asked(request), wrong=(1,))))(request)


def fails(status: int, message: str = "no", **headers: str) -> Play:
    body = json.dumps({"error": {"message": message, "type": "t"}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: (status, {"content-type": "application/json"} | named, body)


def raw(body: bytes, kind: str) -> Play:
    return lambda request: (200, {"content-type": kind}, body)


class Server:
    """Plays a script, one line a request; after its end every answer is good."""

    def __init__(self) -> None:
        self.plays: list[Play] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Which models there are, for ``/models``."""
                body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with script.lock:
                    script.requests.append(request)
                    script.keys.append(self.headers["authorization"])
                    script.headers.append({name.lower(): value for name, value in self.headers.items()})
                    play = script.plays.pop(0) if script.plays else good
                status, headers, body = play(request)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has lost patience
                    pass

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.http = LoopbackServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
