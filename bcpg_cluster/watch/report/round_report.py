"""A round's report, computed from nothing but accepted receipts: any reader of the manifest gets the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import GREEDY_SAMPLE, Outcome, Receipt, SampleId, StopReason
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.weigh.counts import CONSENSUS, PairCell, QualityCell, Said, Unit, WeighCounts
from bcpg_cluster.store.faults import FaultEvent, FaultKind, count_by_kind, worst_of
from bcpg_cluster.store.reports import (
    AccuracyReport,
    Agreement,
    Estimate,
    FaultReport,
    JudgeQuality,
    JudgesReport,
    PushFacts,
    RightSteps,
    RoundReport,
    SampleAccount,
    TrainingSummary,
    UnitQuality,
)
from bcpg_cluster.watch.report.accuracy import avg_at_n, mean_pass_at_k, paired_difference
from bcpg_cluster.watch.report.round_bound import RoundAccount


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A policy, measured.

    Attributes:
        accuracy, more_tests: on the test set, and on the further ones by name.
        responses: all that were drawn.
        tokens_per_s: ``None`` when nothing was drawn in this process.
        seconds: by stage.
    """

    accuracy: AccuracyReport
    more_tests: Mapping[str, AccuracyReport]
    responses: RolloutCounts
    tokens_per_s: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Learned:
    """The learning half of a round; the fields are those of :class:`bcpg_cluster.store.reports.RoundReport`."""

    samples: SampleAccount
    mined_share: float | None
    mined_gradient_share: float | None
    uncertain_right_share: float | None
    right_steps: Mapping[str, RightSteps]
    judges: JudgesReport
    verdicts: Mapping[str, dict[str, float]]
    segment: dict[str, float]
    generate: dict[str, float]
    outcomes: dict[str, float]
    train: TrainingSummary
    push: PushFacts
    tokens_per_s: dict[str, float]
    seconds: Mapping[str, float]


def complete(
    round_: int,
    evaluated: Evaluated,
    learned: Learned | None,
    seconds: float,
    previous: RoundReport | None,
    base: RoundReport | None,
    faults: Sequence[FaultEvent] = (),
    hidden: Mapping[str, float] | None = None,
    account: RoundAccount | None = None,
) -> RoundReport:
    """A round's report.

    Args:
        learned: ``None`` in round 0.
        seconds: of the whole round.
        previous, base: the reports of the round before and of round 0, where there are any.
        faults: of the round.
        hidden: see :func:`hidden_shares`.
        account: its bound and how busy the pools were, as far as they are known.
    """
    accuracy, responses = evaluated.accuracy, evaluated.responses
    found: dict[str, Any] = {name: getattr(accuracy, name) for name in accuracy.model_fields_set}
    if evaluated.more_tests:
        found["more_tests"] = dict(evaluated.more_tests)
    found |= {
        "truncated_share": responses.stopped[StopReason.LENGTH] / max(responses.drawn, 1),
        "mean_tokens": responses.tokens / max(responses.drawn, 1),
        "evaluation_tokens_per_s": evaluated.tokens_per_s,
        "seconds": {**evaluated.seconds, "round": seconds},
    }
    if learned is not None:
        found |= {field.name: getattr(learned, field.name) for field in fields(learned)}
        found["seconds"] = {**learned.seconds, **evaluated.seconds, "round": seconds}
    if previous is not None and base is not None:
        found |= {"change": change(previous, accuracy), "change_from_base": change(base, accuracy)}
    if hidden:
        found["hidden"] = dict(hidden)
    if faults:
        found["faults"] = fault_report(faults)
    if account is not None and account.bound is not None:
        found["bound"] = account.bound
    if account is not None and account.busy:
        found["busy"] = dict(account.busy)
    return RoundReport(round=round_, **found)


def hidden_shares(train: TrainingSummary, of_evaluation: float) -> dict[str, float]:
    """What the round did not wait for, as :attr:`RoundReport.hidden` has it.

    Args:
        of_evaluation: the share of the evaluation during which the next round trained.
    """
    found = {"evaluate": of_evaluation}
    if train.reference_s and train.reference_wait_s is not None:
        found["reference"] = max(1.0 - train.reference_wait_s / train.reference_s, 0.0)
    return found


def fault_report(faults: Sequence[FaultEvent]) -> FaultReport:
    """What went wrong in a round, of which there was something."""
    worst = worst_of(faults)
    left_out = [fault.what for fault in faults if fault.kind is FaultKind.QUARANTINED]
    return FaultReport(
        counts=count_by_kind(faults), worst=f"{worst.kind}: {worst.text}" if worst else "", quarantined=left_out
    )


def total(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Sum the receipts' metrics."""
    sums: Counter[str] = Counter()
    for receipt in receipts:
        sums.update(receipt.metrics)
    return {key: float(value) for key, value in sums.items()}


def accuracy_report(outcomes: Mapping[SampleId, Outcome], prompt_ids: Set[str] | None = None) -> AccuracyReport:
    """avg@n, pass@k and greedy accuracy with standard errors, from the verified samples of an evaluation.

    A sample without a reward is left out and counted. ``per_problem`` keeps what paired differences need.

    Args:
        prompt_ids: only these problems count.
    """
    rewards: dict[str, list[float]] = {}
    greedy: dict[str, float] = {}
    unverified = 0
    for id_, outcome in outcomes.items():
        if prompt_ids is not None and id_.prompt_id not in prompt_ids:
            continue
        if outcome.reward is None:
            unverified += 1
        elif id_.sample == GREEDY_SAMPLE:
            greedy[id_.prompt_id] = outcome.reward
        else:
            rewards.setdefault(id_.prompt_id, []).append(outcome.reward)
    found: dict[str, Any] = {"num_problems": len(rewards), "unverified": unverified}
    correct, sizes = [int(sum(r)) for r in rewards.values()], [len(r) for r in rewards.values()]
    sampled = avg_at_n(correct, sizes)
    if sampled is not None:
        found |= {
            "accuracy": sampled.mean,
            "stderr": sampled.problems_error,
            "sampling_stderr": sampled.sampling_error,
            "samples_per_problem": min(sizes),
            "pass_at_k": {
                str(k): Estimate(mean=estimate.mean, stderr=estimate.standard_error)
                for k in (1, 2, 4, 8, 16, 32)
                if k <= min(sizes) and (estimate := mean_pass_at_k(correct, sizes, k)) is not None
            },
        }
    best = avg_at_n([int(r) for r in greedy.values()], [1] * len(greedy))
    if best is not None:
        found |= {"accuracy_greedy": best.mean, "stderr_greedy": best.problems_error}
    per_problem = {prompt: (sum(r) / len(r), greedy.get(prompt)) for prompt, r in sorted(rewards.items())}
    return AccuracyReport(**found, per_problem=per_problem)


def change(before: AccuracyReport, after: AccuracyReport) -> dict[str, Estimate]:
    """Paired differences of ``accuracy`` and ``accuracy_greedy`` over the problems both reports share."""
    result = {}
    for index, name in enumerate(("accuracy", "accuracy_greedy")):
        old = {p: value for p, values in before.per_problem.items() if (value := values[index]) is not None}
        new = {p: value for p, values in after.per_problem.items() if (value := values[index]) is not None}
        shared = old.keys() & new.keys()
        difference = paired_difference({p: old[p] for p in shared}, {p: new[p] for p in shared})
        if difference is not None:
            result[name] = Estimate(mean=difference.mean, stderr=difference.standard_error)
    return result


def conservation(weighed: WeighCounts) -> SampleAccount:
    """Asked = kept + dropped, by reason.

    Raises:
        StoreError: the samples do not add up.
    """
    dropped = {reason: number for reason, number in weighed.dropped.items() if number}
    if weighed.asked != weighed.kept + sum(dropped.values()):
        raise StoreError(f"samples do not add up: asked {weighed.asked}, kept {weighed.kept}, dropped {dropped}")
    return SampleAccount(asked=weighed.asked, kept=weighed.kept, dropped=dropped)


def judge_report(weighed: WeighCounts, voters: Sequence[str], measures: Sequence[str]) -> JudgesReport:
    """Each judge's and the consensus' precision and recall against each measure, and how far the voters agree."""
    return JudgesReport(
        quality={
            name: {
                measure: JudgeQuality(
                    tokens=_quality(weighed, name, measure, "tokens"), steps=_quality(weighed, name, measure, "steps")
                )
                for measure in measures
            }
            for name in (*voters, CONSENSUS)
            if measures
        },
        agreement={f"{one}+{other}": _agreement(weighed, one, other) for one, other in combinations(voters, 2)},
        abstained={f"{judge}.{status}": number for (judge, status), number in weighed.abstained.items()},
    )


def right_step_report(weighed: WeighCounts) -> dict[str, RightSteps]:
    """The right steps of wrong answers, by whose labels; empty where the receipts are older than the counts."""
    return {
        labels: RightSteps(
            uncertain_share=counts.uncertain_share, answers_share=counts.answers_share, prefix_share=counts.prefix_share
        )
        for labels, counts in weighed.right_steps.items()
    }


def judge_account(verdicts: Mapping[str, float]) -> dict[str, float] | None:
    """What a judge's calls of a round took, from the sums of its receipts' metrics; ``None`` for a judge that keeps no account.

    Of accepted shards alone: work that was done again is in no receipt.

    Returns:
        ``calls``, of them ``stored`` (answered by the cache) and ``uncounted`` (their tokens are unknown); ``repair`` and
        ``repaired`` (second tries of unreadable answers, and those that helped), ``retries``, ``prompt_tokens``, of them
        ``cached_tokens``, ``answer_tokens``; where prices were given, ``cost``, where the cache could not take answers,
        ``unkept``, where an engine keeps the beginnings of prompts, ``shareable_tokens`` (what its cache can serve at most of one
        shard's calls by themselves), and where judges before this one had decided steps, ``not_made`` (calls that this saved) and
        ``saved_tokens``: an estimate of their prompts, and of answers as long as the mean of those that came.
    """
    if "judge.calls" not in verdicts and "judge.calls.not_made" not in verdicts:
        return None
    names = {
        "calls": "calls", "stored": "calls.stored", "uncounted": "calls.uncounted", "repair": "calls.repair",
        "repaired": "calls.repaired", "retries": "retries", "prompt_tokens": "prompt_tokens",
        "cached_tokens": "prompt_tokens.cached", "answer_tokens": "answer_tokens",
    }  # fmt: skip
    account = {ours: verdicts.get(f"judge.{key}", 0.0) for ours, key in names.items()}
    where_any = {
        "cost": "judge.cost",
        "unkept": "judge.calls.unkept",
        "shareable_tokens": "judge.prompt_tokens.shareable",
    }
    account |= {ours: verdicts[key] for ours, key in where_any.items() if key in verdicts}
    if not_made := verdicts.get("judge.calls.not_made"):
        answered = account["calls"] - account["stored"] - account["uncounted"]
        answer = account["answer_tokens"] / answered if answered else 0.0
        account["not_made"] = not_made
        account["saved_tokens"] = verdicts.get("judge.prompt_tokens.not_sent", 0.0) + not_made * answer
    return account


def _quality(weighed: WeighCounts, judge: str, measure: str, unit: Unit) -> UnitQuality:
    def cell(truth: Said, said: Said) -> int:
        return weighed.quality[QualityCell(judge, measure, truth, said, unit)]

    hit, false_alarm = cell("right", "right"), cell("wrong", "right")
    right = hit + cell("right", "wrong") + cell("right", "none")
    said_right = hit + false_alarm
    everything = right + false_alarm + cell("wrong", "wrong") + cell("wrong", "none")
    return UnitQuality(
        precision=hit / said_right if said_right else None,
        recall=hit / right if right else None,
        true_share=right / everything if everything else None,
        count=everything,
    )


def _agreement(weighed: WeighCounts, first: str, second: str) -> Agreement:
    """Share of steps on which two judges say the same, and Cohen's kappa; abstentions are left out."""
    said: tuple[Said, Said] = ("right", "wrong")
    cells = {(a, b): weighed.pairs[PairCell(first, second, a, b)] for a in said for b in said}
    number = sum(cells.values())
    if not number:
        return Agreement(agreement=None, kappa=None, steps=0.0)
    same = (cells["right", "right"] + cells["wrong", "wrong"]) / number
    one = (cells["right", "right"] + cells["right", "wrong"]) / number
    other = (cells["right", "right"] + cells["wrong", "right"]) / number
    chance = one * other + (1 - one) * (1 - other)
    return Agreement(agreement=same, kappa=(same - chance) / (1 - chance) if chance < 1 else None, steps=number)


def rates(totals: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Tokens per wall second of every stage that counts tokens and did something in this process."""
    return {
        stage: totals[stage]["tokens"] / seconds[stage]
        for stage in seconds
        if totals.get(stage, {}).get("tokens") and seconds[stage] > 0
    }
