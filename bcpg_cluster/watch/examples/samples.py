"""The samples of a round, or of some of its shards, with everything that the stages made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Outcome, Prompt, Rollout, SampleId, Step, Verdict
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
from bcpg_cluster.store.shards import read_table


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

    def table(name: str) -> list[Row]:
        receipts = state.receipts(round_, name)
        return read_table(run_dir, [r for r in receipts if shards is None or r.shard in shards])

    return RoundSamples(
        round_,
        {prompt.prompt_id: prompt for prompt in prompts_from(table("prompts"))},
        {rollout.id: rollout for rollout in rollouts_from(table("rollouts"))},
        outcomes_from(table("outcomes")),
        steps_from(table("steps")),
        {name: verdicts_from(table(f"verdicts.{name}")) for name in config.judges},
        weighted_from(table("weighted")),
    )
