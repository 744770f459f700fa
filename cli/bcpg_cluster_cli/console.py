"""How a run looks in a terminal: progress while it works, a table for every round."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from bcpg_cluster.watch.observer import SilentObserver
from bcpg_cluster.watch.report.round_report import judge_account


class ConsoleObserver(SilentObserver):
    """An observer that draws progress bars where there is a terminal, and prints each round's report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[tuple[int, str], TaskID] = {}

    def __enter__(self) -> ConsoleObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        key = (round_, name)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"round {round_}  {name}", total=total)
        self._progress.update(self._tasks[key], completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def retry(self, what: str, why: str) -> None:
        """Print what is tried again."""
        first = why.strip().splitlines()[0] if why.strip() else ""
        self._console.print(f"[yellow]again: {escape(what)}[/] ({escape(first[:300])})", highlight=False)

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """Take the round's bars away and print its report."""
        self.clear(round_)
        print_report(self._console, report)

    def clear(self, round_: int) -> None:
        """Take a round's bars away."""
        for key in [key for key in self._tasks if key[0] <= round_]:
            self._progress.remove_task(self._tasks.pop(key))


def percent(value: float | None, error: float | None = None) -> str:
    """A share as a percentage with its standard error; ``-`` where it is undefined."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" + (f" ± {100 * error:.1f}" if error is not None else "")


def points(change: dict[str, Any] | None) -> str:
    """A paired difference in percentage points with its standard error."""
    if not change:
        return "-"
    error = f" ± {100 * change['stderr']:.1f}" if change.get("stderr") is not None else ""
    return f"{100 * change['mean']:+.1f}{error}"


def print_report(console: Console, report: dict[str, Any]) -> None:
    """One round, as a person reads it."""
    round_ = report["round"]
    table = Table(
        title=f"round {round_}" if round_ else "round 0 (base policy)", show_header=False, title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column()
    for title, text in _rows(report):
        table.add_row(title, escape(text))
    console.print(table, highlight=False)


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    change = report.get("change", {})
    samples_each = report.get("samples_per_problem")
    rows = [
        (
            f"test accuracy, sampled (avg@{samples_each})",
            percent(report.get("accuracy"), report.get("stderr"))
            + (f"   {points(change.get('accuracy'))} points on the round before" if change else ""),
        ),
        (
            "test accuracy, greedy",
            percent(report.get("accuracy_greedy"), report.get("stderr_greedy"))
            + (f"   {points(change.get('accuracy_greedy'))} points on the round before" if change else ""),
        ),
        ("pass@k", "   ".join(f"@{k} {percent(v['mean'])}" for k, v in report.get("pass_at_k", {}).items()) or "-"),
    ]
    if "samples" in report:
        samples = report["samples"]
        dropped = ", ".join(f"{reason} {number}" for reason, number in samples["dropped"].items()) or "none"
        rows.append(("samples", f"asked {samples['asked']} = kept {samples['kept']} + dropped ({dropped})"))
        rows.append(("mined share of tokens of wrong responses", percent(report["mined_share"])))
        rows += _answer_rows(report.get("outcomes", {}))
        rows += _judge_rows(report["judges"])
        rows += _account_rows(report.get("verdicts", {}))
        rows.append(("push", _push_text(report["push"])))
        rows.append(("training", _train_text(report["train"])))
        rows.append(("tokens/s", ", ".join(f"{name} {rate:,.0f}" for name, rate in report["tokens_per_s"].items())))
    rows.append(("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())))
    return rows


def _judge_rows(judges: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, measures in judges["quality"].items():
        for measure, units in measures.items():
            tokens = units["tokens"]
            rows.append(
                (
                    f"{name} against {measure}",
                    f"precision {percent(tokens['precision'])}, recall {percent(tokens['recall'])} (by tokens; "
                    f"{percent(tokens['true_share'])} are right)",
                )
            )
    for pair, facts in judges["agreement"].items():
        kappa = "-" if facts["kappa"] is None else f"{facts['kappa']:.2f}"
        rows.append((f"agreement {pair}", f"{percent(facts['agreement'])} of steps, kappa {kappa}"))
    lost = {key: number for key, number in judges["abstained"].items() if number}
    if lost:
        rows.append(("steps without a verdict", ", ".join(f"{key} {number}" for key, number in lost.items())))
    return rows


def _answer_rows(outcomes: dict[str, float]) -> list[tuple[str, str]]:
    """Answers that were compared as text, since the verifier could not parse them. Nothing where there were none."""
    unparsed = outcomes.get("unparsed", 0.0)
    if not unparsed:
        return []
    return [("answers that could not be parsed", f"{unparsed:.0f} of {outcomes['samples']:.0f}, compared as text")]


def _account_rows(verdicts: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """What each judge that keeps an account was asked, and what it cost."""
    accounts = {stage.removeprefix("judge."): judge_account(totals) for stage, totals in verdicts.items()}
    return [(f"calls of {name}", account_text(account)) for name, account in accounts.items() if account is not None]


def account_text(account: dict[str, float]) -> str:
    """An account as a person reads it; what did not happen is left out."""
    stored = f" ({account['stored']:,.0f} from the cache)" if account["stored"] else ""
    parts = [f"{account['calls']:,.0f}{stored}"]
    if account["calls"] > account["stored"]:
        cached = f" ({account['cached_tokens']:,.0f} cached)" if account["cached_tokens"] else ""
        parts.append(f"tokens {account['prompt_tokens']:,.0f}{cached} in, {account['answer_tokens']:,.0f} out")
    if account["uncounted"]:
        parts.append(f"tokens of {account['uncounted']:,.0f} unknown")
    if account["repair"]:
        parts.append(f"asked again {account['repair']:,.0f}, which helped {account['repaired']:,.0f}")
    if account["retries"]:
        parts.append(f"retries {account['retries']:,.0f}")
    if "cost" in account:
        parts.append(f"cost {account['cost']:,.4f}")
    return ", ".join(parts)


def import_text(facts: dict[str, Any]) -> str:
    """Where the responses of an imported round came from."""
    return (
        f"responses made elsewhere: {facts['num_samples']} to {facts['num_prompts']} prompts, from {facts['source']} "
        f"({facts['policy']})"
    )


def _push_text(push: dict[str, Any]) -> str:
    cached = push["cached_prefix_nats"]
    return (
        f"{push['method']} to {push['num_members']} engines in {push['seconds']:.2f} s; canaries {push['canaries']}: "
        f"off by {push['worst_nats']:.1e} nats where old and new weights differ by {push['separation_nats']:.1e}"
        + ("" if cached is None else f"; through a cached prefix {cached:.1e}")
        + (f" ({push['why'].splitlines()[0]})" if push["why"] else "")
    )


def _train_text(train: dict[str, float]) -> str:
    if not train.get("steps"):
        return "no step (nothing to learn from)"
    drifts = {what: train.get(f"delta_per_token_{what}_last") for what in ("right", "mined", "unmined", "wrong")}
    if drifts["mined"] is not None:
        drifts.pop("wrong")  # it is both of these
    shown = ", ".join(f"{value:+.4f} ({what})" for what, value in drifts.items() if value is not None)
    stopped = f" of {train['steps_planned']:.0f}, stopped early" if train.get("stopped_early") else ""
    return (
        f"{train['steps']:.0f} steps{stopped}, loss {train['loss_first']:.4f} -> {train['loss_last']:.4f}, gradient norm "
        f"{train['grad_norm_first']:.3f} -> {train['grad_norm_last']:.3f}, drift per token {shown} nats, entropy "
        f"{train['entropy_first']:.4f} -> {train['entropy_last']:.4f}"
    )


def closing_line(reports: dict[int, dict[str, Any]]) -> str:
    """How accuracy moved from the base policy."""
    base, last = reports[0], reports[max(reports)]
    change = last.get("change_from_base", {})
    return (
        f"after round {last['round']}: sampled {percent(base.get('accuracy'))} -> {percent(last.get('accuracy'))} "
        f"({points(change.get('accuracy'))} points), greedy {percent(base.get('accuracy_greedy'))} -> "
        f"{percent(last.get('accuracy_greedy'))} ({points(change.get('accuracy_greedy'))} points)"
    )
