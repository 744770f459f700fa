"""One shard's rows of all tables, read once: the columns that a list of samples needs, or all that a sample's page shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import Outcome, Prompt, Receipt, SampleId, Step, Verdict
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import outcomes_from, prompts_from, steps_from, verdicts_from
from bcpg_cluster.store.shards import read_columns

_VERDICT_COLUMNS = (
    "round", "prompt_id", "sample", "step", "judge", "judge_version", "status", "label", "score", "error_type",
)  # fmt: skip
_ROLLOUT_COLUMNS = ("round", "prompt_id", "sample", "sampler_logprobs", "stop_reason", "policy_version", "seed")
_TEXTS = "token_texts"
_WEIGHTED_COLUMNS = (
    "round", "prompt_id", "sample", "mined", "advantage", "rival_prompt_id", "rival_sample",
)  # fmt: skip
_FULL_WEIGHTED_COLUMNS = (*_WEIGHTED_COLUMNS, "token_weights", "group_mean", "group_size")


@dataclass(frozen=True)
class ShardTables:
    """What a shard has so far; a table that is not there yet is ``None``.

    Attributes:
        rollouts: without token ids; with the texts of tokens only where it was read in full.
        lengths: response tokens by row of ``rollouts``.
        verdicts: by judge; without the judges' raw answers unless it was read in full.
        weighted: mined flags and advantages; in full also token weights and the group's mean and size.
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


def shard_receipts(
    shards: Mapping[tuple[int, str], Mapping[int, Receipt]], config: Config, round_: int, shard: int
) -> dict[str, Receipt]:
    """The accepted pieces of one shard, by table; they name everything the page can know of it.

    Args:
        shards: accepted pieces by round and table (``ManifestState.shards``).
    """
    names = ("prompts", "rollouts", "outcomes", "steps", *(f"verdicts.{name}" for name in config.judges), "weighted")
    found = {name: shards.get((round_, name), {}) for name in names}
    return {name: receipts[shard] for name, receipts in found.items() if shard in receipts}


def read_tables(
    run_dir: RunPath,
    config: Config,
    round_: int,
    shard: int,
    receipts: Mapping[str, Receipt],
    *,
    is_full: bool = False,
    on_refused: Callable[[str, StoreError], None] | None = None,
) -> ShardTables:
    """The shard's rows.

    Args:
        receipts: as :func:`shard_receipts` gives them; prompts and rollouts are among them.
        is_full: with the texts of tokens, the judges' raw answers and the token weights, which the list has no use for.
        on_refused: is told of a table that cannot be read, which then counts as one that is not there yet; without it that is an
            error, as it always is for prompts and rollouts.

    Raises:
        StoreError: a file is gone, altered or of another schema version.
    """

    def rows(name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        try:
            return read_columns(run_dir, receipts[name], columns) if name in receipts else None
        except StoreError as error:
            if on_refused is None or name in ("prompts", "rollouts"):
                raise
            on_refused(name, error)
            return None

    prompts, rollouts = rows("prompts"), rows("rollouts", [*_ROLLOUT_COLUMNS, _TEXTS])
    assert prompts is not None and rollouts is not None
    lengths = pc.list_value_length(rollouts[_TEXTS]).to_pylist()
    if not is_full:
        rollouts = rollouts.select(_ROLLOUT_COLUMNS)
    outcomes, steps = rows("outcomes"), rows("steps")
    verdicts = {name: rows(f"verdicts.{name}", None if is_full else _VERDICT_COLUMNS) for name in config.judges}
    return ShardTables(
        round_,
        shard,
        prompts_from(prompts.to_pylist()),
        rollouts,
        lengths,
        None if outcomes is None else outcomes_from(outcomes.to_pylist()),
        None if steps is None else steps_from(steps.to_pylist()),
        {name: None if table is None else _verdicts(table) for name, table in verdicts.items()},
        rows("weighted", _FULL_WEIGHTED_COLUMNS if is_full else _WEIGHTED_COLUMNS),
        receipts,
    )


def _verdicts(table: pa.Table) -> Mapping[SampleId, Sequence[Verdict]]:
    if "raw" not in table.column_names:  # the answers as they came are heavy
        table = table.append_column("raw", pa.array([""] * len(table)))
    return verdicts_from(table.to_pylist())


def reference_of(
    run_dir: RunPath, receipts: Sequence[Receipt], wanted: Collection[SampleId]
) -> dict[SampleId, np.ndarray]:
    """The trainer's own log-probs of these samples' tokens, in nats; absent for a sample without any.

    Args:
        receipts: of the round's ``reference`` table, the likeliest first: no more are read than it takes.
    """
    found: dict[SampleId, np.ndarray] = {}
    for receipt in receipts:
        if len(found) == len(wanted):
            break
        table = read_columns(run_dir, receipt)
        own = ids_of(table)
        rivals = zip(table["rival_prompt_id"].to_pylist(), table["rival_sample"].to_pylist(), strict=True)
        as_rivals = [  # a rival of another prompt (KTO's mismatched responses) was scored after this row's prompt, not its own
            SampleId(receipt.round, prompt, sample) if prompt == id_.prompt_id else None
            for id_, (prompt, sample) in zip(own, rivals, strict=True)
        ]
        sides = (own, "reference_logprobs"), (as_rivals, "rival_reference_logprobs")
        for ids, column in sides:
            for id_, logprobs in zip(ids, lists_of(table[column]), strict=True):
                if id_ is not None and id_ in wanted:
                    found.setdefault(id_, logprobs)
    return found


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
