"""weigh: outcomes and verdicts become advantages, token weights and the rows an objective trains on.

Cheap, so another beta, lambda or objective calls no judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.records import DropReason, Rollout, SampleId, Step, StopReason, Verdict
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.train.objective import Dpo, Objective
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, consensus
from bcpg_cluster.stages.weigh.counts import CONSENSUS, WeighCounts
from bcpg_cluster.stages.weigh.groups import kept_rows, shard_groups
from bcpg_cluster.stages.weigh.pairing import PAIRINGS, mismatches
from bcpg_cluster.stages.weigh.right_steps import RightStepCounts, gradient_masses
from bcpg_cluster.stages.weigh.said_together import SaidTogether
from bcpg_cluster.stages.weigh.unasked import judges_to_ask, not_asked
from bcpg_cluster.stages.weigh.weights import Mine, Truncated, flip_labels, mined_steps, mined_tokens, token_weights
from bcpg_cluster.store.rows import (
    Rival,
    WeightedRow,
    outcomes_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_row,
)


@dataclass(frozen=True, slots=True)
class WeighSettings:
    """How a run weighs. It travels with every job, since runs that share workers may differ in it.

    Attributes:
        voters: the judges whose consensus mines a step.
        measures: judges whose labels are taken as the truth, only to count how right the others were.
        thresholds: lambda by judge, for those that score.
        rule: of the consensus (``stages.weigh.consensus``).
        beta: weight of mined tokens, in [-1, 1].
        min_verified_share: a group with a smaller share of verified samples is dropped whole.
        truncated: what becomes of responses that the token limit cut off.
        flip_rate: share of the step labels turned over at random.
        seed: the run's; of the flips and the pairs.
        objective: says what a row is (its ``rows``), and how pairs are made.
        mine: which of the steps that the consensus calls right are mined.
    """

    voters: Sequence[str]
    measures: Sequence[str]
    thresholds: Mapping[str, float]
    rule: str | ConsensusRule
    beta: float
    min_verified_share: float
    truncated: Truncated
    flip_rate: float
    seed: int
    objective: Objective
    mine: Mine = "consensus"

    @property
    def consensus_rule(self) -> ConsensusRule:
        """The rule as an object."""
        return ConsensusRule(self.rule) if isinstance(self.rule, str) else self.rule


def weigh(tables: Tables, job: StageJob) -> StageResult:
    """The rows the objective trains on, and the account of all samples that were asked for.

    The job's ``weigh`` parameter holds the :class:`WeighSettings`. A sample is kept when some row holds it, as its own
    response or as the rival. What is counted of judges and mined tokens covers every wrong sample whose group can be trained
    on, whatever the objective takes of them. The last step, which states the wrong answer, is never mined and is left
    out of the judges' counts.
    """
    settings: WeighSettings = job.parameters["weigh"]
    outcomes = outcomes_from(tables["outcomes"])
    steps = steps_from(tables["steps"])
    verdicts = {name: verdicts_from(tables[f"verdicts.{name}"]) for name in (*settings.voters, *settings.measures)}
    rollouts = rollouts_from(tables["rollouts"])
    counts = WeighCounts(asked=len(rollouts), dropped=Counter({str(reason): 0 for reason in DropReason}))
    together = SaidTogether(settings.voters, settings.measures)
    groups: list[list[WeightedRow]] = []
    for group, result in shard_groups(rollouts, outcomes, settings.min_verified_share, settings.truncated):
        counts.dropped.update(str(member.drop_reason) for member in result.members if member.drop_reason is not None)
        kept = []
        for rollout, row in kept_rows(group, result, outcomes):
            cut: Sequence[Step] = steps.get(rollout.id, ())
            labels: Sequence[int] = ()
            masses: Sequence[float] = ()
            if row.reward == 0.0:
                masses = gradient_masses(rollout.sampler_logprobs)  # none where they are unknown
                labels = _decide(rollout, cut, masses, verdicts, settings, counts, together)
            weights, mined = _token_columns(rollout, cut, labels, settings.beta)
            if row.reward == 0.0:
                _count_wrong(mined, masses, counts)
            kept.append(replace(row, token_weights=weights, mined=mined))
        counts.groups += 1
        counts.groups_kept += len(kept) > 0
        groups.append(kept)
    rows = lay_out(groups, settings)
    _account(groups, rows, settings.objective, counts)
    together.count_into(counts)
    return StageResult([weighted_row(row) for row in rows], counts.metrics())


def _token_columns(
    rollout: Rollout, cut: Sequence[Step], labels: Sequence[int], beta: float
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """A sample's token weights, and which of its tokens are mined (none of a right one, which has no steps)."""
    ended, length = rollout.stop_reason is StopReason.STOP, len(rollout.token_ids)
    weights = token_weights(length, cut, labels, beta, eos_is_last=ended)
    return weights, mined_tokens(length, cut, labels, eos_is_last=ended)


def _count_wrong(mined: Sequence[bool], masses: Sequence[float], counts: WeighCounts) -> None:
    """A wrong response's tokens and their gradient mass, and how much of both is mined."""
    counts.wrong_samples += 1
    counts.wrong_tokens += len(mined)
    counts.mined_tokens += sum(mined)
    counts.wrong_mass += sum(masses)
    counts.mined_mass += sum(compress(masses, mined))


# --- what a row is


def lay_out(groups: Sequence[Sequence[WeightedRow]], settings: WeighSettings) -> list[WeightedRow]:
    """From a row for each sample of each group to those the objective trains on, with their rivals."""
    samples = [row for group in groups for row in group]
    match settings.objective.rows:
        case "all":
            return samples
        case "right":
            return [row for row in samples if row.reward == 1.0]
        case "wrong":
            return [row for row in samples if row.reward == 0.0]
        case "pairs":
            return [row for group in groups for row in _pairs(group, settings)]
        case "mismatched":
            others = mismatches([len(group) for group in groups])
            if not others:  # a single group: nothing to estimate a drift from
                return samples
            return [_with_rival(row, samples[other]) for row, other in zip(samples, others, strict=True)]


def _pairs(group: Sequence[WeightedRow], settings: WeighSettings) -> list[WeightedRow]:
    """The pairs of one prompt: rows of right responses, each with a wrong one as its rival."""
    objective = settings.objective
    if not isinstance(objective, Dpo):
        raise ValueError(f"objective {objective.name!r} takes pairs but does not say how they are made")
    if not group:
        return []
    right = [row for row in group if row.reward == 1.0]
    wrong = [row for row in group if row.reward == 0.0]
    seed = f"{settings.seed}/pairs/{group[0].id.round}/{group[0].id.prompt_id}"
    pairs = PAIRINGS[objective.pairing](len(right), len(wrong), objective.max_pairs, seed)
    return [_with_rival(right[i], wrong[j]) for i, j in pairs]


def _with_rival(row: WeightedRow, other: WeightedRow) -> WeightedRow:
    return replace(row, rival=Rival(other.id, other.token_ids))


def _account(
    groups: Sequence[Sequence[WeightedRow]], rows: Sequence[WeightedRow], objective: Objective, counts: WeighCounts
) -> None:
    """Count the rows, and which samples are in one: the others of the kept groups are dropped, by the objective."""
    used: set[SampleId | None] = set(chain.from_iterable(row.key for row in rows))
    reason = DropReason.UNPAIRED if objective.rows == "pairs" else DropReason.NOT_TRAINED_ON
    for sample in chain.from_iterable(groups):
        if sample.id in used:
            counts.kept += 1
        else:
            counts.dropped[str(reason)] += 1
    counts.rows += len(rows)
    counts.right_rows += sum(row.reward == 1.0 for row in rows)
    counts.wrong_rows += sum(row.reward == 0.0 for row in rows)


# --- which steps are mined


def _decide(
    rollout: Rollout,
    cut: Sequence[Step],
    masses: Sequence[float],
    verdicts: Mapping[str, Mapping[SampleId, Sequence[Verdict]]],
    settings: WeighSettings,
    counts: WeighCounts,
    together: SaidTogether,
) -> list[int]:
    """Which steps of a wrong response are mined; what is worth knowing of their labels is added to ``counts`` and ``together``.

    Raises:
        RunDirectoryError: a judge was not asked about a step, since others had decided it by settings that have changed since.
    """

    def votes(names: Sequence[str]) -> dict[str, Sequence[Verdict]]:
        return {name: _of(verdicts[name], rollout.id, cut) for name in names}

    said, known = votes(settings.voters), votes(settings.measures)
    decided = consensus(said, settings.thresholds, settings.rule)
    _check_asked(rollout.id, judges_to_ask(decided, known))
    labels = flip_labels(decided.labels, settings.flip_rate, flip_seed(settings.seed, rollout.id))
    mined = mined_steps(labels, settings.mine)
    truths: Mapping[str, Sequence[int | None]] = {}
    if known:
        truths = consensus(known, settings.thresholds).judge_labels
    for name, by_status in decided.abstained.items():
        for status, number in by_status.items():
            counts.abstained[name, str(status)] += number
    counts.undecided_steps += decided.num_undecided
    counts.wrong_steps += len(cut)
    counts.mined_steps += sum(mined[:-1])
    together.add(cut, {**decided.judge_labels, CONSENSUS: labels}, truths, not_asked(said))
    for source, of_source in {CONSENSUS: labels, **truths}.items():
        counts.right_steps.setdefault(source, RightStepCounts()).add(cut, of_source, masses)
    return mined


def _check_asked(id_: SampleId, to_ask: Mapping[int, Sequence[str]]) -> None:
    """Raises :class:`RunDirectoryError` where a verdict that matters was not asked for."""
    for step, judges in to_ask.items():
        raise RunDirectoryError(
            f"{' and '.join(judges)} {'was' if len(judges) == 1 else 'were'} not asked about step {step} of {id_}, and the labels "
            "depend on that now",
            rule="a judge with judges.<name>.after is asked where those before it leave the consensus open, by the thresholds, "
            "rule and roles of that time",
            remedy=f"run `bcpg-cluster stage judge.{judges[0]} --round {id_.round}`, which asks by the present settings, or take "
            "back what was changed",
        )


def flip_seed(seed: int, id_: SampleId) -> str:
    """Seed of the draws that turn labels of one response over; ``seed`` is the run's."""
    return f"{seed}/flips/{id_.round}/{id_.prompt_id}/{id_.sample}"


def _of(verdicts: Mapping[SampleId, Sequence[Verdict]], id_: SampleId, cut: Sequence[Step]) -> Sequence[Verdict]:
    said = verdicts.get(id_, ())
    if len(said) != len(cut):
        raise StoreError(f"{id_} has {len(cut)} steps and {len(said)} verdicts")
    return said
