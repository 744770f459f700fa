"""What the rows of a round cost a trainer rank: memory and seconds, as objects (before) and as a table on disk (now).

A round of N response tokens is written as a run has it: ``weighted`` and ``reference`` in shards of 64 rows, long-tailed lengths.
Every rank is a process of its own and they work at the same time, as on one machine. It reads the tables, lays out the steps and
goes through its own: every row is built and laid out as tensors, but there is no model. ``table`` is the worker's own path;
``objects`` is what it did before: all rows as Python objects, joined with their references, and a fingerprint over their text.
Both must see the same numbers.

Memory is the process's peak resident set above what it had after a small table was gone through (imports, allocators). Nothing is
mapped from a file, so it is memory that is the rank's alone; the decoded files' pages are the kernel's, which drops them at will.
A token is a response token of the round (``of the table``) or of the rows that a rank's steps name (``of its share``).

    python benchmarks/train_table.py [--tokens 2e6] [--objects-tokens 2e6] [--ranks 1 4] [--epochs 1] [--repeats 1]
    python benchmarks/train_table.py --tokens 100e6 --objects-tokens 5e6    # 10 minutes on two cores, 3 GB of disk

Objects take some 150 bytes a token in each rank: ``--objects-tokens`` is a table of its own for them.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import random
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from drawn_lengths import drawn_lengths
from measure import argument_parser, facts, finish, summarise

from bcpg_cluster.records import Receipt, SampleId, StepCheckpoint
from bcpg_cluster.stages.fakes.skill import verify_skill
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_plan import lay_out_training
from bcpg_cluster.stages.train.worker import TrainJob, TrainWorker, reference_shard, train_row
from bcpg_cluster.store.layout import decoded_path
from bcpg_cluster.store.rows import (
    ReferenceRow,
    WeightedRow,
    reference_from,
    reference_row,
    weighted_from,
    weighted_row,
)
from bcpg_cluster.store.shards import read_table, write_shard

_LONGEST = 4096
_PROMPT = 100
_WARM_TOKENS = 50_000
_DECODED = decoded_path(1)


@dataclass(frozen=True, slots=True)
class Table:
    """A round on disk.

    Attributes:
        tokens: response tokens of all rows.
    """

    job: TrainJob
    reference: tuple[Receipt, ...]
    tokens: int


@dataclass(slots=True)
class Walk:
    """What a rank found on its way through its steps.

    Attributes:
        share: response tokens of the rows that its steps name, each row once.
        checksum: over all that was laid out.
        held_mib: the most that it had resident at the end of a step.
        marks: seconds since it began, by what was done then.
    """

    began: float
    share: int = 0
    checksum: int = 0
    held_mib: float = 0.0
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, what: str) -> None:
        """``what`` is done."""
        self.marks[what] = time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one rank: MiB above its start, and what :class:`Walk` says."""

    peak_mib: float
    held_mib: float
    share: int
    checksum: int
    marks: dict[str, float]


# --- the table --------------------------------------------------------------------------------------------------------


def write_table(
    run_dir: Path, num_tokens: int, shard_rows: int, num_parts: int, settings: TrainSettings, seed: int
) -> Table:
    """A sealed round of about so many response tokens; references in ``num_parts`` parts a shard."""
    draw, values = random.Random(seed), np.random.default_rng(seed)
    weighted: list[Receipt] = []
    reference: list[Receipt] = []
    tokens = 0
    while tokens < num_tokens:
        lengths = [max(length - _PROMPT, 1) for length in drawn_lengths("tail", shard_rows, _LONGEST, draw)]
        rows = [_row(len(weighted), sample, length, values) for sample, length in enumerate(lengths)]
        found = [ReferenceRow(row.key, -values.exponential(0.3, len(row.token_ids)).astype("f4")) for row in rows]  # type: ignore[arg-type]
        for part in range(num_parts):
            number = reference_shard(len(weighted), part, num_parts)
            of_part = [reference_row(row) for row in found[part::num_parts]]
            reference.append(_write(run_dir, "reference", number, of_part, {"ranks": float(num_parts)}))
        weighted.append(_write(run_dir, "weighted", len(weighted), [weighted_row(row) for row in rows], {}))
        tokens += sum(lengths)
    return Table(TrainJob(run_dir, 1, "base", tuple(weighted), settings, ""), tuple(reference), tokens)


def _row(shard: int, sample: int, length: int, values: np.random.Generator) -> WeightedRow:
    """Arrays where a record has tuples: they are written at once."""
    mined = values.random(length) < 0.3
    columns: Any = (
        values.integers(0, 152_000, _PROMPT, "i4"), values.integers(0, 152_000, length, "i4"), (~mined).astype("f4"), mined
    )  # fmt: skip
    right = sample % 3 == 0
    mean = float(values.random())
    return WeightedRow(SampleId(1, f"p{shard}", sample), *columns, float(right) - mean, float(right), mean, 16)


def _write(run_dir: Path, table: str, shard: int, rows: list[dict[str, Any]], metrics: dict[str, float]) -> Receipt:
    return write_shard(
        run_dir, table=table, round_=1, shard=shard, attempt="a", rows=rows, seconds=0.0, metrics=metrics
    )


# --- a rank -----------------------------------------------------------------------------------------------------------


class WalkingRank(FakeTrainerRank):
    """A rank that does everything with its rows but compute."""

    def __init__(self, rank: int, world_size: int, walk: Walk) -> None:
        super().__init__(rank, world_size)
        self._walk = walk

    def train(
        self, rows: Sequence[TrainRow], checkpoint_dir: str | None, resume: StepCheckpoint | None = None
    ) -> list[StepReport]:
        """Lay out all steps and go through this rank's; no reports."""
        import torch

        from bcpg_cluster.stages.train.layout.row_layout import lay_out

        walk, settings = self._walk, self._settings
        assert settings is not None
        walk.mark("rows and references read")
        plan = lay_out_training(rows, settings, self._world_size, "/nowhere")
        walk.mark("steps laid out")
        seen = set()
        for step in plan.steps:
            for micro_batch in step.ranks[self._rank]:
                chosen = [rows[row] for row in micro_batch]
                laid_out = lay_out(
                    [(row.prompt_token_ids, row.token_ids) for row in chosen], "padded", torch.device("cpu")
                )
                walk.checksum += int(laid_out.targets.sum()) + hash(tuple(map(_numbers, chosen)))
                walk.share += sum(
                    len(row.token_ids) for row, at in zip(chosen, micro_batch, strict=True) if at not in seen
                )
                seen.update(micro_batch)
            walk.held_mib = max(walk.held_mib, _status_mib("VmRSS"))
        walk.mark("steps gone through")
        return []


def _numbers(row: TrainRow) -> tuple[object, ...]:
    assert row.reference is not None
    return row.advantage, row.group_mean, row.reward, row.token_weights, row.mined, row.reference.response


def from_table(table: Table, rank: int, world_size: int, walk: Walk) -> None:
    """As a worker does now."""
    worker = TrainWorker(rank, world_size, lambda r, size, host, port: WalkingRank(r, size, walk), verify_skill)
    worker.meet("", 0)
    worker.begin(table.job)
    walk.mark("rows read")
    worker.train(table.job, table.reference)


def from_objects(table: Table, rank: int, world_size: int, walk: Walk) -> None:
    """As a worker did before."""
    job = table.job
    engine = WalkingRank(rank, world_size, walk)
    stored = weighted_from(read_table(job.run_dir, job.weighted))
    engine.open(str(job.model_path), job.settings)
    walk.mark("rows read")
    found = {
        key: ReferenceLogprobs(row.logprobs, row.rival_logprobs)
        for key, row in reference_from(read_table(job.run_dir, table.reference)).items()
    }
    engine.train([train_row(row, found[row.key]) for row in stored], None)


SIDES = {"objects": from_objects, "table": from_table}


def be_rank(side: str, table: Table, warm: Table, rank: int, world_size: int, answer: Any) -> None:
    """A process: the small table first, then the one that is measured."""
    SIDES[side](warm, rank, world_size, Walk(time.monotonic()))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status_mib("VmRSS")
    walk = Walk(time.monotonic())
    SIDES[side](table, rank, world_size, walk)
    peak = _status_mib("VmHWM") - before
    answer.send(Cost(peak, walk.held_mib - before, walk.share, walk.checksum, walk.marks))
    answer.close()


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def all_ranks(side: str, table: Table, warm: Table, world_size: int) -> list[Cost]:
    """The ranks of one machine, at the same time; files that a try before decoded are gone."""
    for one in (table, warm):
        shutil.rmtree(Path(str(one.job.run_dir)) / _DECODED, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    ranks = [
        context.Process(target=be_rank, args=(side, table, warm, rank, world_size, theirs))
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for rank in ranks:
        rank.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        return [ours.recv() for ours, _ in pipes]
    except EOFError:
        raise SystemExit(f"a rank of {side} failed") from None
    finally:
        for rank in ranks:
            rank.join()


# --- results ----------------------------------------------------------------------------------------------------------


def rows_of(title: str, table: Table, costs: Sequence[Cost]) -> dict[str, dict[str, Any]]:
    """Summaries over ranks and repeats."""
    mib = 2**20
    rows = {
        f"{title}: share of the table's tokens": [cost.share / table.tokens for cost in costs],
        f"{title}: peak bytes a token of its share": [cost.peak_mib * mib / cost.share for cost in costs],
        f"{title}: peak bytes a token of the table": [cost.peak_mib * mib / table.tokens for cost in costs],
        f"{title}: held in the steps, bytes a token of the table": [
            cost.held_mib * mib / table.tokens for cost in costs
        ],
        f"{title}: peak MiB": [cost.peak_mib for cost in costs],
    }
    rows |= {f"{title}: s until {mark}": [cost.marks[mark] for cost in costs] for mark in costs[0].marks}
    return {name: summarise(values) for name, values in rows.items()}


@contextlib.contextmanager
def tables(options: Namespace, settings: TrainSettings) -> Iterator[dict[str, Table]]:
    """A table for each side, and the small one."""
    root = Path(tempfile.mkdtemp(prefix="train-table-", dir=options.scratch))
    numbers = {"warm": _WARM_TOKENS, "objects": int(options.objects_tokens), "table": int(options.tokens)}
    try:
        yield {
            name: write_table(root / name, number, options.shard_rows, max(options.ranks), settings, options.seed)
            for name, number in numbers.items()
        }
    finally:
        shutil.rmtree(root, ignore_errors=True)


def check_alike(there: dict[str, Table], world_size: int) -> None:
    """Both sides see the same numbers in the same steps."""
    found = {side: all_ranks(side, there["warm"], there["warm"], world_size) for side in SIDES}
    seen = {side: [(cost.share, cost.checksum) for cost in costs] for side, costs in found.items()}
    if seen["objects"] != seen["table"]:
        raise SystemExit(f"the rows differ: {seen}")


def main() -> None:
    parser = argument_parser(__doc__, repeats=1)
    parser.add_argument("--tokens", type=float, default=2e6, help="response tokens of the table")
    parser.add_argument(
        "--objects-tokens", type=float, default=2e6, help="response tokens of the objects' table; 0: none"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4], help="numbers of ranks (default: 1 4)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--shard-rows", type=int, default=64)
    parser.add_argument("--scratch", type=Path, help="a directory for the tables (default: the system's for such)")
    options = parser.parse_args()
    started = facts()
    settings = replace(
        TrainSettings(objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-5),
        epochs=options.epochs, batch_sequences=512, micro_batch_tokens=8192, seed=options.seed,
    )  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    with tables(options, settings) as there:
        check_alike(there, max(options.ranks))
        for world_size in options.ranks:
            for side in SIDES:
                table = there[side]
                if side == "objects" and not options.objects_tokens:
                    continue
                costs = [
                    cost for _ in range(options.repeats) for cost in all_ranks(side, table, there["warm"], world_size)
                ]
                rows |= rows_of(f"{side}, {table.tokens / 1e6:.1f} M tokens, {world_size} ranks", table, costs)
        decoded = [path.stat().st_size for path in (Path(str(there["table"].job.run_dir)) / _DECODED).iterdir()]
        rows["decoded files, bytes a token of the table"] = summarise([sum(decoded) / there["table"].tokens])
    names = ("tokens", "objects_tokens", "ranks", "epochs", "shard_rows", "seed", "repeats")
    finish(
        "what the rows of a round cost a trainer rank",
        rows,
        settings={name: getattr(options, name) for name in names},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
