"""``bcpg-cluster calibrate --data``: choose lambda on files of labelled steps, which the judge is asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, UserError
from bcpg_cluster.prompts.labelled_steps import read_subsets
from bcpg_cluster_cli.judging.calibrate import Choice, FoundSteps, add_step, gives_labels, print_choice
from bcpg_cluster_cli.judging.labelled_files import (
    LabelledData,
    MakeJudge,
    ask_about_files,
    default_folder,
    say_left_out,
)
from bcpg_cluster_cli.terminal import Terminal


def check_one_source(sources: Mapping[str, object], only_with_data: Mapping[str, object]) -> None:
    """Raises :class:`UserError` for ``--data`` beside what belongs to another source of labels, or for its options without it."""
    given = [name for name, value in sources.items() if value]
    if "--data" in given and len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} were given together",
            rule="labelled steps come from one source: a run, a file with scores, or files that a judge is asked about",
            remedy="leave all but one out",
        )
    if stray := [name for name, value in only_with_data.items() if value and "--data" not in given]:
        raise UserError(
            f"{stray[0]} was given without --data",
            rule="a run has its own config, and its verdicts are stored; only --data asks a judge",
            remedy=f"leave {stray[0]} out, or name files of labelled steps with --data",
        )


def run_calibrate_on_files(
    data: Sequence[str],
    config: Config,
    make_judge: MakeJudge,
    judge: str,
    choice: Choice,
    *,
    limit: int | None = None,
    batch: int = 64,
    output: Path | None = None,
) -> None:
    """Ask a config's judge about files of labelled steps, as ``judge-eval`` does, and print the curve and the choice.

    Answers are kept where ``judge-eval`` keeps its own, so a judge that it measured is not asked again. All steps of known truth
    count, last ones too (a file may end with the step on which labelling stopped), each as one token.

    Args:
        data, limit, batch, output: as in ``judge_eval.run_judge_eval``.

    Raises:
        UserError: no such judge, one that gives labels, invalid files, nothing to calibrate on, or no fitting lambda.
        EngineError: the judge failed; what was answered is kept.
    """
    _check_scores(config, judge)
    asked = LabelledData(read_subsets(data, limit), output or default_folder(config), batch)
    say_left_out(asked, Terminal(stderr=choice.as_json))
    asked.folder.mkdir(parents=True, exist_ok=True)
    said = ask_about_files(config, judge, asked, make_judge, Terminal(stderr=choice.as_json))
    found = FoundSteps()
    for name, file in asked.files.items():
        for solution, steps in zip(file.solutions, said.by_file[name], strict=True):
            for judgement, truth in zip(steps, solution.truth, strict=True):
                add_step(found, judge, judgement, truth, 1, is_last=False)
    print_choice(judge, ", ".join(data), found, choice, {"left_out": asked.left_out()})


def _check_scores(config: Config, judge: str) -> None:
    """Raises :class:`ConfigError` for a judge that is known to give labels, before it starts."""
    if judge not in config.judges:
        raise ConfigError(
            f"config {config.name!r} has no judge {judge!r}",
            rule="judges are the sections of `judges`",
            remedy=f"one of {', '.join(config.judges)}",
        )
    if config.judges[judge].only_labels:
        raise gives_labels(judge)
