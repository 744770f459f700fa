"""From a round's report to its line on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import DropReason, VerdictStatus
from bcpg_cluster.store.reports import AccuracyReport, RoundReport, TrainingSummary, UnitQuality
from bcpg_cluster.watch.report.round_report import judge_account
from bcpg_cluster.watch.report.statistics import share_interval
from bcpg_cluster.watch.view.overview.records import (
    Accuracy,
    AgreementRound,
    Cost,
    DeltaPerToken,
    Drift,
    Dropped,
    Interval,
    JudgeCalls,
    JudgeRound,
    Push,
    Round,
    StageCount,
    StageSeconds,
    TestAccuracy,
)
from bcpg_cluster.watch.view.overview.settings import uses_token_weights

WHY_DROPPED: dict[str, str] = {
    DropReason.ALL_CORRECT: "Every answer to the question was right, so none is better than another.",
    DropReason.ALL_WRONG: "Every answer to the question was wrong, so none is better than another.",
    DropReason.PROMPT_TOO_LONG: "The question leaves no room for an answer in the model's context.",
    DropReason.UNVERIFIED: "The answer could not be checked, so it has no reward.",
    DropReason.GROUP_UNVERIFIED: "Too few answers to the question could be checked.",
    DropReason.EMPTY: "The answer has no token.",
    DropReason.TRUNCATED: "The answer was cut off at the token limit.",
    DropReason.NOT_TRAINED_ON: "The objective takes only right (or only wrong) answers.",
    DropReason.UNPAIRED: "The objective takes pairs, and this answer is in none.",
}


def round_of(
    number: int, report: RoundReport | None, state: str, stages: Sequence[StageCount], config: Config
) -> Round:
    """One round.

    Args:
        report: ``None`` while it is under way.
        state, stages: see :class:`Round`.
    """
    if report is None:
        no_accuracy, no_cost = Accuracy(None, None, {}, ()), Cost((), None, (), None, None)
        nothing = (None, None, None, None)
        return Round(number, state, (*stages,), no_accuracy, None, None, (), *nothing, (), (), None, None, no_cost)
    account, push = report.samples, report.push
    return Round(
        number,
        state,
        (*stages,),
        _accuracy(report),
        None if account is None else account.asked,
        None if account is None else account.kept,
        ()
        if account is None
        else tuple(Dropped(r, n, WHY_DROPPED.get(r, "")) for r, n in account.dropped.items() if n),
        report.mined_share,
        report.mined_gradient_share,
        report.uncertain_right_share,
        config.weigh.beta if uses_token_weights(config) else None,
        tuple(_judges(report, config)),
        tuple(_agreement(report)),
        None if report.train is None else _drift(report.train),
        None
        if push is None
        else Push(push.method, push.num_members, push.worst_nats, push.separation_nats, push.canaries, push.seconds),
        _cost(report),
    )


def interval(value: float | None, stderr: float | None, num: int | None) -> Interval | None:
    """A share with its 95 % interval, kept within 0 and 1."""
    if value is None:
        return None
    if stderr is None:
        return Interval(value, None, None, num)
    return Interval(value, *share_interval(value, stderr), num)


def _accuracy(report: RoundReport) -> Accuracy:
    at_k = {
        k: found
        for k, estimate in report.pass_at_k.items()
        if (found := interval(estimate.mean, estimate.stderr, report.num_problems)) is not None
    }
    tests = tuple(TestAccuracy(name, _sampled(test), _greedy(test)) for name, test in report.more_tests.items())
    return Accuracy(_sampled(report), _greedy(report), at_k, tests)


def _sampled(report: AccuracyReport) -> Interval | None:
    return interval(report.accuracy, report.stderr, report.num_problems)


def _greedy(report: AccuracyReport) -> Interval | None:
    return interval(report.accuracy_greedy, report.stderr_greedy, report.num_problems)


def _judges(report: RoundReport, config: Config) -> list[JudgeRound]:
    """Each judge and the consensus against each judge that measures; without one, what was asked and what is missing."""
    quality = {} if report.judges is None else report.judges.quality
    found = []
    for name, by_measure in quality.items():
        for measure, of_measure in by_measure.items():
            found.append(_judge(name, measure, of_measure.steps, report.verdicts.get(f"judge.{name}")))
    for name in config.judges:
        if name not in quality and (totals := report.verdicts.get(f"judge.{name}")) is not None:
            line = _judge(name, None, None, totals)
            if config.judges[name].role != "measure" or line.num_missing:
                found.append(line)
    return found


def _judge(
    name: str, against: str | None, quality: UnitQuality | None, totals: Mapping[str, float] | None
) -> JudgeRound:
    precision, recall = (None, None) if quality is None else (quality.precision, quality.recall)
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    counts = {status: int((totals or {}).get(f"status.{status}", 0)) for status in VerdictStatus}
    return JudgeRound(
        name,
        against,
        precision,
        recall,
        f1,
        0 if quality is None else int(quality.count),
        None if totals is None else int(totals.get("steps", sum(counts.values()))) - counts[VerdictStatus.NOT_ASKED],
        {str(status): num for status, num in counts.items() if num and status.is_missing},
    )


def _agreement(report: RoundReport) -> list[AgreementRound]:
    found = []
    for pair, facts in ({} if report.judges is None else report.judges.agreement).items():
        first, _, second = pair.partition("+")
        disputed = None if facts.agreement is None else round((1 - facts.agreement) * facts.steps)
        found.append(AgreementRound((first, second), facts.agreement, facts.kappa, int(facts.steps), disputed))
    return found


def _drift(train: TrainingSummary) -> Drift:
    return Drift(
        None,
        None,
        train.entropy_first,
        train.entropy_last,
        DeltaPerToken(
            train.delta_per_token_right_last,
            train.delta_per_token_wrong_last,
            train.delta_per_token_mined_last,
            train.delta_per_token_unmined_last,
        ),
        train.loss_first,
        train.loss_last,
        train.grad_norm_max,
    )


def _cost(report: RoundReport) -> Cost:
    accounts = {stage.removeprefix("judge."): judge_account(totals) for stage, totals in report.verdicts.items()}
    calls = tuple(
        JudgeCalls(name, *(int(account[key]) for key in ("calls", "prompt_tokens", "answer_tokens", "retries")))
        for name, account in accounts.items()
        if account is not None
    )
    money = [account["cost"] for account in accounts.values() if account is not None and "cost" in account]
    tokens = report.generate.get("tokens")
    return Cost(
        tuple(StageSeconds(stage, seconds) for stage, seconds in report.seconds.items() if stage != "round"),
        report.seconds.get("round"),
        calls,
        None if tokens is None else int(tokens),
        sum(money) if money else None,
    )
