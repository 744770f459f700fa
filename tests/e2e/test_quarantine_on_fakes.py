"""Rounds with samples that end the worker which works on them: those are left out by name, all else is as it would have been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import EngineError, MemberLostError
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker
from bcpg_cluster.store.faults import FaultKind
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import read_shard, read_table

STAGES = {
    "generate": ("prompts", "rollouts"),
    "verify": ("rollouts", "outcomes"),
    "judge.llm": ("steps", "verdicts.llm"),
}
"""By stage: the table whose units it works on, and the one it writes."""


@pytest.fixture(autouse=True)
def deadly(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str, int | None]]:
    """Add (stage, prompt id, sample) to it: a member that asks its engine about that is lost."""
    found: set[tuple[str, str, int | None]] = set()
    work_on = StageWorker._work_on

    def dies(self: StageWorker, job: StageJob) -> StageResult:
        if not job.given_up and job.stage in STAGES:
            units = read_shard(job.run_dir, job.inputs[STAGES[job.stage][0]])
            asked = {(row["prompt_id"], row.get("sample")) for row in units}
            if job.part is not None:
                keys = list(dict.fromkeys((row["prompt_id"], row.get("sample")) for row in units))
                asked = set(keys[job.part.start : job.part.end])
            if any((job.stage, *unit) in found for unit in asked):
                raise MemberLostError("worker died")
        return work_on(self, job)

    monkeypatch.setattr(StageWorker, "_work_on", dies)
    return found


def rows_of(run_dir: Path, table: str) -> list[Row]:
    return read_table(run_dir, read_manifest(run_dir).receipts(1, table))


def unit(row: Row) -> tuple[str, int]:
    return row["prompt_id"], row["sample"]


@pytest.mark.parametrize("stage", STAGES)
def test_one_deadly_sample_is_left_out_and_all_other_rows_are_the_same(
    stage: str,
    finished_run: Any,
    make_config: Callable[..., Any],
    run_rounds: Callable[..., Any],
    tmp_path: Path,
    deadly: set[tuple[str, str, int | None]],
):
    units, table = STAGES[stage]
    victim = rows_of(finished_run.directory, units)[9]
    deadly.add((stage, victim["prompt_id"], victim.get("sample")))
    report = run_rounds(tmp_path / "run", make_config(), 1).reports[1]

    def is_victim(row: Row) -> bool:
        same_prompt = row["prompt_id"] == victim["prompt_id"]
        return same_prompt and (stage == "generate" or row["sample"] == victim["sample"])

    expected, found = rows_of(finished_run.directory, table), rows_of(tmp_path / "run", table)
    assert [unit(row) for row in found] == [unit(row) for row in expected]
    assert [row for row in found if not is_victim(row)] == [row for row in expected if not is_victim(row)]
    lost = [row for row in found if is_victim(row)]
    assert lost
    if stage == "generate":
        assert {row["stop_reason"] for row in lost} == {"aborted"} and len(lost) == 8
        assert report["outcomes"]["status.engine_lost"] == 8
    elif stage == "verify":
        assert [(row["status"], row["reward"]) for row in lost] == [("verifier_error", None)]
        assert "worker died" in lost[0]["why"]
    else:
        assert {(row["status"], row["label"], row["score"]) for row in lost} == {("engine_lost", None, None)}
        assert report["verdicts"]["judge.llm"]["status.engine_lost"] == len(lost)
    samples = report["samples"]
    assert samples["asked"] == samples["kept"] + sum(samples["dropped"].values())
    assert samples["dropped"].get("unverified", 0) == (0 if stage == "judge.llm" else len(lost))

    name = f"prompt {victim['prompt_id']}"
    name = name if stage == "generate" else f"sample {victim['sample']} of {name}"
    assert report["faults"]["quarantined"] == [f"{name} in {stage}"]
    faults = read_manifest(tmp_path / "run").faults
    (quarantined,) = [fault for fault in faults if fault.kind is FaultKind.QUARANTINED]
    assert (quarantined.round, quarantined.what) == (1, f"{name} in {stage}")
    assert "worker died" in quarantined.cause


def test_the_shards_metrics_are_those_of_one_piece(
    finished_run: Any,
    make_config: Callable[..., Any],
    run_rounds: Callable[..., Any],
    tmp_path: Path,
    deadly: set[tuple[str, str, int | None]],
    monkeypatch: pytest.MonkeyPatch,
):
    """The member dies of the whole shard and of no part: nothing is left out, so nothing differs."""
    victim = rows_of(finished_run.directory, "steps")[9]
    inner = StageWorker._work_on

    def dies_of_whole_shards(self: StageWorker, job: StageJob) -> StageResult:
        if job.stage == "judge.llm" and job.part is None and job.shard == 0 and job.round == 1:
            raise MemberLostError("too much at once")
        return inner(self, job)

    monkeypatch.setattr(StageWorker, "_work_on", dies_of_whole_shards)
    report = run_rounds(tmp_path / "run", make_config(), 1).reports[1]
    assert victim and "quarantined" not in report["faults"]["counts"]
    assert report["verdicts"] == finished_run.reports[1]["verdicts"]
    for key in ("samples", "mined_share", "judges", "accuracy"):
        assert report[key] == finished_run.reports[1][key]
    for table in ("verdicts.llm", "weighted"):
        assert rows_of(tmp_path / "run", table) == rows_of(finished_run.directory, table)


def test_an_engine_that_ends_on_every_sample_stops_the_run(
    finished_run: Any,
    make_config: Callable[..., Any],
    run_rounds: Callable[..., Any],
    tmp_path: Path,
    deadly: set[tuple[str, str, int | None]],
):
    for row in rows_of(finished_run.directory, "steps"):
        deadly.add(("judge.llm", *unit(row)))
    with pytest.raises(EngineError, match=r"6 members in a row were lost under parts of judge\.llm"):
        run_rounds(tmp_path / "run", make_config(), 1)
    state = read_manifest(tmp_path / "run")
    assert (1, "verdicts.llm") not in state.shards
    assert FaultKind.QUARANTINED not in {fault.kind for fault in state.faults}

    deadly.clear()  # mended: the same run continues, and nothing is missing
    reports = run_rounds(tmp_path / "run", make_config(), 1).reports
    assert reports[1]["samples"] == finished_run.reports[1]["samples"]
    assert rows_of(tmp_path / "run", "verdicts.llm") == rows_of(finished_run.directory, "verdicts.llm")


def test_an_error_of_the_engine_is_no_reason_to_leave_a_sample_out(
    make_config: Callable[..., Any], run_rounds: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inner = StageWorker._work_on

    def fails(self: StageWorker, job: StageJob) -> StageResult:
        if job.stage == "verify":
            raise EngineError("no sandbox")
        return inner(self, job)

    monkeypatch.setattr(StageWorker, "_work_on", fails)
    with pytest.raises(EngineError, match=r"verify round 1 shard \d failed 3 times; the last time: no sandbox"):
        run_rounds(tmp_path / "run", make_config(), 1)
    kinds = {fault.kind for fault in read_manifest(tmp_path / "run").faults}
    assert kinds == {FaultKind.REQUEUE}
