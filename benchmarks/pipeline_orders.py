"""A run in both orders, with engines that sleep: what is hidden, what a round takes, and that the results are the same.

Coordinator, pools, manifest and files are real; generation, judges and the weighing sleep as long as those of the default take
(``simulated_members.LATENCY``), and so do the trainers. Each of the pools has cores of its own that way, as on a cluster.

    python benchmarks/pipeline_orders.py [--rounds 3] [--time-scale 0.25] [--repeats 2] [--json FILE]
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, ratios, summarise
from simulated_members import latency

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow, TrainSettings
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.watch.observer import SilentObserver

SHARDS = 8
OPEN_S, REFERENCE_S, TRAIN_S = 1.5, 1.6, 31.0  # of a round: the first of an earlier run of the default
CONFIG = {
    "name": "orders",
    "policy": {"kind": "fake", "model": "fake"},
    "prompts": {
        "train": "embedded:chain/prompts/train.jsonl",
        "test": "embedded:chain/prompts/test.jsonl",
        "per_round": 32,
    },
    "generate": {"group_size": 8, "max_tokens": 200, "prompts_per_shard": 32 // SHARDS},
    "judges": {"llm": {"kind": "fake", "pool": "judge.llm"}, "prm": {"kind": "fake", "pool": "prm"}},
    "objective": {"tau": 0.1},
    "train": {"kind": "fake", "learning_rate": 1e-4, "min_learning_rate": 1e-5},
    "evaluate": {"num_prompts": 32, "prompts_per_shard": 32 // SHARDS},
    "pools": {"rollout": {"members": 2}},
}


class Sleep:
    """Has the members of this process sleep, for the time of a block.

    Args:
        time_scale: seconds slept for a second of an engine.
    """

    def __init__(self, seed: int, time_scale: float) -> None:
        self._seed, self._time_scale = seed, time_scale
        self._engines: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        work, reference, train = StageWorker._work_on, FakeTrainerRank.reference_logprobs, FakeTrainerRank.train
        opened = FakeTrainerRank.open
        self._kept = work, reference, train, opened

        def slow_work(worker: StageWorker, job: StageJob) -> StageResult:
            with self._engines.setdefault(id(worker), threading.Lock()):
                self._sleep(latency(job.stage, self._seed, 100 * job.round + job.shard))
            return work(worker, job)

        def slow_reference(rank: FakeTrainerRank, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
            self._sleep(REFERENCE_S / SHARDS)
            return reference(rank, rows)

        def slow_train(rank: FakeTrainerRank, *arguments: Any) -> list[StepReport]:
            self._sleep(TRAIN_S)
            return train(rank, *arguments)

        def slow_open(rank: FakeTrainerRank, model_path: str, settings: TrainSettings) -> None:
            self._sleep(OPEN_S)
            opened(rank, model_path, settings)

        self._put(slow_work, slow_reference, slow_train, slow_open)

    def __exit__(self, *_: object) -> None:
        self._put(*self._kept)

    def _sleep(self, seconds: float) -> None:
        time.sleep(self._time_scale * seconds)

    def _put(self, work: Any, reference: Any, train: Any, opened: Any) -> None:
        StageWorker._work_on = work  # type: ignore[method-assign]
        FakeTrainerRank.reference_logprobs = reference  # type: ignore[method-assign]
        FakeTrainerRank.train = train  # type: ignore[method-assign]
        FakeTrainerRank.open = opened  # type: ignore[method-assign]


def drive(order: str, rounds: int, seed: int, time_scale: float) -> tuple[float, ManifestState]:
    """Run the rounds in one order; wall seconds from the first round's beginning, at the engines' pace, and what came of it."""
    config = parse_config(CONFIG | {"pipeline": order, "seed": seed}, "the benchmark")
    runtime = InlineRuntime()
    with tempfile.TemporaryDirectory() as folder, Sleep(seed, time_scale):
        run_dir = Path(folder) / "run"
        with open_run(run_dir, config) as manifest:
            try:
                prompts = read_all_prompts(config)
                coordinator = build_coordinator(config, manifest, runtime, SilentObserver(), lambda: False, prompts)
                coordinator.run(0)
                began = time.monotonic()
                coordinator.run(rounds)
                wall_s = (time.monotonic() - began) / time_scale
            finally:
                runtime.shutdown()
        return wall_s, read_manifest(run_dir)


def digest(state: ManifestState) -> str:
    """Of all tables and weights."""
    tables = sorted(
        (round_, table, shard, receipt.checksum)
        for (round_, table), accepted in state.shards.items()
        for shard, receipt in accepted.items()
    )
    weights = {version: record.digests for version, record in sorted(state.snapshots.items())}
    return hashlib.sha256(json.dumps([tables, weights], sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argument_parser(__doc__, repeats=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--time-scale", type=float, default=0.25, help="seconds slept for a second (default: %(default)s)"
    )
    options = parser.parse_args()
    started = facts()
    walls: dict[str, list[float]] = {"serial": [], "overlapped": []}
    shares: dict[str, list[float]] = {"reference": [], "evaluate": []}
    over_bound: dict[str, list[float]] = {"serial": [], "overlapped": []}
    are_same = []
    for repeat in range(options.repeats):
        digests = set()
        for order in ("serial", "overlapped"):
            wall_s, state = drive(order, options.rounds, options.seed + repeat, options.time_scale)
            walls[order].append(wall_s / options.rounds)
            digests.add(digest(state))
            bounds = [state.reports[round_].bound for round_ in range(1, options.rounds)]
            over_bound[order] += [bound.ratio for bound in bounds if bound is not None and bound.ratio is not None]
        are_same.append(len(digests) == 1)
        for round_ in range(1, options.rounds + 1):  # of the last run, the overlapped one
            hidden = state.reports[round_].hidden
            shares["reference"].append(hidden["reference"])
            if round_ < options.rounds:  # the last version is measured at once
                shares["evaluate"].append(hidden["evaluate"])
    finish(
        f"a round in both orders, engines that sleep ({options.rounds} rounds, {options.repeats} repeats)",
        {
            "round, serial, s": summarise(walls["serial"]),
            "round, overlapped, s": summarise(walls["overlapped"]),
            "overlapped / serial": ratios(walls["overlapped"], walls["serial"]),
            **{
                f"round / bound, {order}, but the last": summarise(found)
                for order, found in over_bound.items()
                if found
            },
            "hidden share of the reference pass": summarise(shares["reference"]),
            "hidden share of an evaluation, but the last": summarise(shares["evaluate"]),
        },
        settings={
            "rounds": options.rounds,
            "time scale": options.time_scale,
            "tables and weights of both orders are the same": all(are_same),
        },
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
