"""``bcpg-cluster judge-eval``: a config's judges, alone and together, on solutions with labelled steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

import typer
from rich.console import Console
from rich.table import Table

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.labelled_steps import read_subsets
from bcpg_cluster.stages.weigh.consensus import RULES, Abstention, ConsensusRule, vote_label
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.judge_quality import Labels, evaluation
from bcpg_cluster_cli.console import percent
from bcpg_cluster_cli.judging.compare_segmenters import run_compare_segmenters
from bcpg_cluster_cli.judging.labelled_files import (
    LabelledData,
    MakeJudge,
    ask_about_files,
    default_folder,
    lost_text,
    say_left_out,
)
from bcpg_cluster_cli.terminal import Terminal

REPORT = "judge-eval.json"
_Number = TypeVar("_Number", int, float)


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
    segmenters: str | None = None,
    tokenizer: str | None = None,
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
        segmenters: compare these on the same solutions instead (``compare_segmenters``), with the tokens of ``tokenizer``.

    Raises:
        ConfigError: no such judge, a rule that is invalid or does not fit the judges, or judges that call different steps
            right.
        DataError: invalid files.
        EngineError: a judge failed; what was answered is kept.
    """
    names, combined = judges_and_rules(config, judges, rules, abstention, accuracies, prior)
    if tokenizer is not None and segmenters is None:
        raise ConfigError(
            f"--tokenizer {tokenizer} without --segmenters",
            rule="tokens are counted where segmenters are compared",
            remedy="add --segmenters, or leave --tokenizer out",
        )
    if segmenters is not None:
        return run_compare_segmenters(
            data, config, make_judge, segmenters, judges=names, rules=combined, tokenizer=tokenizer, limit=limit,
            batch=batch, output=output, as_json=as_json,
        )  # fmt: skip
    asked = LabelledData(read_subsets(data, limit), output or default_folder(config), batch)
    say_left_out(asked, console := Terminal(stderr=as_json))
    asked.folder.mkdir(parents=True, exist_ok=True)
    labels: dict[str, dict[str, Sequence[Labels]]] = {subset: {} for subset in asked.files}
    facts: dict[str, Any] = {}
    for name in names:
        said = ask_about_files(config, name, asked, make_judge, console)
        facts[name], threshold = said.facts, config.judges[name].threshold
        for subset, of_subset in said.by_file.items():
            labels[subset][name] = [[vote_label(step, threshold) for step in steps] for steps in of_subset]
    report = {
        "data": list(data),
        "limit": limit,
        "left_out": asked.left_out(),
        "judges": facts,
        "rules": [asdict(rule) for rule in combined],
        **evaluation({name: file.solutions for name, file in asked.files.items()}, labels, combined),
    }
    write_whole(asked.folder / REPORT, json.dumps(report, indent=2).encode())
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(console, report, asked.folder / REPORT)
    return report


def judges_and_rules(
    config: Config,
    judges: Sequence[str],
    rules: Sequence[str],
    abstention: Abstention,
    accuracies: Sequence[str],
    prior: float,
) -> tuple[list[str], list[ConsensusRule]]:
    """Who is asked, and how their answers are combined; the arguments are those of :func:`run_judge_eval`.

    Raises:
        ConfigError: no such judge, a rule that is invalid or does not fit the judges, or judges that call different steps
            right.
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
    return names, combined


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
        weights = {name: _number(float, value) for name, _, value in (text.partition("=") for text in accuracies)}
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
                    num_needed=_number(int, needed) if needed else None,
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


def _number(kind: type[_Number], text: str) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a{' whole' if kind is int else ''} number") from None


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
        console.print(
            f"{name}: steps without a verdict: {lost_text(facts)}; accuracy to weight it by "
            f"{report['overall']['judges'][name]['steps']['accuracy_for_weights']:.3f}",
            highlight=False,
        )
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def _kappa(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
