"""``bcpg-cluster judge-eval``: a config's judges, alone and together, on solutions with labelled steps."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.labelled_steps import LabelledSolution, read_subsets
from bcpg_cluster.run.build.workforce import member_environment
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase
from bcpg_cluster.stages.weigh.consensus import RULES, Abstention, ConsensusRule, vote_label
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.judge_quality import Labels, evaluation
from bcpg_cluster_cli.console import percent
from bcpg_cluster_cli.judging.engine_log import engine_log
from bcpg_cluster_cli.judging.judge_answers import ask_judge

REPORT = "judge-eval.json"
LOG = "engines.log"
_COLUMNS = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())

MakeJudge = Callable[[Config, str], Judge]
"""Builds the judge of that name of a config, ready to be asked in this process."""


def run_judge_eval(
    data: Sequence[str],
    config: Config,
    make_judge: MakeJudge,
    *,
    judges: Sequence[str] = (),
    rules: Sequence[str] = (),
    abstention: Abstention = "against",
    accuracies: Sequence[str] = (),
    prior: float = 0.5,
    limit: int | None = None,
    batch: int = 64,
    output: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Ask the judges, print and write how good they are; the report.

    Judges are made, asked and closed one after another; what their engines print goes to ``engines.log`` in ``output``.
    Every answer is kept in ``output``, so the same command resumes
    where it was stopped, and another threshold or rule asks no judge again.

    Args:
        data: files of labelled steps, as ``NAME=PATH`` or a path (``prompts.labelled_steps.read_subsets``).
        judges: names in the config; by default those that vote.
        rules: ``all``, ``any``, ``majority``, ``k_of_n:2``, ``weighted``; by default all that the other arguments allow.
        abstention: what the rules make of a judge without an answer.
        accuracies: ``NAME=0.8``, for ``weighted``; with ``prior``.
        limit: so many solutions of every file, evenly spread over it.
        batch: solutions that a judge is asked about in one call; after each the answers are on disk.
        output: a directory, by default ``runs/judge-eval-<config's name>``.

    Raises:
        ConfigError: no such judge, a rule that is invalid or does not fit the judges, or judges that call different steps
            right.
        DataError: invalid files.
        EngineError: a judge failed; what was answered is kept.
    """
    names = _chosen(config, judges)
    if abstention not in get_args(Abstention):
        raise ConfigError(
            f"--abstention {abstention!r}",
            rule=f"what a judge without an answer counts as: {' or '.join(get_args(Abstention))}",
            remedy="give one of these",
        )
    combined = consensus_rules(rules, names, abstention, accuracies, prior)
    if combined:
        _check_same_rule(config, names)
    subsets = read_subsets(data, limit)
    _say_neutral(subsets, console := Console(stderr=as_json))
    folder = output or Path("runs") / f"judge-eval-{config.name}"
    folder.mkdir(parents=True, exist_ok=True)
    labels: dict[str, dict[str, Sequence[Labels]]] = {subset: {} for subset in subsets}
    facts: dict[str, Any] = {}
    for name in names:
        facts[name], said = _measure(config, name, subsets, make_judge, folder, batch, console)
        for subset, of_subset in said.items():
            labels[subset][name] = of_subset
    report = {
        "data": list(data),
        "limit": limit,
        "judges": facts,
        "rules": [asdict(rule) for rule in combined],
        **evaluation(subsets, labels, combined),
    }
    write_whole(folder / REPORT, json.dumps(report, indent=2).encode())
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(console, report, folder / REPORT)
    return report


def _say_neutral(subsets: Mapping[str, Sequence[LabelledSolution]], console: Console) -> None:
    for subset, solutions in subsets.items():
        if num_neutral := sum(solution.num_neutral for solution in solutions):
            console.print(
                f"{subset}: {num_neutral} steps are rated neutral, neither right nor wrong: no precision or recall counts "
                "them, and a solution with one before its first wrong step is left out of `first error`",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def _chosen(config: Config, judges: Sequence[str]) -> list[str]:
    unknown = sorted(set(judges) - set(config.judges))
    if unknown:
        raise ConfigError(
            f"config {config.name!r} has no judge {', '.join(map(repr, unknown))}",
            rule="judge-eval measures judges of the config",
            remedy=f"one of: {', '.join(config.judges)}",
        )
    return list(dict.fromkeys(judges)) or list(config.voters)


def _check_same_rule(config: Config, judges: Sequence[str]) -> None:
    by_rule = {name: config.judges[name].rule for name in judges}
    if len(set(by_rule.values())) > 1:
        raise ConfigError(
            f"these judges call different steps right: {', '.join(f'{name}: {rule}' for name, rule in by_rule.items())}",
            rule="judges are combined, and measured on one file of labels, only under one rule (judges.*.rule)",
            remedy="measure those of each rule in a command of its own: --judge NAME",
        )


def consensus_rules(
    specs: Sequence[str], judges: Sequence[str], abstention: Abstention, accuracies: Sequence[str], prior: float
) -> list[ConsensusRule]:
    """The rules by name (``k_of_n:2`` has its number with it). Without names: none for one judge, else all that can decide.

    Raises:
        ConfigError: one that is invalid, or cannot decide with these judges.
    """
    try:
        weights = {name: float(value) for name, _, value in (text.partition("=") for text in accuracies)}
        if not specs and len(judges) > 1:
            specs = ["all", "any", "majority", *(f"k_of_n:{k}" for k in range(2, len(judges)))]
            specs += ["weighted"] if weights else []
        rules = []
        for spec in dict.fromkeys(specs):
            name, _, needed = spec.partition(":")
            rules.append(
                ConsensusRule(
                    name,
                    abstention,
                    num_needed=int(needed) if needed else None,
                    accuracies=weights if name == "weighted" else {},
                    prior=prior,
                )
            )
            rules[-1].check_judges(judges)
    except ValueError as error:
        raise ConfigError(
            f"--rule cannot be used with the judges {', '.join(judges)}: {error}",
            rule=f"a rule is one of {', '.join(RULES)}; k_of_n as k_of_n:2, weighted with an accuracy for every judge",
            remedy="correct --rule, or give --accuracy NAME=0.8 for every judge",
        ) from None
    return rules


def _case(solution: LabelledSolution, *, show_gold: bool) -> JudgeCase:
    return JudgeCase(solution.problem, solution.steps, solution.gold if show_gold else None)


# --- one judge


def _measure(
    config: Config,
    name: str,
    subsets: Mapping[str, Sequence[LabelledSolution]],
    make_judge: MakeJudge,
    folder: Path,
    batch: int,
    console: Console,
) -> tuple[dict[str, Any], dict[str, list[list[int | None]]]]:
    """One judge: the report's facts about it, and by subset its labels of every solution."""
    settings = config.judges[name]
    cases = {
        subset: [_case(solution, show_gold=settings.show_gold) for solution in solutions]
        for subset, solutions in subsets.items()
    }
    asked = [case for of_subset in cases.values() for case in of_subset]
    if settings.show_gold and (without := sum(case.gold is None for case in asked)):
        console.print(
            f"{name}: {without} of {len(asked)} solutions have no gold answer to show", highlight=False, markup=False
        )
    with _engine_console(config, name, folder, console) as screen:
        with screen.status(f"{name}: starting"):
            judge = make_judge(config, name)
        with closing(judge), Progress(*_COLUMNS, console=screen, transient=True) as progress:
            started, version = time.monotonic(), judge.version
            advance = partial(progress.advance, progress.add_task(name, total=len(asked)))
            answers, num_asked = ask_judge(judge, name, asked, folder / f"answers-{name}.jsonl", batch, advance)
            seconds = time.monotonic() - started
    facts = {
        "version": version,
        "rule": settings.rule,
        "threshold": settings.threshold,
        "show_gold": settings.show_gold,
        "statuses": dict(Counter(str(judgement.status) for of_case in answers for judgement in of_case)),
        "num_solutions_asked": num_asked,
        "seconds": seconds,
    }
    said = iter(answers)
    labels = {
        subset: [[vote_label(judgement, settings.threshold) for judgement in next(said)] for _ in of_subset]
        for subset, of_subset in cases.items()
    }
    return facts, labels


@contextmanager
def _engine_console(config: Config, name: str, folder: Path, console: Console) -> Iterator[Console]:
    """What to print to while a judge works: where it has an engine, that prints to a file of its own."""
    if config.judges[name].kind not in ("llm", "prm"):
        yield console
        return
    log = folder / LOG
    console.print(
        f"{name}: its engine starts; what it prints is in {log}", highlight=False, markup=False, soft_wrap=True
    )
    environment = member_environment(config, config.judge_pool(name))
    with engine_log(log, environment, stderr=console.stderr) as stream:
        yield Console(file=stream)


# --- printing


def _print(console: Console, report: Mapping[str, Any], path: Path) -> None:
    for subset, facts in report["subsets"].items():
        true_share = next(iter(facts["judges"].values()))["steps"]["true_share"]
        table = Table(
            *("", "first error", "no error", "F1", "no answer", "precision", "recall", "F1 of steps", "kappa"),
            title=f"{subset}: {facts['num_solutions']} solutions; {percent(true_share)} of the steps of known truth are right",
            title_justify="left",
        )
        for kind in ("judges", "rules"):
            for name, of_name in facts[kind].items():
                first, steps = of_name["first_error"], of_name["steps"]
                table.add_row(
                    name if kind == "judges" else f"[bold]{name}[/]",
                    *(percent(first[key]) for key in ("acc_error", "acc_correct", "f1")),
                    str(first["num_unreadable"]),
                    *(percent(steps[key]) for key in ("precision", "recall", "f1")),
                    _kappa(steps["kappa"]),
                )
            if kind == "judges":
                table.add_section()
        console.print(table)
    if len(report["subsets"]) > 1:
        means = ", ".join(
            f"{name} {percent(of_name['mean_f1'])}"
            for kind in ("judges", "rules")
            for name, of_name in report["overall"][kind].items()
        )
        console.print(f"F1 averaged over the subsets: {means}", highlight=False, markup=False)
    for pair, facts in report["overall"]["pairs"].items():
        console.print(
            f"{pair}: agree on {percent(facts['agreement'])} of {facts['num_steps']} steps, "
            f"kappa {_kappa(facts['kappa'])}",
            highlight=False,
        )
    for name, facts in report["judges"].items():
        lost = ", ".join(f"{status} {n}" for status, n in facts["statuses"].items() if status != "judged") or "none"
        console.print(
            f"{name}: steps without a verdict: {lost}; accuracy to weight it by "
            f"{report['overall']['judges'][name]['steps']['accuracy_for_weights']:.3f}",
            highlight=False,
        )
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def _kappa(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
