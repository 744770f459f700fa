"""weigh: outcomes and verdicts become advantages and token weights. Cheap, so another beta or lambda calls no judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from bcpg_cluster.errors import StoreError
from bcpg_cluster.method.consensus import consensus
from bcpg_cluster.method.weights import mined_tokens, token_weights
from bcpg_cluster.records import DropReason, Rollout, SampleId, Step, StopReason, Verdict
from bcpg_cluster.stages.groups import shard_groups
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.store.schema import (
    WeightedRow,
    outcomes_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_row,
)

CONSENSUS = "consensus"


def weigh(
    tables: Tables,
    job: StageJob,
    *,
    voters: Sequence[str],
    measures: Sequence[str],
    thresholds: Mapping[str, float],
    rule: str,
    beta: float,
    min_verified_share: float,
) -> StageResult:
    """One row for every kept sample, and the account of all that were asked for.

    ``voters`` decide by ``rule``; each of ``measures`` is a judge whose labels are taken as the truth, only to count how
    right the others were. The last step, which states the wrong answer, is never mined and is left out of those counts.
    """
    rollouts = rollouts_from(tables["rollouts"])
    outcomes = outcomes_from(tables["outcomes"])
    steps = steps_from(tables["steps"])
    verdicts = {name: verdicts_from(tables[f"verdicts.{name}"]) for name in (*voters, *measures)}
    counts: Counter[str] = Counter({f"dropped.{reason}": 0 for reason in DropReason})
    counts["asked"] = len(rollouts)
    rows = []
    for group, result in shard_groups(rollouts, outcomes, min_verified_share):
        counts["groups"] += 1
        counts["groups_kept"] += result.num_kept > 0
        for rollout, member in zip(group, result.members, strict=True):
            if member.drop_reason is not None or member.advantage is None or result.mean is None:
                counts[f"dropped.{member.drop_reason}"] += 1
                continue
            reward = outcomes[rollout.id].reward
            if reward is None:
                raise StoreError(f"{rollout.id} was kept without a reward")
            counts["kept"] += 1
            cut: Sequence[Step] = steps.get(rollout.id, ())
            mined: Sequence[int] = ()
            if reward == 0.0:
                of_sample = {name: _of(verdicts[name], rollout, cut) for name in (*voters, *measures)}
                mined = _decide(of_sample, voters, measures, thresholds, rule, cut, counts)
            ended = rollout.stop_reason is StopReason.STOP
            num_tokens = len(rollout.token_ids)
            if reward == 0.0:
                counts["samples.wrong"] += 1
                counts["tokens.wrong"] += num_tokens
                counts["tokens.mined"] += sum(mined_tokens(num_tokens, cut, mined, eos_is_last=ended))
            rows.append(
                WeightedRow(
                    rollout.id,
                    rollout.prompt_token_ids,
                    rollout.token_ids,
                    token_weights(num_tokens, cut, mined, beta, eos_is_last=ended),
                    member.advantage,
                    reward,
                    result.mean,
                    result.num_verified,
                )
            )
    return StageResult([weighted_row(row) for row in rows], {key: float(value) for key, value in counts.items()})


def _of(verdicts: Mapping[SampleId, Sequence[Verdict]], rollout: Rollout, cut: Sequence[Step]) -> Sequence[Verdict]:
    said = verdicts.get(rollout.id, ())
    if len(said) != len(cut):
        raise StoreError(f"{rollout.id} has {len(cut)} steps and {len(said)} verdicts")
    return said


def _decide(
    verdicts: Mapping[str, Sequence[Verdict]],
    voters: Sequence[str],
    measures: Sequence[str],
    thresholds: Mapping[str, float],
    rule: str,
    cut: Sequence[Step],
    counts: Counter[str],
) -> list[int]:
    """The voters' consensus on one wrong response; everything worth knowing about it is added to ``counts``."""
    decided = consensus({name: verdicts[name] for name in voters}, thresholds, rule)
    labels: dict[str, list[int | None]] = {**decided.judge_labels, CONSENSUS: list(decided.labels)}
    truths = consensus({name: verdicts[name] for name in measures}, thresholds, rule).judge_labels if measures else {}
    for name, by_status in decided.abstained.items():
        for status, number in by_status.items():
            counts[f"abstained.{name}.{status}"] += number
    counts["steps.undecided"] += decided.num_undecided
    counts["steps.wrong"] += len(cut)
    counts["steps.mined"] += sum(decided.labels[:-1])
    for index, step in enumerate(cut[:-1]):
        tokens = step.end - step.start
        for first, second in combinations(voters, 2):
            counts[f"pair.{first}+{second}.{_word(labels[first][index])}.{_word(labels[second][index])}"] += 1
        for measure, truth in truths.items():
            for name, of_judge in labels.items():
                cell = f"quality.{name}.{measure}.{_word(truth[index])}.{_word(of_judge[index])}"
                counts[f"{cell}.steps"] += 1
                counts[f"{cell}.tokens"] += tokens
    return decided.labels


def _word(label: int | None) -> str:
    return "none" if label is None else "right" if label else "wrong"
