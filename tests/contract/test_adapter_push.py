"""Adapters alone into live engines: what is served is what a push of the merged weights would have served, round after round."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling
from bcpg_cluster.stages.push.adapters.versions import BASE_WEIGHTS, AdapterPush, Carried, weights_id
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.stages.push.canaries import Canary, judge_canaries
from bcpg_cluster.stages.push.protocol import PushGroup
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import LoraSettings, TrainSettings
from benchmarks.measure import free_port
from tests.contract.test_weight_push import CANARIES, EXACT, NEXT, PREFIX, engine_scores, worst

LORA = LoraSettings(rank=4, alpha=6.0)
SETTINGS = TrainSettings(Bcpg(), 1e-4, 1e-5, lora=LORA)
SAME = 1e-5  # nats; both ways serve weights that differ in the last bits of float32 at most

pytestmark = pytest.mark.engine


class Round:
    """A trainer after a round, with adapters that change what the model says."""

    def __init__(self, start: str, folder: Path, seed: int) -> None:
        import torch

        from bcpg_cluster.stages.train.torch_trainer import TorchTrainer

        self.trainer, self.path = TorchTrainer("cpu"), str(folder / f"v{seed}")
        self.trainer.open(start, replace(SETTINGS, seed=seed))
        random = torch.Generator().manual_seed(seed)
        for adapter in self.trainer._opened().adapters.values():
            adapter.up.data.normal_(std=0.05, generator=random)
        written = self.trainer.save_snapshot(self.path)
        assert written is not None
        self.digests = written
        self.adapter_digests = self.trainer.adapter_digests()
        *scores, following = self.trainer.score_tokens([*CANARIES, (PREFIX, (NEXT,))])
        self.canaries = [
            Canary(*pair, said, said) for pair, said in zip(CANARIES, scores, strict=True)
        ]  # of the new weights alone: what came before is not asked here
        self.scores = [score for said in scores for score in said] + list(following)

    def after(self, start: str, scaling: float = 1.5) -> AdapterPush:
        """What a push of the adapters says of them, after weights of the id ``start``."""
        return AdapterPush(self.adapter_digests or {}, scaling, start, weights_id(self.digests.stored))


def push(engine: Any, trainer: Any, version: int, adapters: AdapterPush | None) -> dict[str, str]:
    """One push by a trainer in another thread; the digests of what arrived."""
    carried: Carried = "weights" if adapters is None else "adapters"
    group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
    stdout = os.dup(1)
    with ThreadPoolExecutor(1) as thread:
        joined = thread.submit(trainer.join_push_group, group)
        engine.join_push_group(group, rank=1)
        joined.result()
        # vLLM silences stdout while it makes a group; two threads at it in one process leave it silent for good.
        os.dup2(stdout, 1)
        os.close(stdout)
        sent = thread.submit(trainer.push_weights, carried)
        specs = trainer.push_specs(carried)
        try:
            digests: dict[str, str] = (
                engine.receive_weights(specs, version)
                if adapters is None
                else engine.receive_adapters(specs, adapters, version)
            )
        finally:
            sent.result()
            engine.leave_push_group()
            trainer.leave_push_group()
    return digests


@pytest.fixture(params=["tied", "untied"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    """An engine with its base model, and where that lies."""
    engine = request.getfixturevalue(f"{request.param}_engine")
    path = request.getfixturevalue(f"{request.param}_model")[1]
    engine.load_snapshot(path, 0)
    yield engine, path
    engine.load_snapshot(path, 0)


def test_both_ways_serve_the_same(served: tuple[Any, str], tmp_path: Path, cached_tokens: Callable[..., Any]) -> None:
    """Three rounds: two upon the base model, the last upon a snapshot, from which a restarted member begins."""
    engine, base = served
    rounds: list[Round] = []
    for seed in (1, 2, 3):
        rounds.append(Round(rounds[-1].path if rounds else base, tmp_path, seed))

    whole = []
    for version, of_round in enumerate(rounds, start=1):
        assert arrival_faults(of_round.digests.wire, push(engine, of_round.trainer, version, None)) == ""
        whole.append(engine_scores(engine))
    assert engine.adapter_start() is None  # whole weights came: nothing on disk is what it holds

    engine.load_snapshot(base, 0)
    start = BASE_WEIGHTS
    present = engine_scores(engine)
    for version, (of_round, by_weights) in enumerate(zip(rounds, whole, strict=True), start=1):
        if version == 3:
            engine.load_snapshot(rounds[1].path, 2)
        assert engine.adapter_start() == start
        digests = push(engine, of_round.trainer, version, of_round.after(start))
        assert digests == of_round.adapter_digests
        with cached_tokens(engine) as cached:
            found = engine_scores(engine)
        assert sum(cached) == 0  # the cached prefix is gone with the old weights
        with cached_tokens(engine) as cached:
            assert worst(engine_scores(engine), by_weights) < SAME  # and through the newly cached one
        assert sum(cached) == 64
        print(f"\nv{version}: against whole weights {worst(found, by_weights):.1e}, change {worst(found, present):.1e}")
        assert worst(found, by_weights) < SAME
        assert worst(found, of_round.scores) < EXACT
        assert worst(found, present) > 100 * EXACT
        answer = engine.generate([GenerateRequest(PREFIX, Sampling(max_tokens=2))])[0]
        assert answer.policy_version == engine.policy_version == version
        judge_canaries(of_round.canaries, [engine.score_tokens(CANARIES)], None, EXACT)
        present, start = found, weights_id(of_round.digests.stored)


def test_wrong_missing_and_stale_adapters_are_found(served: tuple[Any, str], tmp_path: Path) -> None:
    import torch

    engine, base = served
    round_ = Round(base, tmp_path, 1)
    noted, wanted = round_.adapter_digests or {}, round_.after(BASE_WEIGHTS)
    assert noted

    name, adapter = next(iter(round_.trainer._opened().adapters.items()))
    kept = adapter.up.data.clone()
    adapter.up.data[0, 0] += 1.0
    faults = arrival_faults(noted, push(engine, round_.trainer, 1, wanted))
    assert faults.startswith("1 parameters differ from the snapshot") and name.removesuffix(".weight") in faults
    adapter.up.data.copy_(kept)

    engine.load_snapshot(base, 0)
    with torch.no_grad():
        left_out = round_.trainer._opened().adapters.pop(name)
        faults = arrival_faults(noted, push(engine, round_.trainer, 1, wanted))
        assert "0 parameters differ" in faults and "2 did not arrive" in faults
        round_.trainer._opened().adapters[name] = left_out

    engine.load_snapshot(base, 0)  # stale: the version is said to be new, and the old weights answer
    with pytest.raises(PushError, match="do not hold the weights"):
        judge_canaries(round_.canaries, [engine.score_tokens(CANARIES)], None, 1e-3)
    push(engine, round_.trainer, 1, round_.after(BASE_WEIGHTS, scaling=1.0))  # merged by another factor
    with pytest.raises(PushError, match="do not hold the weights"):
        judge_canaries(round_.canaries, [engine.score_tokens(CANARIES)], None, 1e-3)


def test_adapters_of_other_weights_are_refused(served: tuple[Any, str], tmp_path: Path) -> None:
    """Before anything is taken from the wire, and nothing changes."""
    engine, base = served
    round_ = Round(base, tmp_path, 1)
    before = engine_scores(engine)
    with pytest.raises(PushError, match="the adapters are of weights another"):
        engine.receive_adapters(round_.trainer.push_specs("adapters"), round_.after("another"), 1)
    assert (engine.policy_version, engine_scores(engine)) == (0, before)


def test_adapters_that_fit_nothing_are_loud_and_mended_by_a_reload(served: tuple[Any, str], tmp_path: Path) -> None:
    engine, base = served
    round_ = Round(base, tmp_path, 1)
    adapters = round_.trainer._opened().adapters
    adapters["model.layers.99.mlp.up_proj.weight"] = next(iter(adapters.values()))
    with pytest.raises(PushError, match=r"1 adapters are of weights that the checkpoint lacks, e.g. model.layers.99"):
        push(engine, round_.trainer, 1, round_.after(BASE_WEIGHTS))
    assert (engine.policy_version, engine.adapter_start()) == (-1, None)
    with pytest.raises(EngineError, match="load a snapshot"):
        engine.generate([GenerateRequest(PREFIX, Sampling(max_tokens=2))])
    engine.load_snapshot(round_.path, 1)
    assert worst(engine_scores(engine), round_.scores) < EXACT


def test_a_start_that_changed_on_disk_takes_no_adapters(served: tuple[Any, str], tmp_path: Path) -> None:
    engine, base = served
    copy = shutil.copytree(base, tmp_path / "copy")
    digests = engine.load_snapshot(str(copy), 1)
    assert engine.adapter_start() == weights_id(digests)
    (copy / "model.safetensors").touch()
    assert engine.adapter_start() is None
    shutil.rmtree(copy)
    assert engine.adapter_start() is None
