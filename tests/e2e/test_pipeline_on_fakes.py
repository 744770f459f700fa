"""A run whose idle pools work ahead, and the same run one thing after the other: the same to the bit, wherever it is stopped."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.config.invalid.keys import InvalidConfigError
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, EngineError, Interrupted, MostlyFailedError
from bcpg_cluster.records import OutcomeStatus
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.floors import Floors
from bcpg_cluster.run.pipeline.round_end import LearnedRound, RoundEnd
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.run.soundness.check import check_run
from bcpg_cluster.run.steps import Training
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.fakes.skill import SNAPSHOT_FILE
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.protocol import Verification
from bcpg_cluster.store.faults import FaultKind
from bcpg_cluster.store.manifest import ManifestState, SnapshotRecord, read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.rows import rollouts_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.observer import Event, Faulted, RoundFinished, ShardAccepted, StageProgress, WeightsPushed
from bcpg_cluster_cli.runs.stage import later_results, run_stage
from tests.chaos.damage import damage
from tests.told import Heard

MakeConfig = Callable[..., Config]
RunRounds = Callable[..., Any]

SMALL = {"evaluate": {"num_prompts": 6, "prompts_per_shard": 3}, "prompts": {"per_round": 8}}


def content(directory: Path) -> dict[str, Any]:
    """Tables and weights of a run by digest, and what its reports say of anything but time."""
    state = read_manifest(directory)
    return {
        "tables": {
            key: [(shard, receipt.checksum) for shard, receipt in sorted(accepted.items())]
            for key, accepted in state.shards.items()
        },
        "weights": {version: record.digests for version, record in state.snapshots.items()},
        "reports": [
            (round_, of.accuracy, of.per_problem, of.samples, of.mined_share, of.change)
            for round_, of in sorted(state.reports.items())
        ],
        "snapshots": sorted(path.name[:5] for path in (directory / "snapshots").iterdir()),
    }


class Started(InlineRuntime):
    """Notes the pools that it starts members for."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: set[str] = set()

    def start(self, spec: MemberSpec) -> Any:
        self.pools.add(spec.name.partition("/")[0])
        return super().start(spec)


def until(
    directory: Path,
    config: Config,
    rounds: int,
    is_reached: Callable[[Event], bool] = lambda event: False,
    runtime: InlineRuntime | None = None,
) -> tuple[ManifestState, Heard]:
    """Run rounds in this process, until a stop that is asked for at an event."""
    asked = False

    def hear(event: Event) -> None:
        nonlocal asked
        asked = asked or is_reached(event)

    runtime, heard = runtime or InlineRuntime(), Heard(hear)
    with open_run(directory, config) as manifest:
        try:
            prompts = read_all_prompts(config)
            build_coordinator(config, manifest, runtime, heard, lambda: asked, prompts).run(rounds)
        except Interrupted:
            assert asked
        finally:
            runtime.shutdown()
    return read_manifest(directory), heard


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory, run_rounds: RunRounds, make_config: MakeConfig) -> dict[str, Any]:
    """What three rounds one after the other come to."""
    directory = tmp_path_factory.mktemp("serial") / "run"
    run_rounds(directory, make_config(pipeline="serial", **SMALL), 3)
    return content(directory)


@pytest.mark.parametrize("name", ["bcpg", "dpo", "kto", "rft"])
def test_both_orders_give_the_same_to_the_bit(
    tmp_path: Path, run_rounds: RunRounds, fakes_content: Callable[[], dict[str, Any]], name: str
):
    for pipeline in ("serial", "overlapped"):
        plain = fakes_content() | {"pipeline": pipeline, "objective": {"name": name}}
        plain["prompts"] |= SMALL["prompts"]
        run_rounds(tmp_path / pipeline, parse_config(plain, "test"), 2)
    assert content(tmp_path / "overlapped") == content(tmp_path / "serial")


def test_a_version_is_measured_while_the_next_one_trains(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, serial: dict[str, Any]
):
    """Training 2 does not end before version 1 is reported; the last version is measured at once."""
    is_reported, trained = threading.Event(), FakeTrainerRank.train
    num_trained = 0

    def train(self: FakeTrainerRank, *arguments: Any) -> Any:
        nonlocal num_trained
        num_trained += 1
        assert num_trained != 2 or is_reported.wait(60), "version 1 was not measured beside the training of round 2"
        return trained(self, *arguments)

    def hear(event: Event) -> bool:
        if isinstance(event, RoundFinished) and event.report.round == 1:
            is_reported.set()
        return False

    monkeypatch.setattr(FakeTrainerRank, "train", train)
    state, heard = until(tmp_path / "run", make_config(**SMALL), 3, hear)
    assert content(tmp_path / "run") == serial
    told = [
        f"report {event.report.round}" if isinstance(event, RoundFinished) else f"push {event.version}"
        for event in heard.events
        if isinstance(event, RoundFinished | WeightsPushed)
    ]
    assert told == ["report 0", "push 1", "report 1", "push 2", "report 2", "push 3", "report 3"]
    assert [state.reports[round_].hidden.get("evaluate") for round_ in (0, 1, 3)] == [None, 1.0, 0.0]
    assert state.faults == []


def test_whoever_needs_the_number_first_gets_it(tmp_path: Path, make_config: MakeConfig, serial: dict[str, Any]):
    sections = SMALL | {"evaluate": SMALL["evaluate"] | {"at_once": True}}
    state, heard = until(tmp_path / "run", make_config(**sections), 3)
    assert content(tmp_path / "run") == serial
    reported = next(
        i for i, event in enumerate(heard.events) if isinstance(event, RoundFinished) and event.report.round
    )
    assert not any(getattr(event, "round", 0) == 2 for event in heard.events[:reported])
    assert {state.reports[round_].hidden["evaluate"] for round_ in (1, 2, 3)} == {0.0}


def test_reference_logprobs_do_not_wait_for_judges(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, serial: dict[str, Any]
):
    """Judges that answer only when both shards of the round have theirs."""
    parts, judged = 0, FakeJudge.judge
    are_there = threading.Event()

    def judge(self: FakeJudge, cases: Any) -> Any:
        assert are_there.wait(60), "no reference log-probs before the verdicts"
        return judged(self, cases)

    def hear(event: Event) -> bool:
        nonlocal parts
        parts += isinstance(event, ShardAccepted) and event.stage == "reference"
        if parts == 2:
            are_there.set()
        return False

    loaded: list[str] = []
    opened = FakeTrainerRank.open

    def open_(self: FakeTrainerRank, model_path: str, *arguments: Any) -> None:
        loaded.append(Path(model_path).name[:5])
        opened(self, model_path, *arguments)

    monkeypatch.setattr(FakeJudge, "judge", judge)
    monkeypatch.setattr(FakeTrainerRank, "open", open_)
    state, _ = until(tmp_path / "run", make_config(**SMALL), 3, hear)
    assert content(tmp_path / "run") == serial
    assert loaded == ["fake", "v0001", "v0002"]  # the training has no start weights to load
    assert state.reports[1].hidden["reference"] > 0.0


def test_trainers_that_fail_at_it_get_their_tries_before_the_training(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, serial: dict[str, Any]
):
    """Judges answer when the trainers have failed: the data is not there before."""
    computed, errors = FakeTrainerRank.reference_logprobs, [EngineError("out of memory")]
    have_failed, judged = threading.Event(), FakeJudge.judge

    def reference(self: FakeTrainerRank, rows: Any) -> Any:
        if errors:
            raise errors.pop()
        return computed(self, rows)

    def judge(self: FakeJudge, cases: Any) -> Any:
        assert have_failed.wait(60), "the trainers did not fail before the verdicts"
        return judged(self, cases)

    def hear(event: Event) -> bool:
        if isinstance(event, Faulted):
            have_failed.set()
        return False

    monkeypatch.setattr(FakeJudge, "judge", judge)
    monkeypatch.setattr(FakeTrainerRank, "reference_logprobs", reference)
    _, heard = until(tmp_path / "run", make_config(**SMALL), 3, hear)
    assert content(tmp_path / "run") == serial
    (fault,) = [event.fault for event in heard.of(Faulted)]
    assert (fault.what, fault.cause, fault.round) == ("reference pass round 1", "out of memory", 1)
    assert fault.consequence == "the rest is computed before the training"


def test_an_error_of_the_trainers_that_no_try_can_mend_ends_the_run(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    def open_(self: FakeTrainerRank, *arguments: Any) -> None:
        raise ConfigError("no such option", rule="known options", remedy="correct it")

    monkeypatch.setattr(FakeTrainerRank, "open", open_)
    with pytest.raises(ConfigError, match="no such option"):
        until(tmp_path / "run", make_config(**SMALL), 1)
    assert read_manifest(tmp_path / "run").snapshots == {}


STOPS: dict[str, Callable[[Event], bool]] = {
    "verified": lambda e: isinstance(e, ShardAccepted) and (e.receipt.round, e.stage) == (2, "verify"),
    "first reference": lambda e: isinstance(e, ShardAccepted) and (e.receipt.round, e.stage) == (2, "reference"),
    "weighed": lambda e: isinstance(e, StageProgress) and (e.round, e.stage, e.done) == (2, "weigh", 2),
    "measuring beside": lambda e: isinstance(e, ShardAccepted) and (e.receipt.round, e.stage) == (1, "evaluate"),
    "referenced": lambda e: isinstance(e, StageProgress) and (e.round, e.stage, e.done) == (2, "train", 2),
    "trained": lambda e: isinstance(e, StageProgress) and (e.round, e.stage, e.done) == (2, "train", 4),
    "reported beside": lambda e: isinstance(e, RoundFinished) and e.report.round == 1,
    "pushed": lambda e: isinstance(e, WeightsPushed) and e.version == 2,
    "pushed first": lambda e: isinstance(e, WeightsPushed) and e.version == 1,
}


@pytest.mark.parametrize("order", ["serial", "overlapped"])
@pytest.mark.parametrize("stop", list(STOPS))
def test_a_run_stopped_anywhere_resumes_to_the_same_end(
    tmp_path: Path, make_config: MakeConfig, serial: dict[str, Any], stop: str, order: str
):
    until(tmp_path / "run", make_config(**SMALL), 3, STOPS[stop])
    state, _ = until(tmp_path / "run", make_config(pipeline=order, **SMALL), 3)
    assert content(tmp_path / "run") == serial
    assert state.faults == []


def stop_unmeasured(run_dir: Path, config: Config, monkeypatch: pytest.MonkeyPatch, run_rounds: RunRounds) -> None:
    """A run of two rounds, stopped with version 2 trained and version 1 unmeasured."""
    close = RoundEnd.close

    def stopped(self: RoundEnd, of: LearnedRound, beside: Training | None = None) -> None:
        if beside is None:
            return close(self, of, beside)
        beside.result()
        raise Interrupted("as if by a signal")

    with monkeypatch.context() as patched:
        patched.setattr(RoundEnd, "close", stopped)
        with pytest.raises(Interrupted):
            run_rounds(run_dir, config, 2)
    state = read_manifest(run_dir)
    assert (set(state.snapshots), set(state.pushes), set(state.reports)) == ({1, 2}, {1}, {0})


@pytest.mark.parametrize("keep_last", [1, 2])
@pytest.mark.parametrize("order", ["serial", "overlapped"])
def test_a_version_that_was_trained_from_before_it_was_measured_is_measured_first(
    tmp_path: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    run_rounds: RunRounds,
    order: str,
    keep_last: int,
):
    """The engines load version 1 again for its evaluation."""
    sections = SMALL | {"snapshots": {"keep_last": keep_last}}
    run_rounds(tmp_path / "whole", make_config(**sections), 2)
    stop_unmeasured(tmp_path / "run", make_config(**sections), monkeypatch, run_rounds)
    run_rounds(tmp_path / "run", make_config(pipeline=order, **sections), 2)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    state = read_manifest(tmp_path / "run")
    drawn = rollouts_from(read_table(tmp_path / "run", state.receipts(1, "eval_rollouts")))
    assert {rollout.policy_version for rollout in drawn} == {1}


@pytest.mark.parametrize("how", ["flipped", "deleted"])
def test_a_damaged_version_that_is_not_measured_is_trained_again(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, run_rounds: RunRounds, how: str
):
    """As `verify` says of it."""
    sections = SMALL | {"snapshots": {"keep_last": 1}}
    run_rounds(tmp_path / "whole", make_config(**sections), 2)
    run_dir = tmp_path / "run"
    stop_unmeasured(run_dir, make_config(**sections), monkeypatch, run_rounds)
    first = read_manifest(run_dir).snapshots[1]
    if how == "deleted":
        shutil.rmtree(run_dir / first.path)
    else:
        damage(run_dir / first.path / SNAPSHOT_FILE, "flipped")
    (fault,) = check_run(run_dir).faults
    assert fault.path.startswith(first.path)
    assert fault.follows.startswith("it is not measured yet: `iterate` trains it again")
    run_rounds(run_dir, make_config(**sections), 2)
    assert content(run_dir) == content(tmp_path / "whole")
    (remade,) = [fault for fault in read_manifest(run_dir).faults if fault.kind is FaultKind.REMADE]
    assert remade.what == "snapshot v0001"


def test_a_measurement_that_is_repeated_takes_nothing_of_the_round_after(
    tmp_path: Path, make_config: MakeConfig, serial: dict[str, Any]
):
    """Stopped with version 1 measured in part, while round 2 trains."""
    config = make_config(**SMALL)
    before, _ = until(tmp_path / "run", config, 3, STOPS["measuring beside"])
    run_stage("evaluate", 1, str(tmp_path / "run"), discard_later=False, address=None, inline=True)
    after = read_manifest(tmp_path / "run")
    assert 1 in after.reports
    assert after.receipts(2, "weighted") == before.receipts(2, "weighted") != []
    until(tmp_path / "run", config, 3)
    assert content(tmp_path / "run") == serial


def test_what_a_stage_would_take_along_is_named_before_its_round_is_reported():
    """Version 2 was trained while version 1 was measured, and neither round has its report."""
    state = ManifestState()
    for version in (1, 2):
        state.snapshots[version] = SnapshotRecord(version, f"snapshots/v{version}", {}, 0.0)
    assert later_results(state, 1, is_measuring=False) == ["snapshot v1", "snapshot v2"]
    assert later_results(state, 1, is_measuring=True) == []
    state.reports[1] = RoundReport.read({"round": 1, "accuracy": 0.5})
    assert later_results(state, 0, is_measuring=True) == ["round 1", "snapshot v2"]


def test_what_was_computed_of_outcomes_that_failed_is_computed_again(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, serial: dict[str, Any]
):
    """The verifier fails on all of round 2; a shard has its reference log-probs, of no rows, when the round is given up."""
    parts, check = threading.Event(), Floors.check

    def fails(self: Floors, round_: int, stage: StageSpec, stages: Sequence[StageSpec]) -> None:
        if (round_, stage.name) == (2, "verify"):
            assert parts.wait(60), "no reference log-probs before the round was given up"
        check(self, round_, stage, stages)

    def hear(event: Event) -> bool:
        if isinstance(event, ShardAccepted) and (event.receipt.round, event.stage) == (2, "reference"):
            parts.set()
        return False

    def broken(self: ExactVerifier, *arguments: Any) -> Verification:
        return Verification(OutcomeStatus.VERIFIER_ERROR, None, why="no such symbol")

    config = make_config(**SMALL)
    until(tmp_path / "run", config, 1)
    with monkeypatch.context() as patched:
        patched.setattr(Floors, "check", fails)
        patched.setattr(ExactVerifier, "verify", broken)
        with pytest.raises(MostlyFailedError, match="could not be verified"):
            until(tmp_path / "run", config, 2, hear)
    until(tmp_path / "run", config, 3)
    assert content(tmp_path / "run") == serial


def test_a_resume_starts_no_judge_whose_verdicts_are_sealed(tmp_path: Path, make_config: MakeConfig):
    judges = {
        "llm": {"kind": "fake", "pool": "judge.llm"},
        "prm": {"kind": "fake", "pool": "prm"},
    }
    config, first, again = make_config(judges=judges, **SMALL), Started(), Started()
    until(tmp_path / "run", config, 2, STOPS["referenced"], first)
    assert first.pools == {"rollout", "judge.llm", "prm", "cpu", "trainer"}
    state, _ = until(tmp_path / "run", config, 2, runtime=again)
    assert 2 in state.reports
    assert again.pools
    assert again.pools <= {"rollout", "cpu", "trainer"}


def test_pools_that_take_turns_have_no_idle_ones(make_config: MakeConfig):
    with pytest.raises(InvalidConfigError, match="pipeline is 'overlapped' and placement 'colocated'"):
        make_config(placement="colocated", pipeline="overlapped")
    assert not make_config(placement="colocated").is_overlapped
    assert make_config(placement="separate").is_overlapped
    assert not make_config(placement="separate", pipeline="serial").is_overlapped
