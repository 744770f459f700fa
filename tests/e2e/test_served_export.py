"""An exported policy behind vLLM's OpenAI-compatible server says what the run's own engines said."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from bcpg_cluster.exchange.policy.export_policy import export_policy
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.stages.generate.vllm_options import EAGER_ON_CPUS
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import prompts_from, rollouts_from
from bcpg_cluster.store.shards import read_table
from tests.real_run import RealRun, real_environment

pytestmark = pytest.mark.engine

# `vllm serve` on machines with GPUs; the CPU package's command of that name does not start (docs/data.md).
SERVER = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "policy"]
FOR_CPUS = [
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "256",
    "--max-num-seqs",
    "4",
    "--block-size",
    "32",
]
START_TIMEOUT_S = 240


def _ask(url: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read() or b"{}"))


@pytest.fixture(scope="module")
def server(real_run: RealRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address, once it answers."""
    folder = tmp_path_factory.mktemp("served")
    export_policy(real_run.directory, folder / "policy", load_run_config(real_run.directory))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = real_environment() | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        **EAGER_ON_CPUS,
    }
    command = [*SERVER, *FOR_CPUS, "--model", str(folder / "policy"), "--host", "127.0.0.1", "--port", str(port)]
    address, log = f"http://127.0.0.1:{port}", folder / "log.txt"
    with log.open("wb") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            try:
                _ask(f"{address}/v1/models")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def test_it_answers_as_the_runs_engines_did(real_run: RealRun, server: str) -> None:
    run_dir = real_run.directory
    state = read_manifest(run_dir)
    questions = {p.prompt_id: p.question for p in prompts_from(read_table(run_dir, state.receipts(1, "eval_prompts")))}
    rollouts = rollouts_from(read_table(run_dir, state.receipts(1, "eval_rollouts")))
    greedy = [r for r in rollouts if r.id.sample == -1 and r.stop_reason == "stop"][:3]
    assert greedy
    for rollout in greedy:
        asked = [{"role": "user", "content": questions[rollout.id.prompt_id]}]
        body = {"model": "policy", "messages": asked, "temperature": 0, "max_tokens": 192}
        said = _ask(f"{server}/v1/chat/completions", body)["choices"][0]["message"]["content"]
        assert said and said == "".join(rollout.token_texts)
