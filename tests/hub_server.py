"""A Hugging Face hub on loopback, as far as a push of a model needs one: who am I, make a repository, upload, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback_server import LoopbackServer

TOKEN = "hf_a-very-secret-token"


@dataclass
class Hub:
    """What was sent, and how it answers.

    Attributes:
        refuse: (status, message) by the path's last word (``create``, ``main``, ``whoami-v2``), in the place of an answer.
        repositories: by name, the request that made it.
        files: what was committed, by name; large ones are sent before their commit.
        asked: every (method, path).
    """

    url: str = ""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        self.asked.append((method, path))
        last = path.rpartition("/")[2]
        if last in self.refuse:
            status, message = self.refuse[last]
            return status, {"error": message}
        if path.startswith("/upload/"):  # where the batch answer sends large files; no token goes there
            self.large[last] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        content = json.loads(body) if body and not path.endswith("/commit/main") else {}
        if last == "whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/repos/create":
            name = f"{content['organization']}/{content['name']}"
            return (409 if name in self.repositories else 200), self._make(name, content)
        if path.startswith("/api/models/") and method == "GET":
            name = path.removeprefix("/api/models/")
            made = self.repositories.get(name)
            is_private = made is not None and made.get("visibility") == "private"
            return (
                (404, {"error": "Repository not found"}) if made is None else (200, {"id": name, "private": is_private})
            )
        if last == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            return 200, {"files": [self._mode(file) for file in content["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            upload = {"upload": {"href": f"{self.url}/upload/%s"}}
            objects = [
                {**found, "actions": {"upload": {"href": upload["upload"]["href"] % found["oid"]}}}
                for found in content["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.endswith("/commit/main"):
            return 200, self._commit(body)
        return 404, {"error": f"no {method} {path}"}

    def _make(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        self.repositories.setdefault(name, content)
        return {"url": f"{self.url}/{name}"}

    @staticmethod
    def _mode(file: dict[str, Any]) -> dict[str, Any]:
        is_large = file["path"].endswith(".safetensors")
        return {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _commit(self, body: bytes) -> dict[str, Any]:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            else:
                sent = self.large[value["oid"]]
                assert hashlib.sha256(sent).hexdigest() == value["oid"]
                self.files[value["path"]] = sent
        return {"commitUrl": f"{self.url}/me/mine/commit/0123", "commitOid": "0" * 40}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that lives as long as the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self._body()
            status, content = hub.answer(self.command, self.path, self.headers.get("authorization"), body)
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            if status == 404:
                self.send_header("x-error-code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_HEAD = _do  # noqa: N815  (the server's own names)

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
