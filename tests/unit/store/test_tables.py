"""store/schema.py and store/shards.py: records survive the round trip, files are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import (
    ErrorType,
    Outcome,
    OutcomeStatus,
    Prompt,
    Receipt,
    Rollout,
    SampleId,
    Step,
    StopReason,
    Verdict,
    VerdictStatus,
)
from bcpg_cluster.store import schema
from bcpg_cluster.store.rows import (
    ReferenceRow,
    Rival,
    Row,
    WeightedRow,
    outcome_row,
    outcomes_from,
    prompt_row,
    prompts_from,
    reference_from,
    reference_row,
    rollout_row,
    rollouts_from,
    step_rows,
    steps_from,
    verdict_row,
    verdicts_from,
    weighted_from,
    weighted_row,
)
from bcpg_cluster.store.schema import SCHEMAS, schema_of
from bcpg_cluster.store.shards import read_shard, read_table, write_shard


def _write(run_dir: Path, table: str, rows: list[Row], shard: int = 0, attempt: str = "a1") -> Receipt:
    return write_shard(
        run_dir, table=table, round_=1, shard=shard, attempt=attempt, rows=rows, seconds=0.5, metrics={"n": 1.0}
    )


def _through_arrow(table: str, rows: list[Row]) -> list[Row]:
    return pa.Table.from_pylist(rows, schema=schema_of(table)).to_pylist()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
tokens = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
ids = st.builds(SampleId, st.integers(0, 9999), text, st.integers(-1, 1000))
logprobs = st.lists(floats, max_size=5).map(tuple)
rollouts = st.builds(
    Rollout,
    ids,
    tokens,
    tokens,
    st.lists(floats, max_size=5).map(tuple),
    st.lists(text, max_size=5).map(tuple),
    st.sampled_from(StopReason),
    st.integers(0, 1000),
    st.none() | st.integers(0, 2**63 - 1),
)
outcomes = st.builds(Outcome, ids, st.sampled_from(OutcomeStatus), st.sampled_from([None, 0.0, 1.0]), st.none() | text)
weighted = st.builds(
    WeightedRow, ids, tokens, tokens, logprobs, st.lists(st.booleans(), max_size=5).map(tuple), st.floats(-1, 1),
    st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.integers(0, 64),
)  # fmt: skip


@st.composite
def weighted_with_rivals(draw: st.DrawFn) -> WeightedRow:
    row = draw(weighted)
    rival = draw(st.none() | st.builds(Rival, ids, tokens))
    return replace(row, rival=rival and replace(rival, id=replace(rival.id, round=row.id.round)))


@st.composite
def references(draw: st.DrawFn) -> ReferenceRow:
    key, values = draw(weighted_with_rivals()).key, draw(logprobs)
    return ReferenceRow(key, values, () if key[1] is None else draw(logprobs))


@settings(max_examples=40, deadline=None)
@given(st.lists(rollouts, max_size=3), st.lists(outcomes, max_size=3), st.lists(weighted_with_rivals(), max_size=3))
def test_samples_survive(some_rollouts: list[Rollout], some_outcomes: list[Outcome], some_weighted: list[WeightedRow]):
    assert rollouts_from(_through_arrow("rollouts", list(map(rollout_row, some_rollouts)))) == some_rollouts
    rows = _through_arrow("outcomes", list(map(outcome_row, some_outcomes)))
    assert outcomes_from(rows) == {outcome.id: outcome for outcome in some_outcomes}
    assert weighted_from(_through_arrow("weighted", list(map(weighted_row, some_weighted)))) == some_weighted


@settings(max_examples=40, deadline=None)
@given(ids, st.lists(st.builds(Step, st.integers(0, 99), st.integers(0, 99), text, st.booleans()), min_size=1))
def test_steps_survive(id_: SampleId, steps: list[Step]):
    other = replace(id_, sample=id_.sample + 1)
    rows = _through_arrow("steps", [*step_rows(id_, steps), *step_rows(other, steps[:1])])
    assert steps_from(rows) == {id_: steps, other: steps[:1]}


@pytest.mark.parametrize("status", list(VerdictStatus))
@pytest.mark.parametrize("error_type", [None, *ErrorType])
def test_verdicts_survive(status: VerdictStatus, error_type: ErrorType | None):
    id_ = SampleId(3, "p", 4)
    verdicts = [
        Verdict(id_, 0, "llm", "v1", status, label=1, error_type=error_type, raw="raw ½"),
        Verdict(id_, 1, "llm", "v1", status, score=0.25),
        Verdict(id_, 2, "llm", "v1", status),
    ]
    assert verdicts_from(_through_arrow("verdicts.llm", list(map(verdict_row, verdicts)))) == {id_: verdicts}


def test_prompts_survive():
    prompts = [Prompt("a", "was?", "½"), Prompt("b", "q", "1")]
    assert prompts_from(_through_arrow("prompts", list(map(prompt_row, prompts)))) == prompts


@settings(max_examples=40, deadline=None)
@given(st.lists(references(), max_size=3))
def test_references_survive(some: list[ReferenceRow]):
    rows = _through_arrow("reference", list(map(reference_row, some)))
    assert reference_from(rows) == {reference.key: reference for reference in some}


def test_a_right_response_in_two_pairs_has_two_references():
    right = SampleId(1, "a", 0)
    pairs = [ReferenceRow((right, SampleId(1, "a", wrong)), (-0.5,), (-1.0 * wrong,)) for wrong in (1, 2)]
    found = reference_from(_through_arrow("reference", list(map(reference_row, pairs))))
    assert [found[pair.key].rival_logprobs for pair in pairs] == [(-1.0,), (-2.0,)]


def test_an_empty_rival_is_not_the_same_as_none():
    base = WeightedRow(SampleId(1, "a", 0), (1,), (2,), (1.0,), (False,), 0.5, 1.0, 0.5, 2)
    beside = replace(base, rival=Rival(SampleId(1, "b", 3), ()))
    found = weighted_from(_through_arrow("weighted", [weighted_row(base), weighted_row(beside)]))
    assert found == [base, beside]
    assert [row.key for row in found] == [(base.id, None), (base.id, SampleId(1, "b", 3))]


def test_steps_and_verdicts_out_of_order():
    id_ = SampleId(1, "p", 0)
    rows = step_rows(id_, [Step(0, 1, "a"), Step(1, 2, "b")])
    with pytest.raises(StoreError, match="out of order: 1 after -1"):
        steps_from(reversed(rows))
    with pytest.raises(StoreError, match="out of order: 0 after 0"):
        verdicts_from([verdict_row(Verdict(id_, 0, "j", "v", VerdictStatus.TIMEOUT))] * 2)


def test_every_table_has_its_name_and_version_in_the_file():
    for table in [*SCHEMAS, "verdicts.anything"]:
        assert schema_of(table).metadata[b"bcpg_table"] == table.encode()
    with pytest.raises(StoreError, match="unknown table 'verdict'"):
        schema_of("verdict")


def test_a_shard_is_receipted(tmp_path: Path):
    receipt = _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))], shard=3, attempt="abcd")
    assert receipt.path == "rounds/0001/prompts/00003-abcd.parquet"
    assert (receipt.num_rows, receipt.seconds, receipt.metrics) == (1, 0.5, {"n": 1.0})
    assert (tmp_path / receipt.path).stat().st_size == receipt.num_bytes
    assert prompts_from(read_shard(tmp_path, receipt)) == [Prompt("a", "q", "1")]
    assert not list(tmp_path.rglob("*.partial"))


def test_an_empty_shard_is_a_shard(tmp_path: Path):
    assert read_shard(tmp_path, _write(tmp_path, "steps", [])) == []


def test_a_table_is_read_in_shard_order(tmp_path: Path):
    receipts = [_write(tmp_path, "prompts", [prompt_row(Prompt(f"p{s}", "q", "1"))], shard=s) for s in (2, 0, 1)]
    assert [p.prompt_id for p in prompts_from(read_table(tmp_path, receipts))] == ["p0", "p1", "p2"]


def test_attempts_do_not_collide(tmp_path: Path):
    first = _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))], attempt="one")
    _write(tmp_path, "prompts", [prompt_row(Prompt("late", "q", "1"))], attempt="two")
    assert prompts_from(read_shard(tmp_path, first))[0].prompt_id == "a"


def test_a_writer_that_dies_in_mid_write_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))])
    assert not list(tmp_path.rglob("*.parquet"))


def test_rows_that_do_not_fit_leave_no_file(tmp_path: Path):
    with pytest.raises(pa.ArrowException):
        _write(tmp_path, "steps", [{"round": "one"}])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_altered_torn_and_missing_files(tmp_path: Path):
    receipt = _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))])
    path = tmp_path / receipt.path
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="checksum differs"):
            read_shard(tmp_path, receipt)
    path.unlink()
    with pytest.raises(StoreError, match="in the manifest but not there"):
        read_shard(tmp_path, receipt)


def test_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
        receipt = _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))])
    newer, known = schema.SCHEMA_VERSION + 1, schema.SCHEMA_VERSION
    with pytest.raises(StoreError, match=f"schema version {newer}; this program reads version {known}"):
        read_shard(tmp_path, receipt)


def test_shards_are_plain_parquet(tmp_path: Path):
    receipt = _write(tmp_path, "prompts", [prompt_row(Prompt("a", "q", "1"))])
    assert pq.read_table(tmp_path / receipt.path).column_names == ["prompt_id", "question", "answer"]


_READS = """
import os, sys
from pathlib import Path
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.shards import read_columns, read_shard
receipt = Receipt(**eval(sys.argv[2]))
before = len(os.listdir("/proc/self/task"))
read_shard(Path(sys.argv[1]), receipt), read_columns(Path(sys.argv[1]), receipt, ["prompt_id"])
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_reading_leaves_no_thread_behind(tmp_path: Path) -> None:
    """One of Arrow's that holds the last of a shard's bytes while the interpreter ends aborts the process, once in some 60."""
    prompt = Prompt("p", "1 + 1?", "2")
    receipt = _write(tmp_path, "prompts", [prompt_row(prompt)] * 100)
    done = subprocess.run(
        [sys.executable, "-c", _READS, str(tmp_path), repr(asdict(receipt))], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
