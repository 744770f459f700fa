"""Every process group of a trainer rank's process has the configured time, those included that DeepSpeed makes by itself."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

pytestmark = pytest.mark.engine

TIMEOUT_S = 77.0


def open_and_look(model: str, port: int, found: Any) -> None:
    """In a process of its own: open a model, then tell the time in seconds of every group there is."""
    from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

    rank = DeepSpeedRank(0, 1, "127.0.0.1", port, timeout_s=TIMEOUT_S)
    rank.open(model, TrainSettings(objective=Bcpg(), learning_rate=1e-3, min_learning_rate=1e-3, zero_stage=2))
    groups = list(torch.distributed.distributed_c10d._world.pg_map)
    groups.append(torch.distributed.new_group([0]))  # one made later
    backends = [group._get_backend(torch.device("cpu")) for group in groups]
    found.put([backend.options._timeout.total_seconds() for backend in backends])
    rank.close()


def test_every_group_has_the_configured_time(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1, vocab_size=61)).save_pretrained(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=open_and_look, args=(str(tmp_path), port, found))
    process.start()
    times = found.get(timeout=300)
    process.join(60)
    assert len(times) > 2, "DeepSpeed is expected to make groups of its own"
    assert set(times) == {TIMEOUT_S}
