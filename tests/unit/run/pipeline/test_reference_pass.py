"""run/pipeline/reference_pass.py: which parts are missing, which count, and what is left of tables cut otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from bcpg_cluster.records import Receipt
from bcpg_cluster.run.pipeline.reference_pass import ReferencePass
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.worker import ReferencePiece, TrainJob, reference_shard
from bcpg_cluster.store.journals.lost import LostShard
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import ShardAccepted
from tests.told import Heard

NUM_RANKS = 2


def receipt(table: str, shard: int, *, checksum: str = "c", attempt: str = "a", **fields: Any) -> Receipt:
    made = Receipt(table, 1, shard, attempt, f"{table}-{shard}-{attempt}", 1, 1, checksum, 1.0, {})
    return replace(made, **fields)


class Trainers:
    """Answers at once, with a receipt a rank; ``first`` is done before it answers."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        self.asked: list[tuple[int, Mapping[str, Receipt]]] = []
        self._first = first

    def reference(self, job: TrainJob, piece: ReferencePiece, attempt: str) -> list[Receipt]:
        self.asked.append((piece.shard, piece.inputs))
        self._first()
        return [
            receipt(
                "reference",
                reference_shard(piece.shard, rank, NUM_RANKS),
                attempt=attempt,
                seconds=float(1 + rank),
                metrics={"ranks": 2.0},
            )
            for rank in range(NUM_RANKS)
        ]


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path) as made:
        for shard in range(3):
            made.accept_all([receipt(table, shard) for table in ("rollouts", "outcomes", "weighted")])
        yield made


def over(manifest: Manifest, trainers: Trainers, heard: Heard | None = None) -> ReferencePass:
    return ReferencePass(manifest, cast("TrainerClient", trainers), NUM_RANKS, 1, heard or Heard())


def job(manifest: Manifest) -> TrainJob:
    weighted = tuple(manifest.state.receipts(1, "weighted"))
    return TrainJob(manifest.run_dir, 1, "model", weighted, None, "")  # type: ignore[arg-type]


def piece(manifest: Manifest, shard: int) -> ReferencePiece:
    inputs = {table: manifest.state.shards[1, table][shard] for table in ("rollouts", "outcomes")}
    return ReferencePiece(shard, inputs)


def parts(manifest: Manifest) -> list[int]:
    return sorted(manifest.state.shards.get((1, "reference"), {}))


def test_what_came_early_is_not_computed_again(manifest: Manifest):
    trainers, heard = Trainers(), Heard()
    references = over(manifest, trainers, heard)
    references.compute(job(manifest), piece(manifest, 1))
    assert parts(manifest) == [2, 3]
    assert references.missing(range(3)) == [0, 2]
    references.finish(job(manifest))
    assert [(shard, set(inputs)) for shard, inputs in trainers.asked] == [
        (1, {"rollouts", "outcomes"}),
        (0, {"weighted"}),
        (2, {"weighted"}),
    ]
    assert manifest.state.sealed[1, "reference"].num_shards == 6
    assert [event.receipt.shard for event in heard.of(ShardAccepted)] == [2, 3, 0, 1, 4, 5]
    assert references.seconds() == 3 * 2.0  # of each shard the slower rank
    references.finish(job(manifest))
    assert len(trainers.asked) == 3


def test_a_shard_of_which_a_part_is_gone_is_computed_again(manifest: Manifest):
    references = over(manifest, Trainers())
    references.finish(job(manifest))
    manifest.lose(LostShard(1, "reference", 3, manifest.state.shards[1, "reference"][3].attempt, "c", (), (), "gone"))
    trainers = Trainers()
    over(manifest, trainers).finish(job(manifest))
    assert [shard for shard, _ in trainers.asked] == [1]
    assert manifest.state.sealed[1, "reference"].num_shards == 6


@pytest.mark.parametrize(("checksum", "counts"), [("c", True), ("other", False)])
def test_what_was_computed_from_content_that_was_made_again_counts_only_if_it_is_the_same(
    manifest: Manifest, checksum: str, counts: bool
):
    """The shard is lost and made again while the trainers work on what they had read before."""

    def make_again() -> None:
        manifest.lose(LostShard(1, "rollouts", 1, "a", "c", ("outcomes", "weighted"), ("reference",), "flipped"))
        manifest.accept(receipt("rollouts", 1, attempt="b", checksum=checksum))

    heard = Heard()
    over(manifest, Trainers(make_again), heard).compute(job(manifest), piece(manifest, 1))
    assert parts(manifest) == ([2, 3] if counts else [])
    assert len(heard.events) == (2 if counts else 0)
    assert (1 in manifest.state.shards[1, "weighted"]) == counts


def test_parts_of_a_shard_that_is_lost_and_not_made_again_yet_do_not_count(manifest: Manifest):
    trainers = Trainers(lambda: manifest.lose(LostShard(1, "outcomes", 1, "a", "c", (), ("reference",), "gone")))
    over(manifest, trainers).compute(job(manifest), piece(manifest, 1))
    assert parts(manifest) == []


def test_a_table_cut_by_rank_alone_is_kept_whole_and_let_go_of_in_part(manifest: Manifest):
    """What programs before this one made: part k is rank k's share of the whole round."""
    manifest.accept_all([receipt("reference", 0), receipt("reference", 1)])
    manifest.seal(1, "reference", 2)
    references = over(manifest, Trainers())
    references.begin()
    references.finish(job(manifest))
    assert parts(manifest) == [0, 1]
    manifest.lose(LostShard(1, "reference", 1, "a", "c", (), (), "gone"))
    references.begin()
    assert parts(manifest) == []
    references.finish(job(manifest))
    assert parts(manifest) == [0, 1, 2, 3, 4, 5]
    assert all(found.metrics == {"ranks": 2.0} for found in manifest.state.receipts(1, "reference"))
    assert len(manifest.state.receipts(1, "weighted")) == 3
