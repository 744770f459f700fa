"""``bcpg-cluster judge-eval --segmenters``: what the choice of a segmenter does to judges, on solutions with labelled steps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import parse_config, read_yaml
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.labelled_steps import LabelledFile, LabelledSolution, read_subsets
from bcpg_cluster.prompts.other_steps import KnownTruth, Recut, Truth, recut, solution_text
from bcpg_cluster.stages.judge.protocol import JudgeCase
from bcpg_cluster.stages.judge.task_truth import TaskTruth
from bcpg_cluster.stages.segment.protocol import SampledResponse
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, vote_label
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.judge_quality import Labels
from bcpg_cluster.watch.report.segmenter_quality import segmenter_quality
from bcpg_cluster_cli.console import fallback_text, percent
from bcpg_cluster_cli.judging.labelled_files import (
    LabelledData,
    MakeJudge,
    ask_about_files,
    default_folder,
    engine_console,
    say_left_out,
)
from bcpg_cluster_cli.judging.own_segmenter import own_segmenter
from bcpg_cluster_cli.judging.segment_text import tokenizer_pieces, word_pieces
from bcpg_cluster_cli.terminal import Terminal

REPORT: Final = "judge-eval-segmenters.json"
LABELLED: Final = "labelled"
"""The name of the file's own steps."""
_TRUTHS: Final = {"sums_truth": "sums", "chain_truth": "chain"}
_COMMA: Final = re.compile(r"\s*,(?![^\[]*\])\s*")  # not inside a list
_OPTION: Final = re.compile(r":(?=\w+=)")
Tokens = Callable[[str], Sequence[str]]
Cuts = Mapping[str, Sequence[Recut]]


def run_compare_segmenters(
    data: Sequence[str],
    config: Config,
    make_judge: MakeJudge,
    segmenters: str,
    *,
    judges: Sequence[str],
    rules: Sequence[ConsensusRule],
    tokenizer: str | None = None,
    limit: int | None = None,
    batch: int = 64,
    output: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Cut every solution by every segmenter, ask the judges about all of it, and print and write what came of it; the report.

    Each judge is made once. Answers are kept in ``output`` as those of `judge-eval` are, by what was asked, so steps that two
    segmenters share are asked about once, and another command asks about nothing again.

    Args:
        segmenters: with commas between them, ``labelled`` for the file's own steps, or a kind with options of the section
            `segment`: ``fixed``, ``fixed:fixed_tokens=32``; see :func:`segmenter_config`.
        judges: names in the config.
        rules: how they are combined.
        tokenizer: counts tokens; without one words stand for them.

    Raises:
        ConfigError: an unknown or invalid segmenter, or one that reads what labelled solutions lack.
        DataError: invalid files, or a tokenizer that cannot give a solution back.
        EngineError: a judge failed; what was answered is kept.
    """
    chosen = {spec: segmenter_config(config, spec) for spec in dict.fromkeys(_COMMA.split(segmenters))}
    files = read_subsets(data, limit)
    asked = LabelledData(files, output or default_folder(config), batch)
    say_left_out(asked, console := Terminal(stderr=as_json))
    asked.folder.mkdir(parents=True, exist_ok=True)
    tokens: Tokens = word_pieces if tokenizer is None else partial(tokenizer_pieces, model=resolve_asset(tokenizer))
    known = _known_truth(config, judges)
    cuts: dict[str, Cuts] = {}
    counts: dict[str, Mapping[str, float]] = {}
    for spec, of_spec in chosen.items():
        cuts[spec], counts[spec] = _cut(of_spec, files, tokens, known, asked.folder, make_judge, console)
    facts, labels = _ask(config, judges, cuts, asked, make_judge, console)
    wrong = {name: [0 in solution.truth for solution in file.solutions] for name, file in files.items()}
    report = {
        "data": list(data),
        "limit": limit,
        "tokenizer": tokenizer,
        "left_out": asked.left_out(),
        "judges": facts,
        "rules": [asdict(rule) for rule in rules],
        "segmenters": {
            spec: {**segmenter_quality(cuts[spec], labels[spec], rules, wrong), "counts": dict(counts[spec])}
            for spec in chosen
        },
    }
    write_whole(asked.folder / REPORT, json.dumps(report, indent=2).encode())
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(console, report, asked.folder / REPORT)
    return report


def segmenter_config(config: Config, spec: str) -> Config | None:
    """The config with its section `segment` as ``spec`` says; ``None`` for the file's own steps.

    Another kind than the config's keeps the section's sizes and cues, and none of what only its own kind takes.

    Raises:
        ConfigError: no such kind, or invalid options.
    """
    kind, *options = _OPTION.split(spec)
    if spec == LABELLED:
        return None
    section = config.segment.model_dump(mode="json")
    if kind != config.segment.kind:
        section |= {"kind": kind, "judge": None, "class_": None, "class_digest": None, "options": {}}
        section["model"] = None if kind != "sat" else section["model"]
    for option in options:
        key, _, value = option.partition("=")
        section[key] = read_yaml(value)
    try:
        return parse_config({**config.model_dump(mode="json"), "segment": section}, f"--segmenters {spec}")
    except ConfigError as error:
        raise ConfigError(
            f"--segmenters {spec}: {error.problem}",
            rule=f"a segmenter is {LABELLED} (the file's own steps) or KIND[:KEY=VALUE...] with keys of the section segment",
            remedy="for example: --segmenters labelled,structural,delimiter:merge=false,fixed:fixed_tokens=32",
        ) from None


def _known_truth(config: Config, judges: Sequence[str]) -> KnownTruth:
    """What an embedded task says of steps, where the config has a judge that knows its truth, by the judges' own rule."""
    tasks = [_TRUTHS[judge.kind] for judge in config.judges.values() if judge.kind in _TRUTHS]
    truths = [TaskTruth(task, config.judges[judges[0]].rule) for task in dict.fromkeys(tasks)]  # type: ignore[arg-type]

    def known(solution: LabelledSolution) -> Truth | None:
        for truth in truths:
            (said,) = truth.judge([JudgeCase(solution.problem, solution.steps)]).judgements
            if all(judgement.label is not None for judgement in said):
                return [judgement.label for judgement in said]
        return None

    return known


def _cut(
    config: Config | None,
    files: Mapping[str, LabelledFile],
    tokens: Tokens,
    known: KnownTruth,
    folder: Path,
    make_judge: MakeJudge,
    console: Console,
) -> tuple[Cuts, Mapping[str, float]]:
    """Every solution of every file in the steps of one segmenter, and what that took."""
    solutions = [solution for file in files.values() for solution in file.solutions]
    if config is None:
        done = iter([_as_labelled(solution, tokens) for solution in solutions])
        return {name: [next(done) for _ in file.solutions] for name, file in files.items()}, {}
    texts = [SampledResponse(tokens(solution_text(solution.steps)[0])) for solution in solutions]
    with engine_console(config, config.segment.judge, folder, console), own_segmenter(config, make_judge) as segmenter:
        found = segmenter.cut(texts)
    cut = iter([recut(solution, steps, known) for solution, steps in zip(solutions, found.steps, strict=True)])
    return {name: [next(cut) for _ in file.solutions] for name, file in files.items()}, found.counts


def _as_labelled(solution: LabelledSolution, tokens: Tokens) -> Recut:
    return Recut(solution, tuple(len(tokens(step)) for step in solution.steps))


def _ask(
    config: Config,
    judges: Sequence[str],
    cuts: Mapping[str, Cuts],
    asked: LabelledData,
    make_judge: MakeJudge,
    console: Console,
) -> tuple[dict[str, Any], dict[str, dict[str, dict[str, Sequence[Labels]]]]]:
    """Facts about every judge, and its labels by segmenter, file and judge."""
    places = {f"{spec}/{name}": (spec, name) for spec, of_spec in cuts.items() for name in of_spec}
    every = {
        place: LabelledFile(tuple(one.solution for one in cuts[spec][name])) for place, (spec, name) in places.items()
    }
    labels: dict[str, dict[str, dict[str, Sequence[Labels]]]] = {
        spec: {name: {} for name in of_spec} for spec, of_spec in cuts.items()
    }
    facts: dict[str, Any] = {}
    for judge in judges:
        said = ask_about_files(config, judge, LabelledData(every, asked.folder, asked.batch), make_judge, console)
        facts[judge], threshold = said.facts, config.judges[judge].threshold
        for place, (spec, name) in places.items():
            labels[spec][name][judge] = [[vote_label(step, threshold) for step in of] for of in said.by_file[place]]
    return facts, labels


# --- printing


def _print(console: Console, report: Mapping[str, Any], path: Path) -> None:
    unit = "words" if report["tokenizer"] is None else "tokens"
    table = Table(
        Column("", overflow="fold", min_width=17),
        *("steps", f"{unit}, median", "right", "precision", "recall", "mined steps", f"mined {unit}"),
        title="precision and recall on steps of known truth; mined: called right, of the solutions with a wrong step",
        title_justify="left",
    )
    for spec, facts in report["segmenters"].items():
        steps = next(iter(facts["overall"]["judges"].values()))["steps"]
        sizes = facts["tokens_per_step"]
        table.add_row(
            Text(spec, style="bold"), str(facts["num_steps"]), f"{sizes[1]:g}" if sizes else "-",
            percent(steps["true_share"]), "", "", "", "",
        )  # fmt: skip
        table.add_row("  a perfect judge", "", "", "", "", "", *_shares(facts["mined"]["right"]))
        for kind in ("judges", "rules"):
            for name, of_name in facts["overall"][kind].items():
                quality = of_name["steps"]
                table.add_row(
                    f"  {name}", "", "", "", *(percent(quality[key]) for key in ("precision", "recall")),
                    *_shares(facts["mined"][kind][name]),
                )  # fmt: skip
        table.add_section()
    console.print(table)
    for spec, facts in report["segmenters"].items():
        for line in _notes(facts):
            console.print(f"{spec}: {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def _shares(mined: Mapping[str, float | None]) -> list[str]:
    return [percent(mined[unit]) for unit in ("steps", "tokens")]


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = []
    if facts["num_unknown"]:
        notes.append(f"{facts['num_unknown']} steps of unknown truth count nowhere but in the mined share")
    if facts["num_recomputed"]:
        notes.append(
            f"the truth of {facts['num_recomputed']} solutions is the embedded task's own, of these very steps"
        )
    if lost := fallback_text(facts["counts"]):
        notes.append(f"cut by structure instead: {lost}")
    return notes
