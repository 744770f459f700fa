"""stages/train/table: rows read one at a time are those of the tables, bit for bit, and what is in memory is not the rows."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import DamagedShardError, DataError, EngineError, RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt, SampleId
from bcpg_cluster.stages.train.objective import Bcpg, Dpo, Kto, Objective
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_plan import lay_out_training, row_size
from bcpg_cluster.stages.train.table.opening import TableOpener
from bcpg_cluster.stages.train.table.row_table import RowTable
from bcpg_cluster.stages.train.worker import reference_shard, train_row
from bcpg_cluster.store.rows import ReferenceRow, Rival, Row, WeightedRow, reference_row, weighted_row
from bcpg_cluster.store.shards import write_shard

SETTINGS = TrainSettings(
    objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-5, epochs=2, batch_sequences=3, micro_batch_tokens=16
)
RANKS = 2  # that made the references


def write(run_dir: Path, table: str, shard: int, rows: Sequence[Row], ranks: int | None = None) -> Receipt:
    metrics = {} if ranks is None else {"ranks": float(ranks)}
    return write_shard(
        run_dir, table=table, round_=1, shard=shard, attempt="a", rows=rows, seconds=0.0, metrics=metrics
    )


def write_weighted(run_dir: Path, shards: Sequence[Sequence[WeightedRow]]) -> list[Receipt]:
    return [write(run_dir, "weighted", number, list(map(weighted_row, rows))) for number, rows in enumerate(shards)]


def write_references(run_dir: Path, shards: Sequence[Sequence[ReferenceRow]]) -> list[Receipt]:
    """Each shard's rows dealt to the ranks, in an order of their own."""
    return [
        write(
            run_dir, "reference", reference_shard(number, rank, RANKS), [*map(reference_row, rows[rank::RANKS])][::-1], RANKS
        )
        for number, rows in enumerate(shards)
        for rank in range(RANKS)
    ]  # fmt: skip


def opener(run_dir: Path, rank: int = 0, world_size: int = 1) -> TableOpener:
    return TableOpener(run_dir, run_dir / "decoded", rank, world_size, ProgressReporter())


def open_table(run_dir: Path, weighted: Sequence[Receipt], reference: Sequence[Receipt]) -> RowTable:
    """As a rank does."""
    one = opener(run_dir)
    return one.with_reference(one.rows(weighted), reference)


floats32 = st.floats(width=32, allow_nan=False)
token_ids = st.integers(0, 2**31 - 1)


@st.composite
def a_row(draw: st.DrawFn, number: int) -> tuple[WeightedRow, ReferenceRow]:
    """A row that a round may have, its key made of its number, with its reference."""
    response = tuple(draw(st.lists(token_ids, min_size=1, max_size=6)))

    def one_each(values: st.SearchStrategy, of: Sequence[int]) -> tuple:
        return tuple(draw(st.lists(values, min_size=len(of), max_size=len(of))))

    rival = draw(
        st.none() | st.builds(Rival, st.just(SampleId(1, "other", number)), st.lists(token_ids, max_size=5).map(tuple))
    )
    row = WeightedRow(
        SampleId(1, draw(st.sampled_from(["p", "q"])), number),
        tuple(draw(st.lists(token_ids, max_size=4))),
        response,
        one_each(floats32, response),
        one_each(st.booleans(), response),
        draw(st.floats(-1, 1)),
        draw(st.sampled_from([0.0, 1.0])),
        draw(st.floats(0, 1)),
        draw(st.integers(0, 64)),
        rival,
    )
    return row, ReferenceRow(
        row.key, one_each(floats32, response), one_each(floats32, rival.token_ids if rival else ())
    )


@st.composite
def a_round(draw: st.DrawFn) -> list[list[tuple[WeightedRow, ReferenceRow]]]:
    """Shards of rows, empty ones among them."""
    counts = draw(st.lists(st.integers(0, 4), max_size=4))
    return [[draw(a_row(10 * shard + k)) for k in range(count)] for shard, count in enumerate(counts)]


def as_objects(pairs: Sequence[tuple[WeightedRow, ReferenceRow]]) -> list[TrainRow]:
    return [train_row(row, ReferenceLogprobs(found.logprobs, found.rival_logprobs)) for row, found in pairs]


@settings(max_examples=60, deadline=None)
@given(a_round(), st.integers(1, 3))
def test_a_table_has_the_rows_and_the_plan_that_objects_have(
    shards: list[list[tuple[WeightedRow, ReferenceRow]]], world_size: int
):
    objects = as_objects([pair for shard in shards for pair in shard])
    with TemporaryDirectory() as place:
        run_dir = Path(place)
        weighted = write_weighted(run_dir, [[row for row, _ in shard] for shard in shards])
        references = write_references(run_dir, [[found for _, found in shard] for shard in shards])
        table = open_table(run_dir, weighted[::-1], references[::-1])  # receipts come in any order
        # The text of a float says every bit of it, -0.0 among them, and that it is no numpy scalar.
        assert repr([*table]) == repr(objects)
        assert repr(table[1:]) == repr(objects[1:])
        assert [*table.sizes()] == [row_size(row) for row in objects]
        found, expected = (lay_out_training(rows, SETTINGS, world_size, "/nowhere") for rows in (table, objects))
        assert (found.steps, found.rates) == (expected.steps, expected.rates)
        assert len(table) == len(objects)
        with pytest.raises(IndexError):
            table[len(objects)]


def a_row_of(shard: int, sample: int, length: int = 3, rival: int = 0) -> WeightedRow:
    """A row whose numbers are its own."""
    return WeightedRow(
        SampleId(1, f"p{shard}", sample),
        (1, 2),
        tuple(range(10 * sample, 10 * sample + length)),
        (0.5,) * length,
        (True,) * length,
        0.25,
        1.0,
        0.75,
        4,
        Rival(SampleId(1, f"p{shard}", 100 + sample), (7,) * rival) if rival else None,
    )


def reference_of(row: WeightedRow, value: float = -1.0) -> ReferenceRow:
    rival = row.rival.token_ids if row.rival else ()
    return ReferenceRow(row.key, (value,) * len(row.token_ids), (value,) * len(rival))


def a_training(
    run_dir: Path, change: Callable[[WeightedRow], WeightedRow] = lambda row: row, value: float = -1.0
) -> str:
    """The fingerprint of a training on two shards."""
    shards = [[change(a_row_of(shard, sample)) for sample in range(3)] for shard in range(2)]
    weighted = write_weighted(run_dir, shards)
    references = write_references(run_dir, [[reference_of(row, value) for row in rows] for rows in shards])
    return lay_out_training(open_table(run_dir, weighted, references), SETTINGS, 2, "/nowhere").fingerprint


def test_a_training_is_another_where_a_row_or_a_reference_is_another(tmp_path: Path):
    first = a_training(tmp_path / "first")
    assert a_training(tmp_path / "same") == first

    def other_mean(row: WeightedRow) -> WeightedRow:
        return replace(row, group_mean=np.nextafter(row.group_mean, 1.0)) if row.id.sample == 2 else row

    assert a_training(tmp_path / "rows", other_mean) != first
    assert a_training(tmp_path / "references", value=float(np.nextafter(np.float32(-1), np.float32(0)))) != first
    assert a_training(tmp_path / "neither") == first


def test_references_that_were_cut_by_rank_alone_are_found_too(tmp_path: Path):
    """As earlier programs did: a part has rows of every shard, and no metric says how many parts there are."""
    shards = [[a_row_of(shard, sample) for sample in range(4)] for shard in range(3)]
    rows = [row for shard in shards for row in shard]
    parts = [rows[rank::2] for rank in range(2)]
    references = [
        write(tmp_path, "reference", rank, [reference_row(reference_of(row, -row.id.sample)) for row in part])
        for rank, part in enumerate(parts)
    ]
    table = open_table(tmp_path, write_weighted(tmp_path, shards), references)
    assert [row.reference for row in table] == [ReferenceLogprobs((-float(row.id.sample),) * 3) for row in rows]


def test_the_ranks_of_a_machine_decode_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = [[a_row_of(shard, 0)] for shard in range(5)]
    weighted = write_weighted(tmp_path, shards)
    first = opener(tmp_path, 0, 2).rows(weighted)

    def fail(*arguments: object) -> bytes:
        raise AssertionError("decoded again")

    monkeypatch.setattr("bcpg_cluster.stages.train.table.opening.encode_rows", fail)
    second = opener(tmp_path, 1, 2).rows(weighted)
    assert [*second] == [*first] == [train_row(row) for (row,) in shards]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:40] + b"\xff" + data[41:], lambda data: b""]
)
def test_a_decoded_file_that_is_not_what_was_written_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]):
    weighted = write_weighted(tmp_path, [[a_row_of(0, sample) for sample in range(3)]])
    table = opener(tmp_path).rows(weighted)
    expected = [*table]
    (path,) = (tmp_path / "decoded").iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert [*opener(tmp_path).rows(weighted)] == expected
    assert path.read_bytes() == content


def test_rows_that_are_gone_are_an_error_that_another_try_mends(tmp_path: Path):
    table = opener(tmp_path).rows(write_weighted(tmp_path, [[a_row_of(0, 0)]]))
    (path,) = (tmp_path / "decoded").iterdir()
    os.truncate(path, 50)
    with pytest.raises(EngineError, match=f"could not be read from {path}: it ends before byte"):
        table[0]
    path.unlink()
    with pytest.raises(EngineError, match="No such file"):
        table[0]


def test_a_disk_that_does_not_take_the_rows_is_said(tmp_path: Path):
    (tmp_path / "decoded").write_text("a file where the directory should be")
    with pytest.raises(RunDirectoryError, match="decoded rows could not be written") as raised:
        opener(tmp_path).rows(write_weighted(tmp_path, [[a_row_of(0, 0)]]))
    assert "make room there" in raised.value.remedy


def test_a_damaged_shard_is_found_when_it_is_decoded(tmp_path: Path):
    (receipt,) = write_weighted(tmp_path, [[a_row_of(0, 0)]])
    (tmp_path / receipt.path).write_bytes(b"x" * receipt.num_bytes)
    with pytest.raises(DamagedShardError, match="checksum differs"):
        opener(tmp_path).rows([receipt])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda row: replace(row, token_weights=(1.0,)), "row 4: 3 tokens, 1 weights, 3 mined flags"),
        (lambda row: replace(row, mined=()), "row 4: 3 tokens, 3 weights, 0 mined flags"),
        (lambda row: replace(row, token_ids=(), token_weights=(), mined=()), "row 4: 0 tokens, 0 weights"),
    ],
)
def test_rows_without_one_of_each_are_refused(
    tmp_path: Path, spoil: Callable[[WeightedRow], WeightedRow], problem: str
):
    shards = [[a_row_of(0, sample) for sample in range(3)], [a_row_of(1, 0), spoil(a_row_of(1, 1))]]
    with pytest.raises(DataError, match=problem):
        opener(tmp_path).rows(write_weighted(tmp_path, shards))


@pytest.mark.parametrize(
    ("reference", "error", "problem"),
    [
        (
            lambda row: ReferenceRow(row.key, (-1.0,) * 2, (-1.0,) * 4),
            DataError,
            "row 1: 3 tokens, 2 reference log-probs",
        ),
        (
            lambda row: ReferenceRow(row.key, (-1.0,) * 3, (-1.0,) * 3),
            DataError,
            "row 1: a rival of 4 tokens, 3 reference",
        ),
        (lambda row: ReferenceRow((row.id, None), (-1.0,) * 3), StoreError, "1 of the 2 rows from row 0 on have no"),
    ],
)
def test_references_of_other_rows_are_refused(
    tmp_path: Path, reference: Callable[[WeightedRow], ReferenceRow], error: type[Exception], problem: str
):
    rows = [a_row_of(0, sample, rival=4) for sample in range(2)]
    weighted = write_weighted(tmp_path, [rows])
    with pytest.raises(error, match=problem):
        open_table(tmp_path, weighted, write_references(tmp_path, [[reference_of(rows[0]), reference(rows[1])]]))


def test_a_value_that_is_missing_is_no_zero(tmp_path: Path):
    row = weighted_row(a_row_of(0, 0))
    for spoilt in ({"advantage": None}, {"token_weights": [0.5, None, 0.5]}):
        receipt = write(tmp_path, "weighted", 0, [{**row, **spoilt}])
        with pytest.raises(StoreError, match=f"column {next(iter(spoilt))} lacks 1 of its values"):
            opener(tmp_path).rows([receipt])


@pytest.mark.parametrize("objective", [Dpo(), Kto()])
def test_pairs_need_rivals_and_mismatches_do_not(tmp_path: Path, objective: Objective):
    rows = [a_row_of(0, 0, rival=2), a_row_of(0, 1)]
    table = open_table(
        tmp_path, write_weighted(tmp_path, [rows]), write_references(tmp_path, [[*map(reference_of, rows)]])
    )
    if objective.rows == "mismatched":
        table.check(objective)
        return
    with pytest.raises(DataError, match="row 1 has no rival"):
        table.check(objective)


def test_rows_without_references_are_not_trained_on(tmp_path: Path):
    table = opener(tmp_path).rows(write_weighted(tmp_path, [[], [a_row_of(1, 0)]]))
    with pytest.raises(DataError, match="row 0 has no reference log-probs"):
        lay_out_training(table, SETTINGS, 1, "/nowhere")


def test_memory_holds_no_rows(tmp_path: Path):
    """400,000 response tokens in 10 shards. Objects take more than 50 bytes a token; a table keeps less than 0.5, and at its peak
    less than 2.5: a shard while it is decoded (40,000 tokens at some 20 bytes), the plan, and the rows of a micro-batch.
    """
    length, per_shard = 1000, 40
    shards = [[a_row_of(shard, sample, length) for sample in range(per_shard)] for shard in range(10)]
    weighted = write_weighted(tmp_path, shards)
    references = write_references(tmp_path, [[reference_of(row) for row in rows] for rows in shards])
    num_tokens = length * per_shard * len(shards)
    del shards
    open_table(tmp_path / "warm", *warm(tmp_path / "warm"))  # what is imported and kept once is not the table's
    plan_settings = replace(SETTINGS, micro_batch_tokens=4096, batch_sequences=64, epochs=1)

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()
        table = open_table(tmp_path, weighted, references)
        plan = lay_out_training(table, plan_settings, 2, "/nowhere")
        seen = sum(len(table[row].token_ids) for step in plan.steps for batch in step.ranks[0] for row in batch)
        kept = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
        peak = tracemalloc.get_traced_memory()[1] - before
        objects = [*table]
        as_objects = tracemalloc.get_traced_memory()[0] - before - kept
    finally:
        tracemalloc.stop()
    assert 0.4 * num_tokens < seen < 0.6 * num_tokens
    assert len(objects) == len(table)
    assert as_objects > 50 * num_tokens
    assert kept < 0.5 * num_tokens
    assert peak < 2.5 * num_tokens


def warm(run_dir: Path) -> tuple[list[Receipt], list[Receipt]]:
    row = a_row_of(0, 0)
    return write_weighted(run_dir, [[row]]), write_references(run_dir, [[reference_of(row)]])
