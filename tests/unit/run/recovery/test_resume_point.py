"""recovery/resume_point.py: the newest step checkpoint that every rank finds whole, and what is said of those passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.run.recovery.resume_point import choose_resume_point
from bcpg_cluster.stages.push.file_digests import FileFault
from bcpg_cluster.stages.train.worker import TrainJob
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.watch.observer import Retried
from tests.told import Heard

OLD, NEW = StepCheckpoint(20, "a"), StepCheckpoint(40, "b")
TORN = FileFault("state.pt", "has 1 bytes, 2 were written")


class Ranks:
    """Two ranks that say what they were told to find."""

    def __init__(self, faults: dict[StepCheckpoint, list[tuple[FileFault, ...]]]) -> None:
        self.faults, self.asked = faults, []

    def check_checkpoint(self, job: TrainJob, checkpoint: StepCheckpoint) -> list[tuple[FileFault, ...]]:
        self.asked.append(checkpoint.num_steps)
        return self.faults.get(checkpoint, [(), ()])


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path) as manifest:
        manifest.add_step_checkpoint(1, OLD)
        manifest.add_step_checkpoint(1, NEW)
        yield manifest


def choose(manifest: Manifest, ranks: Ranks, given_up: Any = ()) -> tuple[StepCheckpoint | None, list[tuple[str, str]]]:
    heard, client = Heard(), ranks
    job = TrainJob(Path(), 1, "model", (), None, "")  # type: ignore[arg-type]
    point = choose_resume_point(manifest, client, job, given_up, heard)  # type: ignore[arg-type]
    told = [(event.what, event.why) for event in heard.of(Retried)]
    assert told == [(retry["what"], retry["why"]) for retry in manifest.state.retries]
    return point, told


def test_the_newest_is_taken_and_nothing_is_said(manifest: Manifest):
    ranks = Ranks({OLD: [(TORN,), ()]})
    assert choose(manifest, ranks) == (NEW, [])
    assert ranks.asked == [40]  # the older one is not read


def test_one_damaged_file_on_one_rank_falls_back_for_all(manifest: Manifest):
    point, told = choose(manifest, Ranks({NEW: [(), (TORN,)]}))
    assert point == OLD
    why = "step-000040/state.pt has 1 bytes, 2 were written (rank 1); training resumes from step 20"
    assert told == [("step checkpoint 40 of round 1", why)]
    assert read_manifest(manifest.run_dir).step_checkpoints == {1: [OLD]}


def test_all_damaged_begins_at_step_0(manifest: Manifest):
    lost = FileFault("checkpoint.json", "is not there")
    point, told = choose(manifest, Ranks({NEW: [(lost,), (lost,)], OLD: [(lost, TORN), ()]}))
    assert point is None
    assert told == [
        (
            "step checkpoint 40 of round 1",
            "step-000040/checkpoint.json is not there (rank 0, 1); training resumes from step 0",
        ),
        (
            "step checkpoint 20 of round 1",
            "step-000020/checkpoint.json is not there (rank 0); step-000020/state.pt has 1 bytes, 2 were written (rank 0); "
            "training resumes from step 0",
        ),
    ]
    assert read_manifest(manifest.run_dir).step_checkpoints == {1: []}
    assert choose_again(manifest) is None


def choose_again(manifest: Manifest) -> StepCheckpoint | None:
    job = TrainJob(Path(), 1, "model", (), None, "")  # type: ignore[arg-type]
    return choose_resume_point(manifest, Ranks({}), job, (), Heard())  # type: ignore[arg-type]


def test_one_that_a_try_failed_on_is_not_used_again(manifest: Manifest):
    point, told = choose(manifest, Ranks({}), given_up={NEW})
    assert point == OLD
    assert told[0][1] == "the try before failed on it; training resumes from step 20"


def test_what_no_line_vouches_for_is_not_asked_about(tmp_path: Path):
    """A checkpoint of a program before this one, or one that was written and not noted before a crash."""
    with Manifest(tmp_path / "other") as manifest:
        ranks = Ranks({})
        assert choose(manifest, ranks) == (None, [])
        assert ranks.asked == []
