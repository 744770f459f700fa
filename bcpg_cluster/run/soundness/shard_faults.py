"""Shards: whether each file is the one that was accepted, and what follows where it is not."""

from __future__ import annotations

from bcpg_cluster.errors import DamagedShardError
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.recovery.lost_shards import is_imported, is_spent
from bcpg_cluster.run.soundness.faults import Fate, Fault, Subject
from bcpg_cluster.stages.graph import CPU_POOL, REFERENCE, StageSpec, evaluation_stages
from bcpg_cluster.store.shards import find_damaged

PROMPT_TABLES = ("prompts", "eval_prompts")


def accepted(subject: Subject) -> list[Receipt]:
    """All shards that count, round by round in the order of their tables."""
    order = [*PROMPT_TABLES, *(stage.output for stage in (*subject.stages, *evaluation_stages())), REFERENCE]
    keys = sorted(subject.state.shards, key=lambda key: (key[0], order.index(key[1]) if key[1] in order else 0))
    return [receipt for key in keys for receipt in subject.state.receipts(*key)]


def shard_faults(subject: Subject) -> list[Fault]:
    """One for every damaged shard."""
    return [_fault(subject, error) for error in find_damaged(subject.run_dir, accepted(subject))]


def _fault(subject: Subject, error: DamagedShardError) -> Fault:
    fate, follows = _fate(subject, error)
    name = f"table {error.table}, round {error.round}, shard {error.shard}"
    return Fault(error.path, f"{error.what} ({name})", fate, follows)


def _fate(subject: Subject, error: DamagedShardError) -> tuple[Fate, str]:
    state, table = subject.state, error.table
    spent = is_spent(state, error.round, table)
    if is_imported(state, error.round, table):
        needs = "nothing to do reads it" if spent else "`iterate` stops at it"
        return (
            Fate.LOST,
            f"it was imported, and {needs}: put it back from a copy, or import the responses into another run",
        )
    if not spent:
        return (
            Fate.REMADE,
            "the next `iterate` makes it again, and what was made from it too if it comes out different",
        )
    again = f"bcpg-cluster stage {_stage_of(subject, table)} --round {error.round} --discard-later"
    otherwise = (
        f"A copy of the file brings it back; `{again} --run-dir {subject.run_dir}` makes this and all later rounds anew"
    )
    if subject.config and (restorable_stage(subject, table) is not None or table in PROMPT_TABLES):
        return (
            Fate.RESTORED,
            f"nothing to do reads it. --mend puts it back if it comes out the same byte for byte. {otherwise}",
        )
    needs = "what was made from it is whole, and nothing to do reads it; `view` and exports cannot show its rows"
    return Fate.LOST, f"{needs}. {otherwise}"


def restorable_stage(subject: Subject, table: str) -> StageSpec | None:
    """The stage that makes a table without an engine; ``None`` where there is none."""
    stages = (*subject.stages, *evaluation_stages())
    return next((s for s in stages if s.output == table and s.pool == CPU_POOL), None) if subject.config else None


def _stage_of(subject: Subject, table: str) -> str:
    made_by = {stage.output: stage.name for stage in (*subject.stages, *evaluation_stages())}
    return {"prompts": "generate", "eval_prompts": "evaluate", REFERENCE: "train", **made_by}[table]
