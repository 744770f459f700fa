"""benchmarks/round_overlap.py: hand-worked rounds in both orders, and that it runs on a finished run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.report.round_bound import Piece

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
STAGES = ("verify", "verify_evaluation", "segment", "judge.llm", "judge.prm", "judge.truth", "weigh")


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fitted_rounds

    return fitted_rounds


@pytest.fixture
def overlap(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import round_overlap

    return round_overlap


def simulate(
    fitted: Any,
    config: Config,
    order: str,
    run_dir: Path,
    rounds: int,
    *,
    evaluate_s: float = 5.0,
    judge_s: float = 0.0,
) -> Any:
    latencies = {"generate": (8.0, 0.0), "evaluate": (evaluate_s, 0.0)} | dict.fromkeys(STAGES, (0.0, 0.0))
    latencies |= {stage: (judge_s, 0.0) for stage in STAGES if stage.startswith("judge.")}
    fit = fitted.Fit(4, 2, latencies, (fitted.TrainerTimes(open_s=3.0, reference_s=4.0, train_s=20.0, push_s=2.0),))
    return fitted.simulate(config, fit, order, run_dir, num_rounds=rounds, seed=0, lease_s=0.0)


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(pools={"rollout": {"members": 1, "leases_per_member": 2}})


def test_serial_rounds_by_hand(fitted: Any, config: Config, tmp_path: Path):
    run = simulate(fitted, config, "serial", tmp_path, 2)
    for round_ in run.rounds:
        assert round_.bound.data_s == 16.0  # four shards of 8 s, two at once
        assert round_.bound.bound_s == 16.0 + 20.0 + 2.0
        assert round_.bound.took_s == 16.0 + 3.0 + 4.0 + 20.0 + 2.0 + 5.0
        assert (round_.reference_hidden, round_.evaluation_hidden) == (0.0, 0.0)
        assert round_.busy["rollout"] == (4 * 8.0 + 2 * 5.0) / (2 * 50.0)
        assert round_.busy["trainer"] == (4.0 + 20.0) / 50.0
    assert run.wall_s == 100.0


def test_overlapped_rounds_by_hand(fitted: Any, config: Config, tmp_path: Path):
    run = simulate(fitted, config, "overlapped", tmp_path, 2)
    for round_ in run.rounds:
        # Shards are verified at 8, 8, 16 and 16 s, and a second each of the reference pass follows: it ends at 18 s.
        assert round_.bound.took_s == 18.0 + 20.0 + 2.0
        assert round_.bound.bound_s == 38.0
        assert round_.reference_hidden == 0.5
    first, second = run.rounds
    assert first.evaluation_hidden is None
    assert second.evaluation_hidden == 1.0
    assert second.busy["rollout"] == (4 * 8.0 + 2 * 5.0) / (2 * 40.0)
    assert run.wall_s == 40.0 + 40.0 + 5.0  # the last version is evaluated by itself


def test_the_reference_pass_hides_behind_judges(fitted: Any, config: Config, tmp_path: Path):
    round_ = simulate(fitted, config, "overlapped", tmp_path, 1, judge_s=2.0).rounds[0]
    # The last shards are judged from 16 to 20 s: three judges, two shards, two at once.
    assert round_.bound.took_s > 20.0 + 20.0 + 2.0 - 1e-9
    assert round_.reference_hidden == 1.0


def test_an_evaluation_longer_than_the_training_holds_the_push_back(fitted: Any, config: Config, tmp_path: Path):
    second = simulate(fitted, config, "overlapped", tmp_path, 2, evaluate_s=30.0).rounds[1]
    assert second.bound.took_s == 16.0 + 30.0 + 2.0
    assert second.evaluation_hidden == pytest.approx(1 - 8.0 / 30.0)  # trained at 38 s, evaluated at 46 s


def test_hidden_shares_by_hand(overlap: Any):
    pieces = [Piece(1, "reference", 0, 10.0, 14.0), Piece(1, "reference", 1, 12.0, 20.0)]
    assert overlap.hidden_share(pieces, [(0.0, 11.0), (9.0, 13.0), (19.0, 40.0)]) == (3.0 + 1.0) / 10.0
    assert overlap.hidden_share(pieces, []) == 0.0
    assert overlap.hidden_share([], [(0.0, 1.0)]) is None


def test_a_fit_has_what_the_run_had(fitted: Any, finished_run: Any):
    state = read_manifest(finished_run.directory)
    fit = fitted.fit_of(state, finished_run.config)
    trained = [report for round_, report in state.reports.items() if round_]
    assert (fit.num_shards, fit.num_eval_shards) == (
        len(state.shards[1, "prompts"]),
        len(state.shards[1, "eval_prompts"]),
    )
    assert [times.push_s for times in fit.trainers] == [report.push.seconds for report in trained if report.push]
    assert fit.trainer(len(trained) + 1) == fit.trainers[0]
    assert set(fit.latencies) == {*STAGES, "generate", "evaluate"}


@pytest.mark.parametrize("more", [[], ["--simulate", "--repeats", "2", "--rounds", "2"]])
def test_it_runs_on_a_finished_run(finished_run: Any, tmp_path: Path, more: list[str]):
    json_file = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "round_overlap.py"), "--run-dir", str(finished_run.directory), *more]
    ended = subprocess.run([*command, "--json", str(json_file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(json_file.read_text())
    assert found["facts"]["commit"]
    for order in ("serial: ", "overlapped: ") if more else ("",):
        assert all(ratio >= 1.0 for ratio in found["results"][f"{order}ratio round / bound"]["values"])
