"""The small run on fakes that drills hit: two rounds, every kind of pool, slow enough to be hit in the middle."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.prompt_files import write_prompts
from tests.ray_head import BIN

ROUNDS = 2
DEADLINES = {"lease_timeout_s": 20.0, "silence_timeout_s": 6.0, "start_timeout_s": 90.0}
"""Of all pools of a run on a real Ray: above what a busy machine needs to answer."""
_POOLS = {"rollout": 2, "cpu": 2, "judge.llm": 2, "judge.second": 2, "prm": 2, "trainer": 1}
_LATENCY_S = 0.15
_NUM_PROMPTS, _PER_SHARD = 12, 2
NUM_SHARDS = _NUM_PROMPTS // _PER_SHARD
"""Of every table of a round."""


@dataclass(frozen=True, slots=True)
class SmallRun:
    """The command that drives it; ``through`` comes before it (``ssh``, say)."""

    config: Path
    environment: Mapping[str, str]
    through: tuple[str, ...] = ()

    def command(self, run_dir: Path, *where: str) -> list[str]:
        """Two rounds, on ``where`` (``--inline``, or ``--address`` and one)."""
        words = [BIN / "bcpg-cluster", "iterate", "-c", self.config, "--run-dir", run_dir, "--rounds", ROUNDS, *where]
        return [*self.through, *(str(word) for word in words)]

    def run(self, run_dir: Path, *where: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(run_dir, *where), env=dict(self.environment), capture_output=True, text=True, timeout=600
        )


def write_small_run(
    folder: Path,
    environment: Mapping[str, str],
    *,
    latency_s: float = _LATENCY_S,
    through: Sequence[str] = (),
    **pool: Any,
) -> SmallRun:
    """Write its config and prompts; every call takes ``latency_s``, ``pool`` are settings of all pools (deadlines, say)."""
    rng, taken = random.Random(5), set[str]()
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    write_prompts(train, 32, "a", rng, taken)
    write_prompts(test, _NUM_PROMPTS, "t", rng, taken)
    env = {"BCPG_FAKE_LATENCY_S": str(latency_s)}
    content = {
        "name": "drill",
        "policy": {"kind": "fake", "model": "fake"},
        "prompts": {"train": str(train), "test": str(test), "per_round": _NUM_PROMPTS},
        "generate": {"group_size": 8, "max_tokens": 200, "prompts_per_shard": _PER_SHARD},
        "judges": {
            "llm": {"kind": "fake", "precision": 0.9, "recall": 0.8, "pool": "judge.llm"},
            "second": {"kind": "fake", "precision": 0.85, "recall": 0.75, "pool": "judge.second"},
            "prm": {"kind": "fake", "precision": 0.85, "recall": 0.7, "pool": "prm"},
            "truth": {"kind": "chain_truth", "role": "measure"},
        },
        "objective": {"tau": 0.1},
        "train": {
            "kind": "fake",
            "learning_rate": 1.0e-4,
            "min_learning_rate": 1.0e-5,
            "checkpoint_every_steps": 2,
            "heartbeat_timeout_s": 6.0,
        },
        "push": {"num_canaries": 4, "deadline_s": 20.0},
        "evaluate": {"num_samples": 4, "prompts_per_shard": _PER_SHARD},
        "pools": {name: {"members": members, "num_cpus": 0.01, "env": env, **pool} for name, members in _POOLS.items()},
    }
    config = folder / "drill.yaml"
    config.write_text(yaml.safe_dump(content))
    return SmallRun(config, environment, tuple(through))


def last_words(texts: Sequence[str]) -> str:
    """The end of what was printed, for a result."""
    return "\n---\n".join(text[-1500:] for text in texts)
