"""A run in which one judge comes after another trains on the same rows as one that asks both about everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.counts import verdict_statuses
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.observer import Event, ShardAccepted

SCORER = """
import hashlib
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judged, Judgement
class Scorer:
    version = "1"
    def judge(self, cases):
        return Judged(tuple(tuple(map(self._score, case.steps)) for case in cases))
    def _score(self, step):
        share = hashlib.sha256(step.encode()).digest()[0] / 255
        if share > 0.95:
            return Judgement(VerdictStatus.UNPARSABLE, raw="?")
        return Judgement(VerdictStatus.JUDGED, score=share)
    def close(self): pass
"""


@pytest.fixture
def iterate(
    bcpg: Callable[..., Any],
    fakes_content: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Two rounds with a labelling and a scoring judge; further keys of the first; the run's directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(SCORER)

    def run(name: str, threshold: float, **of_llm: Any) -> Path:
        content = fakes_content()
        content["judges"] = {
            "llm": {"kind": "fake", "precision": 0.8, "recall": 0.8, **of_llm},
            "prm": {"kind": "python", "class": "own.py:Scorer", "threshold": threshold, "pool": "prm"},
            "truth": {"kind": "chain_truth", "role": "measure"},
        }
        content["pools"] = {}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        done = bcpg("iterate", "--config", f"{name}.yaml", "--inline", "-n", 2, "--run-dir", name)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def rows(run_dir: Path, round_: int, table: str) -> list[Row]:
    state = read_manifest(run_dir)
    assert (round_, table) in state.sealed
    return read_table(run_dir, state.receipts(round_, table))


def _exported(bcpg: Callable[..., Any], run_dir: Path, out: Path) -> list[Row]:
    done = bcpg("export", "steps", "--run-dir", run_dir, "--out", out)
    assert done.code == 0, done.err
    found: list[Row] = pq.read_table(out / "data").to_pylist()
    return found


def num_asked(run_dir: Path, round_: int) -> int:
    metrics = [receipt.metrics for receipt in read_manifest(run_dir).receipts(round_, "verdicts.llm")]
    return sum(
        sum(n for status, n in verdict_statuses(of).items() if status is not VerdictStatus.NOT_ASKED) for of in metrics
    )


def test_weighted_rows_are_those_of_asking_all_and_a_lower_threshold_asks_what_it_needs(
    iterate: Callable[..., Path], bcpg: Callable[..., Any]
):
    everything, cascade = iterate("everything", 0.7), iterate("cascade", 0.7, after="prm")
    for round_ in (1, 2):
        weighted = rows(cascade, round_, "weighted")
        assert weighted == rows(everything, round_, "weighted")
        assert any(any(row["mined"]) for row in weighted)
        assert num_asked(cascade, round_) < 0.8 * num_asked(everything, round_)
    report, asked = (read_manifest(run).reports[2] for run in (cascade, everything))
    assert report.judges is not None and asked.judges is not None
    assert report.judges.quality["consensus"] == asked.judges.quality["consensus"]
    assert report.judges.quality["prm"] == asked.judges.quality["prm"]
    assert report.judges.quality["llm"]["truth"].steps.count < asked.judges.quality["llm"]["truth"].steps.count
    assert not any(key.startswith("llm.") for key in report.judges.abstained)

    trl = cascade.parent / "trl"
    steps = [row["steps"] for row in _exported(bcpg, cascade, cascade.parent / "some")]
    full = [row["steps"] for row in _exported(bcpg, everything, cascade.parent / "full")]
    for some, every in zip(steps, full, strict=True):
        assert [step["consensus"] for step in some[:-1]] == [step["consensus"] for step in every[:-1]]
        assert some[-1]["consensus"] in (None, every[-1]["consensus"])
    assert any(of[-1]["consensus"] is None for of in steps)
    said = {verdict["status"] for of in steps for step in of for verdict in step["verdicts"]}
    assert said == {"judged", "unparsable", "not_asked"}
    done = bcpg("export", "weights", "--style", "trl", "--run-dir", cascade, "--out", trl)
    assert done.code == 0, done.err
    assert {len(row["completions"]) - len(row["labels"]) for row in pq.read_table(trl / "data").to_pylist()} == {0}

    def weigh_again(*changes: str) -> Any:
        where = ("--round", 1, "--run-dir", cascade, "--inline", "--discard-later")
        return bcpg("stage", "weigh", *where, *(word for change in changes for word in ("--set", change)))

    before = num_asked(cascade, 1)
    higher = weigh_again("judges.prm.threshold=0.8")
    assert higher.code == 0 and "to be done again: weigh," in higher.out
    assert num_asked(cascade, 1) == before
    lower = weigh_again("judges.prm.threshold=0.3")
    assert lower.code == 0, lower.err
    assert "to be done again: judge.llm, weigh," in lower.out
    assert num_asked(cascade, 1) > before
    assert rows(cascade, 1, "weighted") == rows(iterate("lower", 0.3), 1, "weighted")

    refused = weigh_again("weigh.rule=majority")
    assert refused.code == 2 and "would depend on the order" in refused.err
    done = weigh_again("weigh.rule=majority", "judges.llm.after=[]")
    assert done.code == 0, done.err
    assert num_asked(cascade, 1) == num_asked(everything, 1)


class DriverGone(BaseException):
    """As abrupt as a process in this process can end."""


class EndsDriver:
    """Ends the driver when a judge's second shard is accepted."""

    def __init__(self, stage: str) -> None:
        self._stage, self._num_accepted = stage, 0

    def hear(self, event: Event) -> None:
        if isinstance(event, ShardAccepted) and event.stage == self._stage:
            self._num_accepted += 1
            if self._num_accepted == 2:
                raise DriverGone


def test_a_killed_driver_and_a_lost_shard_of_the_earlier_judge_change_nothing(
    make_config: Callable[..., Config], run_rounds: Callable[..., Any], tmp_path: Path
):
    judges = {"llm": {"kind": "fake", "after": "prm"}, "prm": {"kind": "fake", "precision": 0.85, "recall": 0.7}}
    config = make_config(judges=judges, generate={"prompts_per_shard": 2})
    run_dir = tmp_path / "run"
    with pytest.raises(DriverGone):
        run_rounds(run_dir, config, 1, EndsDriver("judge.llm"))
    state = read_manifest(run_dir)
    assert (1, "verdicts.llm") not in state.sealed
    lost = next(r for r in state.receipts(1, "verdicts.prm") if r.shard in state.shards[1, "verdicts.llm"])
    (run_dir / lost.path).write_bytes(b"not a table")
    run_rounds(run_dir, config, 1)
    assert [remade.table for remade in read_manifest(run_dir).losses.remade] == ["verdicts.prm"]
    run_rounds(tmp_path / "calm", config, 1)
    for table in ("verdicts.prm", "verdicts.llm", "weighted"):
        assert rows(run_dir, 1, table) == rows(tmp_path / "calm", 1, table)
    everything = make_config(judges={**judges, "llm": {"kind": "fake"}}, generate={"prompts_per_shard": 2})
    run_rounds(tmp_path / "everything", everything, 1)
    assert rows(run_dir, 1, "weighted") == rows(tmp_path / "everything", 1, "weighted")
