"""An endpoint that repeats its API key wherever it can: nothing that a run leaves or prints has it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.judge_server import Play, Server, asked, completion, verdicts

KEY = "sk-Never/To+Be=Seen-0123456789"
CODE = base64.b64encode(KEY.encode()).decode()
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
COMMAND = "import logging; logging.basicConfig(level=logging.DEBUG); from bcpg_cluster_cli.app import main; main()"


def tells(status: int = 200) -> Play:
    """The key in content, reasoning, id, model name, usage, fingerprint, headers, and the fields of an error."""

    def play(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        answer = verdicts(*asked(request)).replace("checked", f"{KEY} {CODE}")
        body = completion(answer, reasoning_content=KEY, refusal=None) | {"id": KEY, "model": KEY, KEY: KEY}
        body["usage"] |= {KEY: 1, "note": KEY}
        if status != 200:
            body = {"error": {"message": f"bad key {KEY}, which is {CODE}", "type": KEY, "code": KEY, "param": KEY}}
        text = json.dumps(body, indent=1).replace(KEY, ESCAPED, 2)
        return status, {"content-type": "application/json", "x-request-id": KEY, "x-echo": CODE}, text.encode()

    return play


def prose(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """No completion at all."""
    return 200, {"content-type": "text/html"}, f"<html>{KEY}</html>".encode()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def test_nothing_has_the_key(server: Server, tmp_path: Path, fakes_content: Callable[[], dict[str, Any]]) -> None:
    server.plays = [tells(), tells(400), prose, tells(), tells(500), tells(429), tells()] + [tells()] * 2000
    content = fakes_content()
    content["prompts"]["per_round"] = 4
    content["evaluate"]["num_prompts"] = 2
    content["judges"]["llm"] = {
        "kind": "openai",
        "model": "m",
        "cache": str(tmp_path / "cache"),
        "endpoint": {"base_url": server.url, "api_key_env": "JUDGE_KEY", "max_retries": 1, "call_timeout_s": 30},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    arguments = ["iterate", "--config", str(config), "--run-dir", str(tmp_path / "run"), "--rounds", "1", "--inline"]
    environment = os.environ | {"JUDGE_KEY": KEY, "OPENAI_LOG": "debug", "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert f"Bearer {KEY}" in server.keys  # it was sent, and so repeated
    shown = {"stdout": done.stdout, "stderr": done.stderr}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            shown[str(path)] = path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                shown[str(path)] += json.dumps(pq.read_table(path).to_pylist(), default=str)
    assert any("***" in text for name, text in shown.items() if name.endswith(".parquet"))
    assert any("***" in text for name, text in shown.items() if "cache" in name)
    assert "receive_response_headers.complete" in done.stderr  # the client was heard at its most talkative
    for name, text in shown.items():
        for secret in (KEY, KEY.lower(), CODE[:-4], ESCAPED, json.dumps(ESCAPED)[1:-1]):
            assert secret not in text, name
