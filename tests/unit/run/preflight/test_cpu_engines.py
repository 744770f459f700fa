"""cpu_engines.py: heads that no CPU kernel is made for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.preflight.cpu_engines import check_cpu_engines


def test_heads_without_a_kernel(make_config: Callable[..., Config], tmp_path: Path):
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 8, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "num_attention_heads": 4}))
    policy = {"kind": "vllm", "model": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"pools.rollout has no GPU, and .* has attention heads of 16 numbers"):
        check_cpu_engines(make_config(policy=policy))
    check_cpu_engines(make_config(policy=policy, pools={"rollout": {"num_gpus": 1}}))
    (tmp_path / "config.json").write_text(json.dumps({**shape, "num_attention_heads": 2}))
    check_cpu_engines(make_config(policy=policy))
    check_cpu_engines(load_config("laptop"))
    check_cpu_engines(make_config(policy={"kind": "vllm", "model": "org/not-here"}))
