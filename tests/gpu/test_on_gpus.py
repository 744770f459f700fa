"""``pytest -m gpu``: the checks of scripts/gpu_check, and a push over NCCL. Not run yet; they skip without a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.stages.push.protocol import PushGroup
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings
from scripts.gpu_check.catalogue import CHECKS, Check
from scripts.gpu_check.engines import engine_args
from scripts.gpu_check.runner import run_check

NUM_GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NUM_GPUS < 1, reason="no GPU: these need one or two NVIDIA GPUs and bcpg-cluster[gpu]"),
]

ENGINE_ARGS = engine_args(is_gpu=True)
SETTINGS = {"objective": Bcpg(), "learning_rate": 1e-3, "min_learning_rate": 1e-3, "batch_sequences": 4}


class Engine:
    """A rollout engine and a trainer rank in a process of their own, called by name."""

    def __init__(self, kind: str, backend: str | None = None) -> None:
        model = resolve_asset("embedded:chain/policy")
        self.made: Any
        if kind == "rollout":
            from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

            self.made = VllmGenerator(model, engine_args=ENGINE_ARGS, weight_transfer_backend=backend)
        else:
            from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

            self.made = DeepSpeedRank(0, 1, "127.0.0.1", _free_port())
            self.made.open(model, TrainSettings(zero_stage=int(kind), dtype="float32", **SETTINGS))

    def run(self, method: str, *args: Any) -> Any:
        return getattr(self.made, method)(*args)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def start() -> Any:
    """``start(kind, backend)``: an actor with a GPU of its own."""
    import sys

    import ray

    from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
    from bcpg_cluster.cluster.runtime import MemberSpec

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    runtime = RayRuntime(ClusterChoice("local", "a test"), namespace="bcpg-gpu-tests", dashboard=False)
    names = iter(range(100))

    def make(kind: str, backend: str | None = None) -> Callable[..., Any]:
        spec = MemberSpec(
            f"engine/{next(names)}", Engine, {"kind": kind, "backend": backend}, num_cpus=0.1, num_gpus=1.0,
            env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PATH": os.environ["PATH"]},
        )  # fmt: skip
        member = runtime.start(spec)
        return lambda method, *args: member.call("run", method, *args)

    yield make
    runtime.shutdown()


def rows() -> list[TrainRow]:
    tokens = tuple(range(3, 13))
    return [
        TrainRow((1, 2, 3), tokens, (1.0,) * 10, 0.5 - index % 2, 1.0 - index % 2, 0.5, 4, (False,) * 10,
                 reference=ReferenceLogprobs((-1.0,) * 10))
        for index in range(4)
    ]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_of_the_gpu(check: Check, shared: Path):
    result = run_check(check, device="cuda", is_small=False, limit_s=600, shared=shared)
    if result.status == "skipped":
        pytest.skip(result.reason)
    assert result.status == "ok", f"{result.reason}\n{result.figures}"


@pytest.mark.skipif(NUM_GPUS < 2, reason="nccl needs a GPU for each side: this machine has one")
def test_a_push_over_nccl(start: Any, tmp_path: Path):
    engine, trainer = start("rollout", "nccl"), start("2")
    trainer("train", rows(), None).result(600)
    digests = trainer("save_snapshot", str(tmp_path / "snapshot")).result(600)
    group = PushGroup("127.0.0.1", _free_port(), 2, "nccl")
    with ThreadPoolExecutor(2) as both:
        joins = [both.submit(engine("join_push_group", group, 1).result, 600)]
        joins.append(both.submit(trainer("join_push_group", group).result, 600))
        [join.result() for join in joins]
        specs = trainer("push_specs").result(600)
        sent = trainer("push_weights")
        assert engine("receive_weights", specs, 1).result(600) == digests.wire
        sent.result(600)
    pair = ((1, 2, 3), tuple(range(3, 13)))
    expected = trainer("score_tokens", [pair]).result(600)[0]
    assert engine("score_tokens", [pair]).result(600)[0] == pytest.approx(expected, abs=1e-3)
