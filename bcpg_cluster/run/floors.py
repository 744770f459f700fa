"""Stops a round that mostly failed, before more is made of it: responses the engine gave up, samples that could not be verified,
steps without a verdict, steps that the voters together cannot decide. What failed is done anew when the run is started again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from bcpg_cluster.errors import MostlyFailedError, page
from bcpg_cluster.records import OutcomeStatus, StopReason, Verdict, VerdictStatus
from bcpg_cluster.run.recovery.given_up import give_up
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.graph import REFERENCE, StageSpec, downstream
from bcpg_cluster.stages.judge.counts import verdict_statuses
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, vote_label
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.rows import outcomes_from, verdicts_from
from bcpg_cluster.store.shards import shard_by_shard

_SAID = (VerdictStatus.JUDGED, VerdictStatus.REFUSED, VerdictStatus.NOT_ASKED)  # the judge did its part, or had none
_MAX_REASONS = 10  # rows of the table
_MAX_FIRST = 2000  # characters of the first failure; its end


@dataclass
class Failures:
    """What samples or steps were left without.

    Attributes:
        reasons: how often each occurred; a line of the table.
        first: all that is known of the first one that says something.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, reason: str, detail: str) -> None:
        """Count one."""
        self.reasons[reason] += 1
        self.first = self.first if self.first.strip() else detail


class Floors:
    """Checks a stage's table once all its shards are accepted.

    Args:
        max_error_share: of the samples, that the rollout engine may give up, or the verifier fail on
            (``verify.max_error_share``).
        max_missing_share: of the steps, that may stay without a verdict of a voter, or undecided by all of them since verdicts
            are missing (``weigh.max_missing_share``).
        voters: the judges whose verdicts are wanted.
        rule, thresholds: how they decide together.
        say: told of a voter that declined most steps, which is no failure.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        max_error_share: float,
        max_missing_share: float,
        voters: Sequence[str],
        rule: ConsensusRule | None = None,
        thresholds: Mapping[str, float] | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._manifest = manifest
        self._max_error_share, self._max_missing_share = max_error_share, max_missing_share
        self._say = say
        self._judges = {f"judge.{name}": name for name in voters}
        self._rule, self._thresholds = rule or ConsensusRule(), thresholds or {}

    def check(self, round_: int, stage: StageSpec, stages: Sequence[StageSpec]) -> None:
        """Raises :class:`MostlyFailedError` where too much of the stage's table failed; that table, and what ``stages`` make of
        it, are then given up.
        """
        failed = [stage.output]
        if stage.output in ("rollouts", "eval_rollouts"):
            problem = self._aborted(round_, stage.output)
            error = problem and _engine_error(problem, self._max_error_share)
        elif stage.output in ("outcomes", "eval_outcomes"):
            problem = self._unverified(round_, stage.output)
            error = problem and _verifier_error(problem, self._max_error_share)
        elif stage.name in self._judges:
            problem = self._missing(round_, stage.output)
            error = problem and _judge_error(self._judges[stage.name], problem, self._max_missing_share)
            if not error and (problem := self._undecided(round_, stage.output)):
                error, failed = _voters_error(problem, self._max_missing_share), self._tables_with_gaps(round_)
        else:
            return
        if error:
            tables = list(dict.fromkeys(name for table in failed for name in downstream(stages, table)))
            ahead = [REFERENCE] if "outcomes" in tables else []  # ahead of the verdicts, and made of outcomes
            give_up(self._manifest, round_, [*tables, *ahead])
            raise error

    def _aborted(self, round_: int, table: str) -> str | None:
        receipts = self._manifest.state.receipts(round_, table)
        counted = [RolloutCounts.read(receipt.metrics) for receipt in receipts]
        num_aborted = sum(counts.stopped[StopReason.ABORTED] for counts in counted)
        num_drawn = sum(counts.drawn for counts in counted)
        if num_aborted <= self._max_error_share * num_drawn:
            return None
        return f"{_where(round_, table)}: the engine gave up {num_aborted} of {num_drawn} responses"

    def _unverified(self, round_: int, table: str) -> str | None:
        receipts = self._manifest.state.receipts(round_, table)
        by_status: Counter[OutcomeStatus] = Counter()
        for receipt in receipts:
            by_status.update(OutcomeCounts.read(receipt.metrics).by_status)
        num_failed, num_asked = by_status[OutcomeStatus.VERIFIER_ERROR], by_status.total()
        if num_failed <= self._max_error_share * num_asked:
            return None
        failures = Failures()
        for of_shard in shard_by_shard(self._manifest.run_dir, {table: receipts}):
            for outcome in outcomes_from(of_shard[table]).values():
                if outcome.status is OutcomeStatus.VERIFIER_ERROR:
                    failures.add(_last_line(outcome.why) or "the verifier gave no reason", outcome.why)
        return f"{_where(round_, table)}: {num_failed} of {num_asked} samples could not be verified" + _table(
            "samples", failures
        )

    def _missing(self, round_: int, table: str) -> str | None:
        receipts = self._manifest.state.receipts(round_, table)
        statuses = self._statuses(round_, table)
        num_asked = statuses.total() - statuses[VerdictStatus.NOT_ASKED]
        num_refused, num_missing = statuses[VerdictStatus.REFUSED], _num_missing(statuses)
        if num_refused > self._max_missing_share * num_asked:
            judge = table.removeprefix("verdicts.")
            self._say(
                f"round {round_}: judge {judge!r} declined {num_refused} of {num_asked} steps, which then are not mined"
            )
        if num_missing <= self._max_missing_share * num_asked:
            return None
        failures = Failures()
        for of_shard in shard_by_shard(self._manifest.run_dir, {table: receipts}):
            for said in chain.from_iterable(verdicts_from(of_shard[table]).values()):
                if said.status not in _SAID:
                    failures.add(str(said.status), said.raw)
        return f"round {round_}: {num_missing} of {num_asked} steps have no verdict" + _table("steps", failures)

    def _statuses(self, round_: int, table: str) -> Counter[VerdictStatus]:
        found: Counter[VerdictStatus] = Counter()
        for receipt in self._manifest.state.receipts(round_, table):
            found.update(verdict_statuses(receipt.metrics))
        return found

    def _tables_with_gaps(self, round_: int) -> list[str]:
        tables = [f"verdicts.{name}" for name in self._judges.values()]
        return [table for table in tables if _num_missing(self._statuses(round_, table))]

    def _undecided(self, round_: int, table: str) -> str | None:
        """Of steps that no voter misses too often, those that are undecided since one or another of them has no verdict."""
        state, names = self._manifest.state, list(self._judges.values())
        tables = {name: f"verdicts.{name}" for name in names}
        num_shards = len(state.shards.get((round_, table), ()))
        if any(len(state.shards.get((round_, each), ())) != num_shards for each in tables.values()):
            return None  # a later voter asks
        num_missing = [_num_missing(self._statuses(round_, each)) for each in tables.values()]
        num_asked = self._statuses(round_, table).total()
        most = self._max_missing_share * num_asked
        if (
            max(num_missing) > most or sum(num_missing) <= most
        ):  # one voter is to blame, which its own check says; or none
            return None
        failures, num_undecided = Failures(), 0
        receipts = {name: state.receipts(round_, each) for name, each in tables.items()}
        for of_shard in shard_by_shard(self._manifest.run_dir, receipts):
            said = {name: verdicts_from(rows) for name, rows in of_shard.items()}
            for id_ in said[names[0]]:
                for votes in zip(*(said[name][id_] for name in names), strict=True):
                    num_undecided += self._is_undecided(dict(zip(names, votes, strict=True)), failures)
        if num_undecided <= most:
            return None
        problem = (
            f"round {round_}: the voters cannot decide {num_undecided} of {num_asked} steps, since verdicts are missing"
        )
        return problem + _table("missing", failures)

    def _is_undecided(self, votes: Mapping[str, Verdict], failures: Failures) -> bool:
        """Whether the voters leave a step open; which of them failed on it is then added to ``failures``."""
        if self._rule.opinion(self._labels(votes)) is not None:
            return False
        for name, vote in votes.items():
            if vote.status not in _SAID:
                failures.add(f"{vote.status} of {name}", vote.raw)
        return True

    def _labels(self, votes: Mapping[str, Verdict]) -> dict[str, int | None]:
        """By voter that was asked about a step: one that was not leaves nothing open.

        A step that was declined is no failure: it is as one called wrong.
        """
        return {
            name: 0 if vote.status is VerdictStatus.REFUSED else vote_label(vote, self._thresholds.get(name))
            for name, vote in votes.items()
            if vote.status is not VerdictStatus.NOT_ASKED
        }


def _where(round_: int, table: str) -> str:
    return f"evaluation of v{round_}" if table.startswith("eval_") else f"round {round_}"


def _num_missing(statuses: Counter[VerdictStatus]) -> int:
    return statuses.total() - sum(statuses[status] for status in _SAID)


def _last_line(text: str) -> str:
    """Of an exception with its traceback, what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _table(unit: str, failures: Failures) -> str:
    """Reasons by how often they occurred, and the first failure in full."""
    reasons = failures.reasons
    width = max(len(unit), len(str(max(reasons.values(), default=0))))
    lines = [f"{unit:>{width}}  reason"]
    lines += [f"{number:>{width}}  {reason}" for reason, number in reasons.most_common(_MAX_REASONS)]
    if len(reasons) > _MAX_REASONS:
        lines.append(f"{'':>{width}}  and {len(reasons) - _MAX_REASONS} more")
    if failures.first.strip() not in ("", *reasons):
        lines += ["the first:", *(f"  {line}" for line in failures.first.strip()[-_MAX_FIRST:].splitlines())]
    return "".join(f"\n    {line}" for line in lines)


def _verifier_error(problem: str, most: float) -> MostlyFailedError:
    return MostlyFailedError(
        problem,
        rule=f"the verifier fails on at most {most:.0%} of a round's samples (verify.max_error_share)",
        remedy="mend what is named above (`bcpg-cluster grade` tries it on a file) and run the same command again: the samples "
        "are kept, and are verified anew. Or raise verify.max_error_share",
    )


def _engine_error(problem: str, most: float) -> MostlyFailedError:
    return MostlyFailedError(
        problem,
        rule=f"the engine gives up at most {most:.0%} of a round's responses (verify.max_error_share)",
        remedy="mend the rollout engine (its log says why it aborted requests) and run the same command again: these responses "
        "are sampled anew. Or raise verify.max_error_share",
    )


def _voters_error(problem: str, most: float) -> MostlyFailedError:
    return MostlyFailedError(
        problem,
        rule=f"at most {most:.0%} of a round's steps stay undecided since a voter has no verdict (weigh.max_missing_share)",
        remedy="mend the judges named above (`bcpg-cluster judge-eval` tries them) and run the same command again: everything "
        "else is kept, and these judges are asked anew. Or raise weigh.max_missing_share",
    )


def _judge_error(judge: str, problem: str, most: float) -> MostlyFailedError:
    return MostlyFailedError(
        f"judge {judge!r}, {problem}",
        rule=f"at most {most:.0%} of the steps that a voter is asked about have no verdict (weigh.max_missing_share)",
        remedy=f"mend judges.{judge} (`bcpg-cluster judge-eval` tries it; {page('judges.md')} says what each status means) and run "
        "the same command again: everything else is kept, and these steps are judged anew. Or raise weigh.max_missing_share",
    )


def empty_round_reason(dropped: Mapping[str, int], num_asked: int) -> str:
    """Why no group of a round can be trained on, from its samples by drop reason."""
    dropped = {reason: number for reason, number in dropped.items() if number}
    if set(dropped) <= {"all_correct", "all_wrong"}:
        return "no group had both right and wrong answers" + _counted(dropped)
    return f"none of {num_asked} samples can be trained on" + _counted(dropped)


def _counted(dropped: Mapping[str, int]) -> str:
    listed = ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items(), key=lambda item: -item[1]))
    return f" ({listed})" if listed else ""
