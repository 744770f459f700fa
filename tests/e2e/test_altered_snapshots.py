"""A byte of a snapshot flips on disk: it is made again or refused; no rollout is drawn from it and nothing is trained on it.

On fakes, as a user drives it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bcpg_cluster.errors import EngineError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.run.build import assembly
from bcpg_cluster.stages.fakes.skill import SNAPSHOT_FILE, skill_digests, skill_wire_digests, verify_skill
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.push.canaries import CANARIES
from bcpg_cluster.stages.push.protocol import SnapshotDigests
from bcpg_cluster.stages.train.protocol import TrainSettings
from bcpg_cluster.stages.train.worker import TrainJob, TrainWorker
from bcpg_cluster.store.faults import FaultKind
from bcpg_cluster.store.fetched import CACHE_VARIABLE, local_copy
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import run_path

IGNORED = ("run.lock", "live.json")


def flip(file: Path) -> None:
    """Change the last digit of the skill."""
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def newest(run_dir: Path) -> Path:
    snapshots = read_manifest(run_dir).snapshots
    return run_dir / snapshots[max(snapshots)].path / SNAPSHOT_FILE


@pytest.fixture
def two_rounds(bcpg: Callable[..., Any], config_file: Path, tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--rounds", 2)
    assert ended.code == 0, ended.err
    return run_dir


def test_the_newest_is_trained_again_and_the_run_continues(
    two_rounds: Path, bcpg: Callable[..., Any], config_file: Path, finished_run: Any
):
    flip(newest(two_rounds))
    record = read_manifest(two_rounds).snapshots[2]
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", two_rounds, "--rounds", 3)
    assert ended.code == 0, ended.err
    assert "round 2 is trained again to remake it" in ended.out
    state = read_manifest(two_rounds)
    (fault,) = state.faults
    assert (fault.kind, fault.what, fault.round) == (FaultKind.REMADE, "snapshot v0002", 2)
    assert f"skill in {SNAPSHOT_FILE} is not what was written" in fault.cause
    assert fault.consequence.startswith("trained again")
    assert state.snapshots[2] == record
    verify_skill(str(two_rounds / record.path), record.digests)
    assert {path.name for path in (two_rounds / "snapshots").iterdir()} == {
        Path(state.snapshots[version].path).name for version in (2, 3)
    }  # nothing is left of the damaged one
    for round_ in (2, 3):
        assert state.reports[round_].plain()["accuracy"] == finished_run.reports[round_]["accuracy"]
        assert state.snapshots[round_].digests == read_manifest(finished_run.directory).snapshots[round_].digests


def test_the_canaries_and_the_round_before_are_remade_too(
    two_rounds: Path, bcpg: Callable[..., Any], config_file: Path, finished_run: Any
):
    """v2 lacks its canaries; to make them again, v1 has to be made again first."""
    snapshots = read_manifest(two_rounds).snapshots
    (two_rounds / snapshots[2].path / CANARIES).unlink()
    flip(two_rounds / snapshots[1].path / SNAPSHOT_FILE)
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", two_rounds, "--rounds", 3)
    assert ended.code == 0, ended.err
    state = read_manifest(two_rounds)
    assert [fault.what for fault in state.faults] == ["snapshot v0001", "snapshot v0002"]
    assert f"{CANARIES} cannot be read: No such file" in state.faults[1].cause
    assert state.snapshots[3].digests == read_manifest(finished_run.directory).snapshots[3].digests


def test_one_that_cannot_be_made_again_here_is_refused_and_the_remedy_works(
    two_rounds: Path,
    bcpg: Callable[..., Any],
    config_file: Path,
    tree_digest: Callable[..., dict[str, str]],
    finished_run: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    flip(newest(two_rounds))
    before = tree_digest(two_rounds, ignore=IGNORED)
    onwards = ("iterate", "-c", config_file, "--inline", "--run-dir", two_rounds, "--rounds", 3)
    with monkeypatch.context() as other_machine:
        other_machine.setattr(FakeTrainerRank, "save_snapshot", save_another)
        ended = bcpg(*onwards)
    assert ended.code == 2
    assert f"skill in {SNAPSHOT_FILE} is not what was written" in ended.err
    assert "trained again here, it is another: 1 parameters differ" in ended.err
    assert str(newest(two_rounds).parent) in ended.err
    assert tree_digest(two_rounds, ignore=IGNORED) == before

    command = ended.err.partition("bcpg-cluster stage ")[2].split()
    assert command[:4] == ["train", "--round", "2", "--discard-later"]
    ended = bcpg("stage", *command, "--inline")
    assert ended.code == 0, ended.err
    assert bcpg(*onwards).code == 0
    state = read_manifest(two_rounds)
    for round_ in (2, 3):
        assert state.reports[round_].plain()["accuracy"] == finished_run.reports[round_]["accuracy"]
        assert state.snapshots[round_].digests == read_manifest(finished_run.directory).snapshots[round_].digests


def test_one_whose_training_fails_here_is_refused_with_both_reasons(
    two_rounds: Path,
    bcpg: Callable[..., Any],
    config_file: Path,
    tree_digest: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
):
    flip(newest(two_rounds))
    before = tree_digest(two_rounds, ignore=IGNORED)
    monkeypatch.setattr(FakeTrainerRank, "save_snapshot", diverge)
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", two_rounds, "--rounds", 3)
    assert ended.code != 0
    assert f"skill in {SNAPSHOT_FILE} is not what was written" in " ".join(ended.err.split())
    assert "training it again failed" in ended.err and "skill is not finite" in ended.err
    after = tree_digest(two_rounds, ignore=(*IGNORED, "manifest.jsonl"))
    assert {name: after[name] for name in before if name in after} == {
        name: digest for name, digest in before.items() if name in after
    }


def diverge(trainer: FakeTrainerRank, path: str) -> SnapshotDigests | None:
    raise TrainingDivergedError("skill is not finite")


def save_another(trainer: FakeTrainerRank, path: str) -> SnapshotDigests | None:
    """As on a machine that rounds otherwise."""
    trainer.skill += 1e-9
    directory = Path(path)
    directory.mkdir(parents=True)
    (directory / SNAPSHOT_FILE).write_text(f'{{"skill": {trainer.skill!r}}}')
    return SnapshotDigests(skill_digests(trainer.skill), skill_wire_digests(trainer.skill))


def test_the_remedy_where_only_the_newest_is_kept(
    tmp_path: Path, bcpg: Callable[..., Any], config_file: Path, finished_run: Any
):
    """Round 2 cannot be trained again without v1: the remedy goes back to round 1."""
    run_dir = tmp_path / "run"
    onwards = ("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--set", "snapshots.keep_last=1")
    assert bcpg(*onwards, "--rounds", 2).code == 0
    flip(newest(run_dir))
    command = bcpg(*onwards, "--rounds", 3).err.partition("bcpg-cluster stage ")[2].split()
    assert command[:4] == ["train", "--round", "1", "--discard-later"]
    assert bcpg("stage", *command, "--inline").code == 0
    assert bcpg(*onwards, "--rounds", 3).code == 0
    assert read_manifest(run_dir).reports[3].plain()["accuracy"] == finished_run.reports[3]["accuracy"]


def test_a_stage_gives_nothing_up_for_weights_that_were_altered(
    tmp_path: Path, bcpg: Callable[..., Any], finished_run: Any, tree_digest: Callable[..., dict[str, str]]
):
    run_dir = Path(shutil.copytree(finished_run.directory, tmp_path / "run"))
    flip(run_dir / read_manifest(run_dir).snapshots[2].path / SNAPSHOT_FILE)
    before = tree_digest(run_dir, ignore=IGNORED)
    ended = bcpg("stage", "train", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    assert ended.code == 2
    assert "stage train --round 1 --discard-later" in ended.err  # v1, from which round 2 started, is not kept
    assert tree_digest(run_dir, ignore=IGNORED) == before


def test_untouched_snapshots_are_read_once_each(
    tmp_path: Path,
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Any],
    finished_run: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    read: list[str] = []

    def counting(path: str, digests: Mapping[str, str]) -> None:
        read.append(Path(path).name[:5])
        verify_skill(path, digests)

    monkeypatch.setattr(assembly, "snapshot_verifier", lambda kind: counting)
    run_rounds(tmp_path / "run", make_config(), 1)
    assert read == []  # trained from the base model
    found = run_rounds(tmp_path / "run", make_config(), 3)
    assert read == ["v0001", "v0002"]  # resumed from v1 and trained from it: read once
    assert found.reports[3]["accuracy"] == finished_run.reports[3]["accuracy"]


def test_altered_between_two_rounds_of_one_process(
    tmp_path: Path, run_rounds: Callable[..., Any], make_config: Callable[..., Any], finished_run: Any
):
    """The rollout engines got v1 over the wire; its files are only needed again to train from."""

    class Flips:
        def hear(self, event: Any) -> None:
            if type(event).__name__ == "WeightsPushed" and event.version == 1:
                flip(newest(tmp_path / "run"))

    found = run_rounds(tmp_path / "run", make_config(), 3, Flips())
    assert [fault.what for fault in read_manifest(tmp_path / "run").faults] == ["snapshot v0001"]
    assert found.reports[3]["accuracy"] == finished_run.reports[3]["accuracy"]


def test_a_fetched_copy_that_was_altered(
    tmp_path: Path, run_rounds: Callable[..., Any], make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    run_dir = run_path("memory://tests/altered_copy")
    try:
        run_rounds(run_dir, make_config(), 1)
        record = read_manifest(run_dir).snapshots[1]
        copy = Path(local_copy(run_dir.absolute() / record.path))
        flip(copy / SNAPSHOT_FILE)
        with pytest.raises(
            EngineError, match=f"loaded {copy}: 1 parameters differ"
        ):  # else the trainers may meet it first
            run_rounds(run_dir, make_config(pipeline="serial"), 2)

        worker = TrainWorker(0, 1, lambda *meeting: None, verify_skill)  # type: ignore[arg-type, return-value]
        settings: Any = TrainSettings
        job = TrainJob(run_dir, 2, run_dir.absolute() / record.path, (), settings, "", record.digests)
        with pytest.raises(RunDirectoryError, match="skill in") as refused:
            worker._start_weights(job)
        assert f"delete {copy}" in refused.value.remedy

        shutil.rmtree(copy)  # the remedy
        assert worker._start_weights(job) == str(copy)
        assert run_rounds(run_dir, make_config(), 2).reports[2]["push"]["canaries"] == "passed"
    finally:
        run_dir.remove_tree()
        assert not MemoryFileSystem.store.get("/tests/altered_copy")
