"""Whether two runs hold the same: rows of sealed tables and weights, never files, whose names and encoding may differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row
from bcpg_cluster.store.shards import read_shard

_ORDER = (
    "eval_prompts", "prompts", "rollouts", "outcomes", "steps", "verdicts", "weighted", REFERENCE, "weights",
    "eval_rollouts", "eval_outcomes",
)  # fmt: skip
_NAMES = ("round", "prompt_id", "sample", "step", "rival_prompt_id", "rival_sample")


@dataclass(frozen=True, slots=True)
class Part:
    """A table of a round, or the weights it trained.

    Attributes:
        num_rows: in the run; for weights, its parameters.
        num_differing: rows of either that are not in the other as they are.
        first: what differs first: the row's name and the columns, or a parameter; empty where nothing does.
    """

    round: int
    name: str
    num_rows: int
    num_differing: int
    first: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether both runs have the same."""
        return self.num_differing == 0


def compare_runs(run: RunPath, again: RunPath, rounds: int) -> list[Part]:
    """Every part of rounds 0 to ``rounds``, in the order in which a round makes them.

    Raises:
        StoreError: a shard of either is gone or altered.
    """
    before, after = read_manifest(run), read_manifest(again)
    keys = {key for state in (before, after) for key in state.shards if key[0] <= rounds}
    keys |= {(version, "weights") for version in before.snapshots if 0 < version <= rounds}
    keys |= {(version, "weights") for version in after.snapshots if 0 < version <= rounds}
    parts = []
    for round_, name in sorted(keys, key=lambda key: (key[0], _ORDER.index(key[1].partition(".")[0]), key[1])):
        if name == "weights":
            parts.append(_weights(before, after, round_))
        else:
            parts.append(_table(run, before, again, after, round_, name))
    return parts


def _weights(before: ManifestState, after: ManifestState, version: int) -> Part:
    digests = [state.snapshots[version].digests if version in state.snapshots else {} for state in (before, after)]
    differing = [name for name in sorted({**digests[0], **digests[1]}) if digests[0].get(name) != digests[1].get(name)]
    return Part(version, "weights", len(digests[0]), len(differing), differing[0] if differing else "")


def _table(run: RunPath, before: ManifestState, again: RunPath, after: ManifestState, round_: int, table: str) -> Part:
    """Shard by shard: a shard holds the same prompts in both, since the configuration deals them. Only ``reference`` was cut by
    rank alone in runs of older programs.
    """
    num_rows, num_differing, first = 0, 0, ""
    for mine, theirs in zip_longest(_shards(run, before, round_, table), _shards(again, after, round_, table)):
        num_rows += len(mine or {})
        for name in sorted({**(mine or {}), **(theirs or {})}):
            left, right = (mine or {}).get(name), (theirs or {}).get(name)
            # repr, since a missing number equals itself: NaN does not equal NaN
            if repr(left) != repr(right):
                num_differing += 1
                first = first or f"{name}: {_columns(left, right)}"
    return Part(round_, table, num_rows, num_differing, first)


def _shards(run_dir: RunPath, state: ManifestState, round_: int, table: str) -> Iterator[dict[str, Row]]:
    shards = ({_name(row): row for row in read_shard(run_dir, receipt)} for receipt in state.receipts(round_, table))
    if table == REFERENCE:
        yield {name: row for shard in shards for name, row in shard.items()}
    else:
        yield from shards


def _name(row: Row) -> str:
    return ", ".join(f"{key} {row[key]}" for key in _NAMES if row.get(key) is not None)


def _columns(left: Row | None, right: Row | None) -> str:
    if left is None or right is None:
        return "only in the rerun" if left is None else "only in the run"
    return ", ".join(key for key in left if repr(left[key]) != repr(right.get(key)))
