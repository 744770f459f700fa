"""How a run looks in a terminal: progress while it works, a table for every round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.stages.segment.llm.counts import fallbacks
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.store.reports import (
    Estimate,
    JudgesReport,
    PushFacts,
    RightSteps,
    RoundBound,
    RoundReport,
    TrainingSummary,
)
from bcpg_cluster.watch.observer import Event, Faulted, Noted, PoolsSeen, RoundFinished, StageProgress
from bcpg_cluster.watch.report.round_bound import bound_text
from bcpg_cluster.watch.report.round_report import judge_account

_WORTH_A_LINE_S = 3.0


class EngineStarts:
    """How many of a run's engines are ready, while some are starting.

    Attributes:
        text: for a display; empty while none is starting.
        are_over: whether the pools were seen, and none was starting.
    """

    def __init__(self) -> None:
        self.text, self.are_over = "", False
        self._since: float | None = None
        self._told = False

    def see(self, states: Sequence[PoolState], now: float) -> str:
        """Take the pools in; a line for a log when a start takes long, and when it is over, else nothing."""
        members = [member for state in states for member in state.members if member.state != "draining"]
        num_ready = sum(member.state in ("ready", "stalled") for member in members)
        self.are_over = num_ready == len(members)
        counted = f"{num_ready} of {len(members)} ready"
        if not self.are_over:
            self._since = now if self._since is None else self._since
            self.text = f"starting engines: {counted}"
            if self._told or now - self._since < _WORTH_A_LINE_S:
                return ""
            self._told = True
            return self.text
        took_s = 0.0 if self._since is None else now - self._since
        line = f"engines: {counted} after {took_s:.0f} s" if self._told else ""
        self.text, self._since, self._told = "", None, False
        return line


class ConsoleObserver:
    """An observer that draws progress bars where there is a terminal, and prints each round's report. A bar's time runs from when
    the engines are ready; until then it says how many are.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._progress = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[tuple[int, str], TaskID] = {}
        self._starts = EngineStarts()
        self._starting: TaskID | None = None

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def hear(self, event: Event) -> None:
        """Move bars, print lines and reports."""
        match event:
            case StageProgress():
                self._move(event)
            case PoolsSeen(states=states):
                self._see_starts(states)
            case Noted(text=text):
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)
            case Faulted(fault=fault):
                self._console.print(f"[yellow]{fault.kind}[/] {escape(fault.text)}", highlight=False)
            case RoundFinished(report=report):
                self.finish(report)

    def _move(self, progress: StageProgress) -> None:
        key = (progress.round, progress.stage)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(
                f"round {progress.round}  {progress.stage}", total=progress.total, start=False
            )
        if progress.done or self._starts.are_over:
            self._progress.start_task(self._tasks[key])  # keeps the time of a bar that has begun
        self._progress.update(self._tasks[key], completed=progress.done, total=progress.total)

    def _see_starts(self, states: Sequence[PoolState]) -> None:
        line = self._starts.see(states, self._clock())
        if line and not self._console.is_terminal:
            self._console.print(line, highlight=False)
        text = self._starts.text
        if self._starts.are_over:
            for task in self._tasks.values():
                self._progress.start_task(task)
            if self._starting is not None:
                self._progress.remove_task(self._starting)
                self._starting = None
        elif self._starting is None:
            self._starting = self._progress.add_task(text, total=None)
        else:
            self._progress.update(self._starting, description=text)

    def finish(self, report: RoundReport) -> None:
        """Take the round's bars away and print its report."""
        self.clear(report.round)
        print_report(self._console, report)

    def clear(self, round_: int) -> None:
        """Take a round's bars away."""
        for key in [key for key in self._tasks if key[0] <= round_]:
            self._progress.remove_task(self._tasks.pop(key))


def counts_text(counts: Mapping[str, int]) -> str:
    """What of how many, in a line."""
    return ", ".join(f"{what} {number:,}" for what, number in counts.items())


def percent(value: float | None, error: float | None = None) -> str:
    """A share as a percentage with its standard error; ``-`` where it is undefined."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" + (f" ± {100 * error:.1f}" if error is not None else "")


def points(change: Estimate | None) -> str:
    """A paired difference in percentage points with its standard error."""
    if change is None:
        return "-"
    error = f" ± {100 * change.stderr:.1f}" if change.stderr is not None else ""
    return f"{100 * change.mean:+.1f}{error}"


def print_report(console: Console, report: RoundReport) -> None:
    """One round, as a person reads it."""
    round_ = report.round
    table = Table(
        title=f"round {round_}" if round_ else "round 0 (base policy)", show_header=False, title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column()
    for title, text in _rows(report):
        table.add_row(title, escape(text))
    console.print(table, highlight=False)


def _rows(report: RoundReport) -> list[tuple[str, str]]:
    pass_at_k = "   ".join(f"@{k} {percent(estimate.mean)}" for k, estimate in report.pass_at_k.items())
    rows = [
        (
            f"test accuracy, sampled (avg@{report.samples_per_problem})",
            percent(report.accuracy, report.stderr) + _change_text(report, "accuracy"),
        ),
        (
            "test accuracy, greedy",
            percent(report.accuracy_greedy, report.stderr_greedy) + _change_text(report, "accuracy_greedy"),
        ),
        ("pass@k", pass_at_k or "-"),
    ]
    if report.samples is not None:
        samples = report.samples
        dropped = ", ".join(f"{reason} {number}" for reason, number in samples.dropped.items()) or "none"
        rows.append(("samples", f"asked {samples.asked} = kept {samples.kept} + dropped ({dropped})"))
        rows.append(("mined share of tokens of wrong responses", _mined_text(report)))
        rows += [
            (f"right steps of wrong responses, by {labels}", _right_text(r)) for labels, r in report.right_steps.items()
        ]
        rows += _answer_rows(OutcomeCounts.read(report.outcomes))
        rows += _segmenter_rows(report.segment)
        rows += [] if report.judges is None else _judge_rows(report.judges)
        rows += _account_rows(report.verdicts)
        rows += [] if report.push is None else [("push", _push_text(report.push))]
        rows += [] if report.train is None else [("training", _train_text(report.train))]
        rows.append(("tokens/s", ", ".join(f"{name} {rate:,.0f}" for name, rate in report.tokens_per_s.items())))
    if report.faults is not None:
        counts = counts_text(report.faults.counts)
        rows.append(("faults", f"{counts}; the worst: {report.faults.worst}"))
    rows.append(("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report.seconds.items())))
    bound = report.bound
    rows += [] if bound is None else [("bound", f"{bound_words(bound)} = {bound_text(bound)}")]
    rows += [("busy", busy_words(report.busy))] if report.busy else []
    return rows


def bound_words(bound: RoundBound) -> str:
    """A round against the least it could take."""
    ratio = "" if bound.ratio is None else f"{bound.ratio:.2f} x "
    return f"took {bound.took_s:.1f} s, {ratio}its bound of {bound.bound_s:.1f} s"


def busy_words(busy: Mapping[str, float]) -> str:
    """Pools by how busy they were, the busiest first."""
    return ", ".join(f"{pool} {percent(share)}" for pool, share in sorted(busy.items(), key=lambda of: -of[1]))


def _change_text(report: RoundReport, measure: str) -> str:
    return f"   {points(report.change.get(measure))} points on the round before" if report.change else ""


def _mined_text(report: RoundReport) -> str:
    """The mined share of tokens, and of their gradient mass where that is known."""
    tokens, gradient = percent(report.mined_share), report.mined_gradient_share
    return tokens if gradient is None else f"{tokens}, which carry {percent(gradient)} of their gradient mass"


def _right_text(right: RightSteps) -> str:
    return (
        f"in {percent(right.answers_share)} of responses; {percent(right.prefix_share)} of tokens come before the first "
        f"mistake; {percent(right.uncertain_share)} of right tokens were uncertain (p < 0.9)"
    )


def _judge_rows(judges: JudgesReport) -> list[tuple[str, str]]:
    rows = []
    for name, measures in judges.quality.items():
        for measure, quality in measures.items():
            tokens = quality.tokens
            rows.append(
                (
                    f"{name} against {measure}",
                    f"precision {percent(tokens.precision)}, recall {percent(tokens.recall)} (by tokens; "
                    f"{percent(tokens.true_share)} are right)",
                )
            )
    for pair, facts in judges.agreement.items():
        kappa = "-" if facts.kappa is None else f"{facts.kappa:.2f}"
        rows.append((f"agreement {pair}", f"{percent(facts.agreement)} of steps, kappa {kappa}"))
    lost = {key: number for key, number in judges.abstained.items() if number}
    if lost:
        rows.append(("steps without a verdict", ", ".join(f"{key} {number}" for key, number in lost.items())))
    return rows


def fallback_text(counts: Mapping[str, float]) -> str:
    """Of a segmenter's counts, how many responses were cut by structure instead, by why; empty where none were."""
    return ", ".join(f"{number:g} {why}" for why, number in fallbacks(counts).items())


def _segmenter_rows(counts: Mapping[str, float]) -> list[tuple[str, str]]:
    """What the model that says where steps begin was asked, and what was cut without it. Nothing for segmenters by rules."""
    if "llm.calls" not in counts:
        return []
    said = {
        name: counts.get(f"llm.{name}", 0.0) for name in ("calls", "calls.stored", "calls.repair", "calls.repaired")
    }
    text = (
        f"{said['calls']:g} questions ({said['calls.stored']:g} from the cache); {said['calls.repair']:g} asked again, "
        f"{said['calls.repaired']:g} readable then; cut by structure instead: "
    )
    text += fallback_text(counts) or "none"
    return [("segmenter", f"{text} of {counts['samples']:g} responses")]


def _answer_rows(outcomes: OutcomeCounts) -> list[tuple[str, str]]:
    """Answers that were compared as text, since the verifier could not parse them. Nothing where there were none."""
    if not outcomes.unparsed:
        return []
    return [("answers that could not be parsed", f"{outcomes.unparsed} of {outcomes.samples}, compared as text")]


def _account_rows(verdicts: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """What each judge that keeps an account was asked, and what it cost."""
    accounts = {stage.removeprefix("judge."): judge_account(totals) for stage, totals in verdicts.items()}
    return [(f"calls of {name}", account_text(account)) for name, account in accounts.items() if account is not None]


def account_text(account: dict[str, float]) -> str:
    """An account as a person reads it; what did not happen is left out."""
    stored = f" ({account['stored']:,.0f} from the cache)" if account["stored"] else ""
    parts = [f"{account['calls']:,.0f}{stored}"]
    if account["calls"] > account["stored"]:
        most = f" of {account['shareable_tokens']:,.0f} shared" if account.get("shareable_tokens") else ""
        cached = f" ({account['cached_tokens']:,.0f} cached{most})" if account["cached_tokens"] or most else ""
        parts.append(f"tokens {account['prompt_tokens']:,.0f}{cached} in, {account['answer_tokens']:,.0f} out")
    if account["uncounted"]:
        parts.append(f"tokens of {account['uncounted']:,.0f} unknown")
    if account["repair"]:
        parts.append(f"asked again {account['repair']:,.0f}, which helped {account['repaired']:,.0f}")
    if account["retries"]:
        parts.append(f"retries {account['retries']:,.0f}")
    if account.get("unkept"):
        parts.append(f"{account['unkept']:,.0f} answers that the cache's disk did not take")
    if "cost" in account:
        parts.append(f"cost {account['cost']:,.4f}")
    if account.get("not_made"):
        parts.append(f"not needed {account['not_made']:,.0f}, which saved about {account['saved_tokens']:,.0f} tokens")
    return ", ".join(parts)


def import_text(facts: dict[str, Any]) -> str:
    """Where the responses of an imported round came from."""
    return (
        f"responses made elsewhere: {facts['num_samples']} to {facts['num_prompts']} prompts, from {facts['source']} "
        f"({facts['policy']})"
    )


def _push_text(push: PushFacts) -> str:
    cached = push.cached_prefix_nats
    what = "adapters by " if push.carried == "adapters" else ""
    return (
        f"{what}{push.method} to {push.num_members} engines in {push.seconds:.2f} s; canaries {push.canaries}: "
        f"off by {push.worst_nats:.1e} nats where old and new weights differ by {push.separation_nats:.1e}"
        + ("" if cached is None else f"; through a cached prefix {cached:.1e}")
        + (f" ({push.why.splitlines()[0]})" if push.why else "")
    )


def _train_text(train: TrainingSummary) -> str:
    if not train.steps:
        return "no step (nothing to learn from)"
    drifts = {
        "right": train.delta_per_token_right_last,
        "mined": train.delta_per_token_mined_last,
        "unmined": train.delta_per_token_unmined_last,
        "wrong": train.delta_per_token_wrong_last,
    }
    if drifts["mined"] is not None:
        drifts.pop("wrong")  # it is both of these
    shown = ", ".join(f"{value:+.4f} ({what})" for what, value in drifts.items() if value is not None)
    stopped = f" of {train.steps_planned:.0f}, stopped early" if train.stopped_early else ""
    return (
        f"{train.steps:.0f} steps{stopped}, loss {train.loss_first:.4f} -> {train.loss_last:.4f}, gradient norm "
        f"{train.grad_norm_first:.3f} -> {train.grad_norm_last:.3f}, drift per token {shown} nats, entropy "
        f"{train.entropy_first:.4f} -> {train.entropy_last:.4f}"
    )


def closing_lines(reports: Mapping[int, RoundReport]) -> str:
    """How accuracy moved from the base policy, how much the last round mined, and what share of the gradient mass that was."""
    base, last = reports[0], reports[max(reports)]
    change = last.change_from_base
    moved = (
        f"after round {last.round}: sampled {percent(base.accuracy)} -> {percent(last.accuracy)} "
        f"({points(change.get('accuracy'))} points), greedy {percent(base.accuracy_greedy)} -> "
        f"{percent(last.accuracy_greedy)} ({points(change.get('accuracy_greedy'))} points)"
    )
    if last.mined_share is None:
        return moved
    mined = f"mined in round {last.round}: {percent(last.mined_share)} of the tokens of wrong responses"
    if last.mined_gradient_share is not None:
        mined += f", {percent(last.mined_gradient_share)} of their gradient mass"
    return f"{moved}\n{mined}"
