"""Asking a config's judge about files of labelled steps: what ``judge-eval`` and ``calibrate --data`` share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.labelled_steps import LabelledFile, LabelledSolution, counted
from bcpg_cluster.run.build.workforce import member_environment
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judgement
from bcpg_cluster_cli.console import counts_text
from bcpg_cluster_cli.judging.engine_log import engine_log
from bcpg_cluster_cli.judging.judge_answers import ask_judge
from bcpg_cluster_cli.terminal import Terminal

LOG = "engines.log"
_COLUMNS = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())

MakeJudge = Callable[[Config, str], Judge]
"""Builds the judge of that name of a config, ready to be asked in this process."""


@dataclass(frozen=True, slots=True)
class LabelledData:
    """Files of labelled steps, and how a judge is asked about them.

    Attributes:
        files: by name, as ``prompts.labelled_steps.read_subsets`` reads them.
        folder: where answers are kept; it exists.
        batch: solutions in one call of a judge; after each the answers are on disk.
    """

    files: Mapping[str, LabelledFile]
    folder: Path
    batch: int = 64

    def left_out(self) -> dict[str, dict[str, dict[str, int]]]:
        """What counts nowhere, by file: entries that say nothing of any step, and steps without a truth, by reason."""
        return {
            name: {"entries": dict(file.left_out), "steps": file.unknown_by_reason()}
            for name, file in self.files.items()
        }


@dataclass(frozen=True, slots=True)
class JudgeAnswers:
    """What one judge said.

    Attributes:
        by_file: of every solution of every file, a judgement a step.
        facts: about the judge and its answers, for reports.
    """

    by_file: Mapping[str, Sequence[Sequence[Judgement]]]
    facts: dict[str, Any] = field(default_factory=dict)


def default_folder(config: Config) -> Path:
    """Where answers go unless ``--output`` says otherwise."""
    return Path("runs") / f"judge-eval-{config.name}"


def say_left_out(data: LabelledData, console: Console) -> None:
    """Print what was left out of every file, by reason."""
    for name, file in data.files.items():
        if file.left_out:
            console.print(
                f"{name}: entries left out, since they say nothing of any step: {counted(file.left_out)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        if unknown := file.unknown_by_reason():
            console.print(
                f"{name}: steps of unknown truth, neither right nor wrong: {counted(unknown)}; no precision or recall counts them, "
                "and a solution with one before its first wrong step is left out of `first error`",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def ask_about_files(
    config: Config, name: str, data: LabelledData, make_judge: MakeJudge, console: Console
) -> JudgeAnswers:
    """Make a judge, ask it about every solution that ``folder`` has no answer to, and close it.

    Raises:
        EngineError: the judge failed; what was answered is kept.
        DataError: the folder has something else in the place of answers.
    """
    show_gold = config.judges[name].show_gold
    cases = {
        of_file: [case_of(solution, show_gold=show_gold) for solution in file.solutions]
        for of_file, file in data.files.items()
    }
    asked = [case for of_file in cases.values() for case in of_file]
    say_without_gold(config, name, asked, console)
    answers, facts = ask_about_cases(config, name, asked, data, make_judge, console)
    said = iter(answers)
    return JudgeAnswers({of_file: [next(said) for _ in of_cases] for of_file, of_cases in cases.items()}, facts)


def say_without_gold(config: Config, name: str, asked: Sequence[JudgeCase], console: Console) -> None:
    """Print how many solutions have no gold answer, where the judge is to see it."""
    if config.judges[name].show_gold and (without := sum(case.gold is None for case in asked)):
        console.print(
            f"{name}: {without} of {len(asked)} solutions have no gold answer to show", highlight=False, markup=False
        )


def ask_about_cases(
    config: Config,
    name: str,
    asked: Sequence[JudgeCase],
    data: LabelledData,
    make_judge: MakeJudge,
    console: Console,
) -> tuple[list[tuple[Judgement, ...]], dict[str, Any]]:
    """As :func:`ask_about_files`, about these cases: their answers, and facts about the judge and them.

    ``data`` says where answers are kept and how many cases go into one call.
    """
    settings = config.judges[name]
    with engine_console(config, name, data.folder, console) as screen:
        with screen.status(f"{name}: starting"):
            judge = make_judge(config, name)
        with closing(judge), Progress(*_COLUMNS, console=screen, transient=True) as progress:
            started, version = time.monotonic(), judge.version
            advance = partial(progress.advance, progress.add_task(name, total=len(asked)))
            path = data.folder / f"answers-{name}.jsonl"
            answers, num_asked = ask_judge(judge, name, asked, path, data.batch, advance)
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
    return answers, facts


def lost_text(judge: Mapping[str, Any]) -> str:
    """How many steps have no verdict, by status, of the facts about a judge."""
    return counts_text({status: n for status, n in judge["statuses"].items() if status != "judged"}) or "none"


def case_of(solution: LabelledSolution, *, show_gold: bool) -> JudgeCase:
    """What a judge is asked about a labelled solution."""
    return JudgeCase(solution.problem, solution.steps, solution.gold if show_gold else None)


@contextmanager
def engine_console(config: Config, name: str | None, folder: Path, console: Console) -> Iterator[Console]:
    """What to print to while a judge (or none) works: where it has an engine, that prints to a file of its own."""
    if name is None or config.judges[name].kind not in ("llm", "prm"):
        yield console
        return
    log = folder / LOG
    console.print(
        f"{name}: its engine starts; what it prints is in {log}", highlight=False, markup=False, soft_wrap=True
    )
    environment = member_environment(config, config.judge_pool(name))
    with engine_log(log, environment, stderr=console.stderr) as stream:
        yield Terminal(file=stream)
