"""One shard's rows of all tables, read once: the columns that a list of samples needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Outcome, Prompt, Receipt, SampleId, Step, Verdict
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import outcomes_from, prompts_from, steps_from, verdicts_from
from bcpg_cluster.store.shards import read_columns

_VERDICT_COLUMNS = (
    "round", "prompt_id", "sample", "step", "judge", "judge_version", "status", "label", "score", "error_type",
)  # fmt: skip
_ROLLOUT_COLUMNS = ("round", "prompt_id", "sample", "sampler_logprobs", "stop_reason", "policy_version", "seed")
_WEIGHTED_COLUMNS = (
    "round", "prompt_id", "sample", "mined", "advantage", "rival_prompt_id", "rival_sample",
)  # fmt: skip


@dataclass(frozen=True)
class ShardTables:
    """What a shard has so far; a table that is not there yet is ``None``.

    Attributes:
        rollouts: without token ids and texts.
        lengths: response tokens by row of ``rollouts``.
        weighted: mined flags and advantages.
        receipts: by table.
    """

    round: int
    shard: int
    prompts: Sequence[Prompt]
    rollouts: pa.Table
    lengths: Sequence[int]
    outcomes: Mapping[SampleId, Outcome] | None
    steps: Mapping[SampleId, Sequence[Step]] | None
    verdicts: Mapping[str, Mapping[SampleId, Sequence[Verdict]] | None]
    weighted: pa.Table | None
    receipts: Mapping[str, Receipt]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Tables of this shard that are still to come."""
        named = {"outcomes": self.outcomes, "steps": self.steps, "weighted": self.weighted}
        verdicts = {f"verdicts.{name}": of_judge for name, of_judge in self.verdicts.items()}
        return tuple(name for name, table in {**named, **verdicts}.items() if table is None)


def shard_receipts(state: ManifestState, config: Config, round_: int, shard: int) -> dict[str, Receipt]:
    """The accepted pieces of one shard, by table; they name everything the page can know of it."""
    names = ("prompts", "rollouts", "outcomes", "steps", *(f"verdicts.{name}" for name in config.judges), "weighted")
    found = {name: state.shards.get((round_, name), {}) for name in names}
    return {name: receipts[shard] for name, receipts in found.items() if shard in receipts}


def read_tables(
    run_dir: RunPath, config: Config, round_: int, shard: int, receipts: Mapping[str, Receipt]
) -> ShardTables:
    """The shard's rows.

    Args:
        receipts: as :func:`shard_receipts` gives them; prompts and rollouts are among them.

    Raises:
        StoreError: a file is gone, altered or of another schema version.
    """

    def rows(name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        return read_columns(run_dir, receipts[name], columns) if name in receipts else None

    prompts, rollouts = rows("prompts"), rows("rollouts", [*_ROLLOUT_COLUMNS, "token_texts"])
    assert prompts is not None and rollouts is not None
    lengths = pc.list_value_length(rollouts["token_texts"]).to_pylist()
    rollouts = rollouts.select(_ROLLOUT_COLUMNS)
    outcomes, steps = rows("outcomes"), rows("steps")
    verdicts = {name: rows(f"verdicts.{name}", _VERDICT_COLUMNS) for name in config.judges}
    return ShardTables(
        round_,
        shard,
        prompts_from(prompts.to_pylist()),
        rollouts,
        lengths,
        None if outcomes is None else outcomes_from(outcomes.to_pylist()),
        None if steps is None else steps_from(steps.to_pylist()),
        {name: None if table is None else _verdicts(table) for name, table in verdicts.items()},
        rows("weighted", _WEIGHTED_COLUMNS),
        receipts,
    )


def _verdicts(table: pa.Table) -> Mapping[SampleId, Sequence[Verdict]]:
    without_raw = table.append_column("raw", pa.array([""] * len(table)))  # the answers as they came are heavy
    return verdicts_from(without_raw.to_pylist())


def ids_of(table: pa.Table) -> list[SampleId]:
    """The id of every row."""
    columns = (table[name].to_pylist() for name in ("round", "prompt_id", "sample"))
    return [SampleId(*id_) for id_ in zip(*columns, strict=True)]


def lists_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """A column of lists as one array a row; an absent list is an empty one."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], type=column.type)
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy(zero_copy_only=False)
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
