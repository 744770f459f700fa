"""``bcpg-cluster disagreements``: the steps a run's judges disagree about, in the terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.disagreement import (
    Disagreement,
    JudgedSample,
    JudgedStep,
    Opinion,
    compare_judges,
    judged_shards,
    truth_title,
)
from bcpg_cluster.watch.report.disagreement_page import NUM_SAMPLES, NUM_STEPS, disagreement_page
from bcpg_cluster_cli.console import percent
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal, shown

_STYLES = {1: "green", 0: "red", None: "dim"}


def run_disagreements(
    run_dir: str | RunPath | None,
    round_: int,
    number: int,
    page: Path | None,
    judges: Sequence[str] = (),
    *,
    as_json: bool,
) -> Disagreement:
    """Show the ``number`` most disputed samples of a round, and write the page of the first 50 if ``page`` says where.

    Args:
        run_dir: the run (by default the one there is), ``round_`` its round from 1.
        judges: those to compare; by default all whose role is not ``measure``, which are the truth beside them.

    Returns:
        What was found, with the samples that are shown or on the page.

    Raises:
        ConfigError: no such judge.
        RunDirectoryError: no run, or fewer than two judges have judged in that round.
    """
    directory = find_run(run_dir)
    config = load_run_config(directory)
    state = read_manifest(directory)
    unknown = sorted(set(judges) - set(config.judges))
    if unknown:
        raise ConfigError(
            f"the run {config.name!r} has no judge {', '.join(map(repr, unknown))}",
            rule="disagreements compares judges of the run's config",
            remedy=f"at least two of: {', '.join(config.judges)}",
        )
    measures = [
        name
        for name, judge in config.judges.items()
        if judge.role == "measure" and state.receipts(round_, f"verdicts.{name}")
    ]
    shards = judged_shards(
        directory,
        state,
        round_,
        list(dict.fromkeys(judges)) or [name for name, judge in config.judges.items() if judge.role != "measure"],
        measures,
        {name: judge.threshold for name, judge in config.judges.items()},
    )
    found = compare_judges(shards, max(number, NUM_SAMPLES if page is not None else 0), NUM_STEPS)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, disagreement_page(f"{config.name}, round {round_}", found).encode())
    if as_json:
        rows = [{**asdict(sample), "dispute": sample.dispute} for sample in found.samples[:number]]
        typer.echo(json.dumps({**found.facts, "samples": rows}, indent=2))
    else:
        _show(Terminal(), found, found.samples[:number], page)
    return found


def _show(console: Console, found: Disagreement, disputed: list[JudgedSample], page: Path | None) -> None:
    facts = found.facts
    console.print(
        f"{facts['num_disputed']} of {facts['num_steps']} steps are disputed, in {facts['num_disputed_samples']} of "
        f"{facts['num_samples']} judged responses (last steps, which are never mined, are not counted)",
        highlight=False,
    )
    for pair, of_pair in facts["pairs"].items():
        kappa = "-" if of_pair["kappa"] is None else f"{of_pair['kappa']:.2f}"
        console.print(
            f"{pair}: agree on {percent(of_pair['agreement'])} of {of_pair['num_steps']} steps, kappa {kappa}",
            highlight=False,
        )
    for measure, of_judges in facts["truth"].items():
        for judge, quality in of_judges.items():
            where = (
                f" (of the {quality['num_steps']} steps it was asked about)" if facts["num_not_asked"][judge] else ""
            )
            console.print(
                f"{judge} against {measure}: precision {percent(quality['precision'])}, recall "
                f"{percent(quality['recall'])}, F1 {percent(quality['f1'])}{where}",
                highlight=False,
            )
    for sample in disputed:
        console.print(
            f"\n{sample.id.prompt_id} sample {sample.id.sample}   gold answer: {sample.gold}   found: {sample.found}   "
            f"disputed: {sample.num_disputed} of {len(sample.steps)} steps\nquestion: {sample.question}",
            highlight=False,
            markup=False,  # a question may hold brackets
        )
        console.print(_steps_table(sample))
    if found.steps:
        sample, step = found.steps[0]
        console.print(
            f"\nthe most disputed step: {sample.id.prompt_id} sample {sample.id.sample} step {step.index}, "
            f"{step.dispute:.2f} apart (0 to 1)",
            highlight=False,
            markup=False,
        )
    if page is not None:
        console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


def _steps_table(sample: JudgedSample) -> Table:
    """One line a step; the disputed ones are bold, with how far the judges are apart."""
    first = sample.steps[0]
    table = Table("step", "apart", "text", *first.opinions, *map(truth_title, first.truths))
    for step in sample.steps:
        table.add_row(
            str(step.index),
            f"{step.dispute:.2f}" if step.dispute else "",
            Text(shown(step.text.rstrip("\n")), style="bold" if step.dispute else "dim"),
            *map(_words, _all(step)),
        )
    return table


def _all(step: JudgedStep) -> list[Opinion]:
    return [*step.opinions.values(), *step.truths.values()]


def _words(opinion: Opinion) -> Text:
    return Text(shown(opinion.words.replace("_", " ")), style=_STYLES[opinion.label])
