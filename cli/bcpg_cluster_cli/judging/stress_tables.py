"""What ``judge-eval --stress`` prints: a table a judge and rule, within 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bcpg_cluster_cli.judging.labelled_files import lost_text


def print_stress(console: Console, report: Mapping[str, Any], written: Sequence[Path]) -> None:
    """Print the report of ``judge_stress.run_judge_stress``: every number over all files, with its 95 % interval."""
    for name, facts in report["perturbations"].items():
        if facts["num_skipped"]:
            _line(
                console,
                f"{name}: {facts['num_skipped']} of {report['num_solutions']} solutions lack {facts['needs']}",
            )
        for judge, number in facts["num_left_alone"].items():
            _line(console, f"{name}: changes nothing for {judge} in {number} solutions")
    for kind in ("judges", "rules"):
        for name, by_perturbation in report["overall"][kind].items():
            console.print(_table(f"{name}, {'a judge' if kind == 'judges' else 'a rule'}", by_perturbation))
            _print_changed(console, by_perturbation)
            _print_scores(console, by_perturbation)
    for name, facts in report["judges"].items():
        _line(console, f"{name}: steps without a verdict, perturbed or not: {lost_text(facts)}")
    for path in written:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def _table(title: str, by_perturbation: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("", "of", "flips, %", "precision", "recall", "lost"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for name, facts in by_perturbation.items():
        if not facts["num_solutions"]:
            continue
        table.add_row(
            name,
            str(facts["num_solutions"]),
            interval_text(facts["flips"], sign=""),
            interval_text(facts["precision"]),
            interval_text(facts["recall"]),
            str(facts["num_lost"]),
        )
    return table


def _print_changed(console: Console, by_perturbation: Mapping[str, Any]) -> None:
    for name, facts in by_perturbation.items():
        if facts["caught"] is not None:
            _line(
                console,
                f"{name}: {interval_text(facts['caught'], sign='')} % of {facts['num_changed']} steps made wrong are called wrong",
            )


def _print_scores(console: Console, by_perturbation: Mapping[str, Any]) -> None:
    """The change of score on right and on wrong steps, of a judge that scores."""
    rows = [(name, facts) for name, facts in by_perturbation.items() if facts["score"] is not None]
    if not rows:
        return
    table = Table(title="change of score, x 100", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "all steps", "right steps", "wrong steps"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for name, facts in rows:
        table.add_row(name, *(interval_text(facts[key]) for key in ("score", "score_right", "score_wrong")))
    console.print(table)


def interval_text(interval: Mapping[str, Any] | None, *, sign: str = "+") -> str:
    """A share and its interval in per cent, ``-13.4 (-18..+1.2)``; ``-`` where there is none.

    Bounds of 10 and more are whole numbers, so that a table has room. ``sign`` shows a plus.
    """
    if interval is None:
        return "-"
    mean, low, high = (None if interval[key] is None else 100 * interval[key] for key in ("mean", "low", "high"))
    assert mean is not None
    shown = f"{round(mean, 1) + 0.0:{sign}.1f}"  # no -0.0
    if low is None or high is None:
        return shown
    return f"{shown} ({_bound(low, sign)}..{_bound(high, sign)})"


def _bound(value: float, sign: str) -> str:
    number = round(value, 1) + 0.0
    return f"{number:{sign}.0f}" if abs(number) >= 10 else f"{number:{sign}.1f}"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
