"""recovery/lost_shards.py: whatever is damaged while a run works is made again, and what comes out is what would have come out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DamagedShardError, RunDirectoryError
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.recovery.lost_shards import LostShards
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.store.shards import find_damaged, read_accepted, write_shard
from bcpg_cluster.watch.fault_recorder import FaultRecorder
from bcpg_cluster.watch.observer import Event, Faulted, Noted, ShardAccepted
from tests.chaos.damage import Contents, contents_of, damage
from tests.told import Heard

STAGES = data_stages({"llm": "judge.llm", "truth": "cpu"})


class Damager:
    """Damages a shard of ``table`` in the moment when ``stage`` delivers the shard of the same number, some times."""

    def __init__(self, run_dir: Path, stage: str, table: str, times: int = 1) -> None:
        self._run_dir, self._stage, self._table, self._times = run_dir, stage, table, times
        self.heard: list[Event] = []

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        if isinstance(event, ShardAccepted) and event.stage == self._stage and event.receipt.shard == 0 and self._times:
            self._times -= 1
            wanted = next(r for r in read_manifest(self._run_dir).receipts(event.round, self._table) if r.shard == 0)
            damage(self._run_dir / wanted.path, "flipped")


@pytest.fixture(scope="module")
def small(make_config: Callable[..., Config]) -> Config:
    return make_config(prompts={"per_round": 8}, evaluate={"num_prompts": 8, "prompts_per_shard": 4})


@pytest.fixture(scope="module")
def undisturbed(small: Config, run_rounds: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return contents_of(run_rounds(tmp_path_factory.mktemp("runs") / "undisturbed", small, 1).directory)


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        ("generate", "prompts"),  # verify reads it; the coordinator makes it
        ("segment", "rollouts"),  # weigh reads it
        ("segment", "steps"),  # the judges read it, and weigh
        ("judge.llm", "steps"),
        ("judge.llm", "verdicts.llm"),
        ("weigh", "weighted"),  # the trainers read it
        ("reference", "reference"),
        ("evaluate", "eval_prompts"),
        ("verify_evaluation", "eval_outcomes"),  # the driver reads it
    ],
)
def test_a_shard_damaged_before_it_is_read(
    stage: str, table: str, small: Config, run_rounds: Callable[..., Any], undisturbed: Contents, tmp_path: Path
):
    damager = Damager(tmp_path / "run", stage, table)
    run_rounds(tmp_path / "run", small, 1, damager)
    state = read_manifest(tmp_path / "run")
    remade = [(shard.table, shard.shard, shard.is_same) for shard in state.losses.remade]
    assert remade == [(table, 0, True)]
    assert contents_of(tmp_path / "run") == undisturbed
    assert find_damaged(tmp_path / "run", [r for shards in state.shards.values() for r in shards.values()]) == []
    assert next(e for e in damager.heard if isinstance(e, Faulted)).fault.what.startswith(f"table {table} round ")
    assert any(isinstance(e, Noted) and "the same content" in e.text for e in damager.heard)
    assert [fault.what for fault in state.faults] == [e.fault.what for e in damager.heard if isinstance(e, Faulted)]


@pytest.mark.parametrize("table", ["rollouts", "steps"])
def test_pools_that_take_turns(
    table: str,
    make_config: Callable[..., Config],
    run_rounds: Callable[..., Any],
    undisturbed: Contents,
    tmp_path: Path,
):
    """The judge's turn, the second, reads what the first made: the round begins again, and does only what is missing."""
    judge = {"kind": "fake", "precision": 0.9, "recall": 0.8, "pool": "judge.llm"}
    config = make_config(
        placement="colocated",
        judges={"llm": judge},
        prompts={"per_round": 8},
        evaluate={"num_prompts": 8, "prompts_per_shard": 4},
    )
    run_rounds(tmp_path / "run", config, 1, Damager(tmp_path / "run", "segment", table))
    remade = read_manifest(tmp_path / "run").losses.remade
    assert [(shard.table, shard.shard, shard.is_same) for shard in remade] == [(table, 0, True)]
    assert contents_of(tmp_path / "run").shards == undisturbed.shards


def test_a_disk_that_damages_the_same_shard_again_and_again_ends_the_run(
    small: Config, run_rounds: Callable[..., Any], undisturbed: Contents, tmp_path: Path
):
    with pytest.raises(DamagedShardError, match=r"table 'weighted', round 1, shard 0.*checksum differs"):
        run_rounds(tmp_path / "run", small, 1, Damager(tmp_path / "run", "weigh", "weighted", times=9))
    run_rounds(tmp_path / "run", small, 1)  # on a disk that is well
    assert contents_of(tmp_path / "run") == undisturbed


def write(manifest: Manifest, table: str, shard: int = 0) -> Receipt:
    attempt = os.urandom(4).hex()
    return write_shard(
        manifest.run_dir, table=table, round_=1, shard=shard, attempt=attempt, rows=[], seconds=0.0, metrics={}
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    with Manifest(tmp_path) as opened:
        yield opened


def damaged(manifest: Manifest, receipt: Receipt) -> DamagedShardError:
    damage(manifest.run_dir / receipt.path, "truncated")  # type: ignore[arg-type]
    with pytest.raises(DamagedShardError) as caught:
        read_accepted(manifest.run_dir, receipt)
    return caught.value


def test_a_shard_that_comes_out_different_takes_along_what_was_made_from_it(manifest: Manifest):
    """By the graph: outcomes of shard 0 lead to steps, verdicts and weights of shard 0, and to all reference log-probs."""
    tables = ("prompts", "rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.truth", "weighted", "reference")
    for table in tables:
        manifest.accept_all([write(manifest, table, shard) for shard in (0, 1)])
        manifest.seal(1, table, 2)
    lost = LostShards(manifest, STAGES, FaultRecorder(manifest, Heard()))
    lost.lose(damaged(manifest, manifest.state.receipts(1, "outcomes")[0]))
    assert set(manifest.state.sealed) == {(1, table) for table in tables if table != "outcomes"}
    other = write(manifest, "outcomes")
    manifest.accept(Receipt(**{**{n: getattr(other, n) for n in Receipt.__dataclass_fields__}, "checksum": "other"}))
    left = {table: [r.shard for r in manifest.state.receipts(1, table)] for table in tables}
    assert left == {
        "prompts": [0, 1], "rollouts": [0, 1], "outcomes": [0, 1], "steps": [1], "verdicts.llm": [1], "verdicts.truth": [1],
        "weighted": [1], "reference": [],
    }  # fmt: skip
    assert set(manifest.state.sealed) == {(1, "prompts"), (1, "rollouts")}
    (remade,) = manifest.state.losses.remade
    assert (remade.table, remade.is_same, remade.given_up[-1]) == ("outcomes", False, "reference")
    lost.tell_remade()
    fault = manifest.state.faults[-1]
    assert "other content" in fault.cause and "weighted" in fault.consequence
    again = read_manifest(manifest.run_dir)  # and the journal says the same
    assert (again.shards, again.sealed, again.losses.waiting, again.losses.remade) == (
        manifest.state.shards, manifest.state.sealed, {}, manifest.state.losses.remade,
    )  # fmt: skip


def test_a_late_word_on_a_shard_that_was_made_again_changes_nothing(manifest: Manifest):
    manifest.accept(write(manifest, "rollouts"))
    error = damaged(manifest, manifest.state.receipts(1, "rollouts")[0])
    lost = LostShards(manifest, STAGES, FaultRecorder(manifest, Heard()))
    lost.lose(error)
    manifest.accept(write(manifest, "rollouts"))
    before = manifest.state.receipts(1, "rollouts")
    lost.lose(error)
    assert manifest.state.receipts(1, "rollouts") == before and not manifest.state.losses.waiting


def test_what_was_imported_cannot_be_made_again(manifest: Manifest):
    manifest.accept(write(manifest, "rollouts"))
    manifest.add_import({"policy": "external:x"})
    error = damaged(manifest, manifest.state.receipts(1, "rollouts")[0])
    with pytest.raises(RunDirectoryError, match="made elsewhere") as caught:
        LostShards(manifest, STAGES, Heard()).lose(error)
    assert "import" in caught.value.remedy
    assert manifest.state.receipts(1, "rollouts") and not manifest.state.losses.waiting


def test_what_weights_were_trained_from_stays(small: Config, run_rounds: Callable[..., Any], tmp_path: Path):
    run_rounds(tmp_path / "run", small, 1)
    with Manifest(tmp_path / "run") as manifest:
        receipt = manifest.state.receipts(1, "weighted")[0]
        with pytest.raises(DamagedShardError, match="verify --run-dir"):
            LostShards(manifest, STAGES, Heard()).lose(damaged(manifest, receipt))
        assert manifest.state.receipts(1, "weighted")[0] == receipt
