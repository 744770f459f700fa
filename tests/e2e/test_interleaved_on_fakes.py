"""Arms of a comparison interleaved and one after the other: the same to the bit, also after stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.comparison.methods import METHODS
from bcpg_cluster.comparison.runner import Comparison
from bcpg_cluster.comparison.setup import Arm, Setup
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.run.build.workforce import start_workforce
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.observer import Event, RoundFinished, SilentObserver, StageProgress
from bcpg_cluster.watch.report.comparison_report import ArmResult

NAMES = ("bcpg_nsa", "rft", "dpo")
TIMES = {
    "seconds",
    "round_seconds",
    "tokens_per_s",
    "evaluation_tokens_per_s",
    "proof_s",
    "open_s",
    "reference_s",
    "reference_wait_s",
    "hidden",
    "train_s",
    "snapshot_s",
    "bound",
    "busy",
}


class Ears:
    """Hears everything, and does what a test wants at an event."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.hear = on_event


Opened = Callable[..., Any]


@pytest.fixture
def opened(make_config: Callable[..., Config]) -> Opened:
    """``opened(directory, ...)``: a comparison over members of this process, and its arms of two rounds."""

    @contextmanager
    def opened(
        directory: Path,
        *,
        one_at_a_time: bool = False,
        hear: Callable[[Event], None] = SilentObserver().hear,
        stop_asked: Callable[[], bool] = lambda: False,
        may_begin: Callable[[], bool] = lambda: True,
        **sections: Any,
    ) -> Iterator[tuple[Comparison, list[Arm]]]:
        config = make_config(**sections)
        setup = Setup(config, read_all_prompts(config), (1e-4,), (1, 2), validation_prompts=6, tuning_seed=1000)
        runtime = InlineRuntime()
        try:
            workforce = start_workforce(config, runtime, stop_asked)
            comparison = Comparison(
                directory,
                setup,
                workforce,
                Ears(hear),
                stop_asked,
                lambda text: None,
                one_at_a_time=one_at_a_time,
                may_begin=may_begin,
            )
            yield comparison, [Arm(name, METHODS[name].settings(config), tuned_as=name, rounds=2) for name in NAMES]
        finally:
            runtime.shutdown()

    return opened


def all_of_it(comparison: Comparison, arms: list[Arm]) -> list[ArmResult]:
    comparison.tune(*arms)
    return [result for of_seed in comparison.by_seed(arms, (0, 1)) for result in of_seed]


def timeless(content: Any) -> Any:
    """JSON without what a clock says."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def runs_of(directory: Path) -> dict[str, Any]:
    """Every run of a comparison: its reports but times, its tables' checksums, its weights and how they were pushed."""
    found = {}
    for manifest in sorted(directory.rglob("manifest.jsonl")):
        state = read_manifest(manifest.parent)
        found[str(manifest.parent.relative_to(directory))] = {
            "reports": {round_: timeless(report.plain()) for round_, report in state.reports.items()},
            "tables": {
                key: [(shard, receipt.num_rows, receipt.checksum) for shard, receipt in sorted(shards.items())]
                for key, shards in state.shards.items()
            },
            "weights": {version: record.digests for version, record in state.snapshots.items()},
            "pushes": {version: (push.method, push.why, push.canaries) for version, push in state.pushes.items()},
        }
    return found


def test_both_orders_give_the_same_to_the_bit(opened: Opened, tmp_path: Path):
    with opened(tmp_path / "apart", one_at_a_time=True) as (comparison, arms):
        apart = all_of_it(comparison, arms)
    with opened(tmp_path / "together") as (comparison, arms):
        together = all_of_it(comparison, arms)
    assert [(r.arm, r.seed, r.round, r.learning_rate, r.epochs) for r in together] == [
        (r.arm, r.seed, r.round, r.learning_rate, r.epochs) for r in apart
    ]
    assert [timeless(r.report.plain()) for r in together] == [timeless(r.report.plain()) for r in apart]
    runs = runs_of(tmp_path / "together")
    assert len(runs) == 2 + 1 + 3 * 2 + 3 * 2  # data of two seeds and of tuning, three grids of two, three arms
    assert runs == runs_of(tmp_path / "apart")
    methods = {method for run in runs.values() for method, _, _ in run["pushes"].values()}
    assert methods == {"gloo"}  # a run keeps the trainers until its weights are sent


@pytest.mark.parametrize("sections", [{}, {"pools": {"rollout": {"members": 3}}}])
def test_one_arm_trains_while_another_is_measured(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
):
    """The second arm's training does not end before the first arm's weights are measured."""
    measured, train, num_calls = threading.Event(), FakeTrainerRank.train, []

    def hear(event: Event) -> None:
        if isinstance(event, StageProgress) and (event.round, event.stage) == (1, "evaluate") and event.done:
            measured.set()

    def train_until_measured(rank: FakeTrainerRank, *arguments: Any) -> Any:
        num_calls.append(rank)
        if len(num_calls) > 1:
            assert measured.wait(30)
        return train(rank, *arguments)

    with opened(tmp_path / "c", hear=hear, **sections) as (comparison, arms):
        comparison.collect(0)
        for arm in arms:
            comparison.take(arm.name, comparison._setup.grid[0])
        monkeypatch.setattr(FakeTrainerRank, "train", train_until_measured)
        results = list(comparison.runs((arm, 0) for arm in arms))
    assert [of_arm[0].arm for of_arm in results] == [*NAMES]


def test_colocated_pools_take_one_arm_after_the_other(opened: Opened, tmp_path: Path):
    order: list[tuple[int, str]] = []

    def hear(event: Event) -> None:
        if isinstance(event, StageProgress) and event.stage == "train" and event.done == event.total:
            order.append((event.round, "trained"))
        elif isinstance(event, RoundFinished):
            order.append((event.report.round, "finished"))

    with opened(tmp_path / "c", hear=hear, placement="colocated") as (comparison, arms):
        comparison.collect(0)
        for arm in arms:
            comparison.take(arm.name, comparison._setup.grid[0])
        order.clear()
        list(comparison.runs((arm, 0) for arm in arms))
    assert order == [(round_, stage) for round_ in (1, 2) for stage in ("trained", "finished")] * len(NAMES)


def test_stopped_again_and_again_it_ends_the_same(opened: Opened, tmp_path: Path):
    with opened(tmp_path / "calm") as (comparison, arms):
        all_of_it(comparison, arms)
    num_stops, num_heard = 0, 0
    for after in range(47, 20_000, 101):  # events heard before a stop: further each time, at another place
        num_heard = 0

        def hear(event: Event) -> None:
            nonlocal num_heard
            num_heard += 1

        with opened(tmp_path / "stopped", hear=hear, stop_asked=lambda: num_heard > after) as (comparison, arms):  # noqa: B023
            try:
                all_of_it(comparison, arms)
            except Interrupted:
                num_stops += 1
                continue
        break
    assert num_stops > 2
    calm, stopped = runs_of(tmp_path / "calm"), runs_of(tmp_path / "stopped")
    assert stopped.keys() == calm.keys()
    for name, run in calm.items():
        assert stopped[name]["weights"] == run["weights"], name
        for round_, report in run["reports"].items():
            again = stopped[name]["reports"][round_]
            assert (again["per_problem"], again.get("samples")) == (report["per_problem"], report.get("samples"))


def test_no_arm_is_begun_after_the_time_is_used(opened: Opened, tmp_path: Path):
    asked = iter([True, True, False])
    with opened(tmp_path / "c", may_begin=lambda: next(asked)) as (comparison, arms):
        for arm in arms:
            comparison.take(arm.name, comparison._setup.grid[0])
        ended = []
        with pytest.raises(Interrupted, match="what was finished is kept"):
            ended += [0]
            for of_arm in comparison.runs((arm, 0) for arm in arms):
                ended.append(of_arm[0].arm)
    assert ended == [0, *NAMES[:2]]  # both that were under way are finished
    assert not (tmp_path / "c/arms/dpo").exists()
