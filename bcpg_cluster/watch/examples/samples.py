"""The samples of a round, or of some of its shards, with everything that the stages made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Outcome, Prompt, Receipt, Rollout, SampleId, Step, Verdict
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import (
    Row,
    WeightedRow,
    outcomes_from,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table, shard_by_shard


@dataclass(frozen=True)
class RoundSamples:
    """What a round's tables hold.

    Attributes:
        prompts: by prompt id.
        steps, verdicts: of wrong responses alone; ``verdicts`` by judge first, a judge that has judged nothing included.
        weighted: the training rows; empty before weighing.
    """

    round: int
    prompts: Mapping[str, Prompt]
    rollouts: Mapping[SampleId, Rollout]
    outcomes: Mapping[SampleId, Outcome]
    steps: Mapping[SampleId, Sequence[Step]]
    verdicts: Mapping[str, Mapping[SampleId, Sequence[Verdict]]]
    weighted: Sequence[WeightedRow]

    def said_of(self, id_: SampleId) -> dict[str, Sequence[Verdict]]:
        """By judge, its verdicts on one response, a verdict a step; judges that have not come to it are left out."""
        return {name: of_judge[id_] for name, of_judge in self.verdicts.items() if id_ in of_judge}


def read_samples(
    run_dir: RunPath, config: Config, state: ManifestState, round_: int, shards: Collection[int] | None = None
) -> RoundSamples:
    """Read a round.

    Args:
        shards: those to read; ``None`` is all.

    Raises:
        StoreError: a file is gone, altered or of another schema version.
    """
    receipts = _receipts(config, state, round_, shards)
    return _samples_of({table: read_table(run_dir, of_table) for table, of_table in receipts.items()}, config, round_)


def samples_by_shard(run_dir: RunPath, config: Config, state: ManifestState, round_: int) -> Iterator[RoundSamples]:
    """A round, a shard at a time. Raises as :func:`read_samples`."""
    for tables in shard_by_shard(run_dir, _receipts(config, state, round_, None)):
        yield _samples_of(tables, config, round_)


def join_samples(first: RoundSamples, second: RoundSamples) -> RoundSamples:
    """The samples of both, which are of one round and of different shards."""
    return RoundSamples(
        first.round,
        {**first.prompts, **second.prompts},
        {**first.rollouts, **second.rollouts},
        {**first.outcomes, **second.outcomes},
        {**first.steps, **second.steps},
        {name: {**of_judge, **second.verdicts[name]} for name, of_judge in first.verdicts.items()},
        [*first.weighted, *second.weighted],
    )


def only_of(samples: RoundSamples, rows: Sequence[WeightedRow]) -> RoundSamples:
    """What belongs to ``rows``, in their order: their own responses and their rivals'."""
    ids = {id_ for row in rows for id_ in row.key if id_ is not None}
    prompt_ids = {id_.prompt_id for id_ in ids}
    return RoundSamples(
        samples.round,
        {id_: prompt for id_, prompt in samples.prompts.items() if id_ in prompt_ids},
        {id_: rollout for id_, rollout in samples.rollouts.items() if id_ in ids},
        {id_: outcome for id_, outcome in samples.outcomes.items() if id_ in ids},
        {id_: steps for id_, steps in samples.steps.items() if id_ in ids},
        {name: {id_: s for id_, s in of_judge.items() if id_ in ids} for name, of_judge in samples.verdicts.items()},
        list(rows),
    )


def _receipts(
    config: Config, state: ManifestState, round_: int, shards: Collection[int] | None
) -> dict[str, list[Receipt]]:
    tables = ("prompts", "rollouts", "outcomes", "steps", *(f"verdicts.{name}" for name in config.judges), "weighted")
    return {
        table: [r for r in state.receipts(round_, table) if shards is None or r.shard in shards] for table in tables
    }


def _samples_of(tables: Mapping[str, list[Row]], config: Config, round_: int) -> RoundSamples:
    return RoundSamples(
        round_,
        {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])},
        {rollout.id: rollout for rollout in rollouts_from(tables["rollouts"])},
        outcomes_from(tables["outcomes"]),
        steps_from(tables["steps"]),
        {name: verdicts_from(tables[f"verdicts.{name}"]) for name in config.judges},
        weighted_from(tables["weighted"]),
    )
