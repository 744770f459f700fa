"""``bcpg-cluster calibrate``: choose lambda (``judges.<name>.threshold``) of a judge that scores, on labelled steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, UserError
from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.stages.judge.protocol import Judgement
from bcpg_cluster.stages.weigh.consensus import vote_label
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import steps_from, verdicts_from
from bcpg_cluster.store.shards import shard_by_shard
from bcpg_cluster.watch.report.calibration import (
    CalibrationPoint,
    LabelledStep,
    calibration_curve,
    choose_by_f1,
    choose_by_precision,
    thin_curve,
)
from bcpg_cluster_cli.console import percent
from bcpg_cluster_cli.judging.hand_labels import read_hand_labels
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal


@dataclass
class FoundSteps:
    """The steps that can be used, and how many cannot.

    Attributes:
        unscored: steps for which the judge has no score (a status); they are never mined.
        not_asked: steps it was not asked about, since judges before it had decided them (``judges.*.after``).
        unlabelled: scored steps of which the other judge says nothing.
        last: last steps of their responses, which are never mined, whatever their score.
    """

    steps: list[LabelledStep] = field(default_factory=list)
    unscored: int = 0
    unlabelled: int = 0
    last: int = 0
    not_asked: int = 0

    def counts(self) -> dict[str, int]:
        """For reports: steps used, the right ones of them, and those left out by reason."""
        right = sum(step.is_right for step in self.steps)
        left_out = {"unscored": self.unscored, "unlabelled": self.unlabelled, "last": self.last}
        if self.not_asked:
            left_out["not_asked"] = self.not_asked
        return {"used": len(self.steps), "right": right, **left_out}


@dataclass(frozen=True, slots=True)
class Choice:
    """How lambda is chosen and shown.

    Attributes:
        precision: choose the lambda with the most recall at this precision or more; the best F1 by default.
        min_mined: lambdas that mine fewer steps are not chosen.
        points: about how many lambdas are printed.
    """

    precision: float | None = None
    min_mined: int = 20
    points: int = 21
    as_json: bool = False


def run_calibrate(
    run_dir: str | RunPath | None,
    judge: str,
    *,
    measure: str | None = None,
    labels: Path | None = None,
    rounds: Sequence[int] | None = None,
    precision: float | None = None,
    min_mined: int = 20,
    points: int = 21,
    as_json: bool = False,
) -> None:
    """Print the curve over lambda and the chosen value.

    Args:
        run_dir: where verdicts are read from; the newest run by default. Not read with ``labels``.
        judge: the judge that scores.
        measure: the judge taken for the truth; by default the run's only one with role ``measure``.
        labels: a JSONL file instead of a run: ``score`` in [0, 1], ``label`` 0 or 1, ``tokens`` (1 by default) a line; or the
            labels that a person gave in `bcpg-cluster view`.
        rounds: which rounds of the run; all by default.
        precision: choose the lambda with the most recall at this precision or more; the best F1 by default.
        min_mined: lambdas that mine fewer steps are not chosen.
        points: about how many lambdas are printed.

    Raises:
        UserError: nothing to calibrate on, or no lambda that meets the request.
    """
    if labels is not None:
        by_hand, source = read_hand_labels(labels, judge), str(labels)
        if by_hand is not None and by_hand.has_labels:
            raise gives_labels(judge)
        found = (
            FoundSteps(list(_read_labels(labels)))
            if by_hand is None
            else FoundSteps(by_hand.steps, by_hand.num_unscored, last=by_hand.num_last)
        )
    else:
        directory = find_run(run_dir)
        config = load_run_config(directory)
        measure = measure or _only_measure(config)
        found = _read_run(directory, config, judge, measure, rounds)
        source = f"{directory}, against {measure!r}"
    print_choice(judge, source, found, Choice(precision, min_mined, points, as_json))


def print_choice(
    judge: str, source: str, found: FoundSteps, choice: Choice, facts: Mapping[str, Any] | None = None
) -> None:
    """Choose a lambda and print it; ``facts`` go into the JSON."""
    if not found.steps:
        raise UserError(
            f"no step of {source} has both a score of {judge!r} and a label ({found.counts()})",
            rule="calibration needs steps that the judge scored and whose label is known",
            remedy="judge a round first, choose another measure, or give a file with --labels or --data",
        )
    curve = calibration_curve(found.steps)
    precision, min_mined = choice.precision, choice.min_mined
    chosen = choose_by_f1(curve, min_mined) if precision is None else choose_by_precision(curve, precision, min_mined)
    if chosen is None:
        raise _no_choice(curve, precision, min_mined)
    shown = thin_curve(curve, choice.points, chosen)
    if choice.as_json:
        rule = "f1" if precision is None else f"precision >= {precision:g}"
        said = {"judge": judge, "source": source, "rule": rule, "steps": found.counts(), **(facts or {})}
        print(json.dumps(said | {"chosen": asdict(chosen), "curve": [asdict(point) for point in shown]}))
        return
    _print(Terminal(), judge, source, found, shown, chosen, precision)


def gives_labels(judge: str) -> ConfigError:
    """What is raised for a judge without scores."""
    return ConfigError(
        f"{judge!r} gives labels, not scores",
        rule="only a judge that scores (a process reward model; an LLM judge that says probability or has votes) has a threshold",
        remedy=f"name the judge that scores, or set judges.{judge}.says: probability where it is an LLM judge",
    )


def _only_measure(config: Config) -> str:
    names = config.measures
    if len(names) != 1:
        raise ConfigError(
            f"this run has {len(names)} judges of role 'measure'" + (f": {', '.join(names)}" if names else ""),
            rule="one judge is taken for the truth",
            remedy=f"name it with --measure; judges: {', '.join(config.judges)}",
        )
    return names[0]


def _read_run(directory: RunPath, config: Config, judge: str, measure: str, rounds: Sequence[int] | None) -> FoundSteps:
    """Steps with the verdicts of both judges, of sealed tables."""
    for name in (judge, measure):
        if name not in config.judges:
            raise ConfigError(
                f"this run has no judge {name!r}",
                rule="judges are the sections of `judges` in the run's config.yaml",
                remedy=f"one of {', '.join(config.judges)}",
            )
    if judge == measure:
        raise ConfigError(
            f"{judge!r} cannot be calibrated against itself",
            rule="the labels come from another judge",
            remedy="name another --measure",
        )
    rules = config.judges[judge].rule, config.judges[measure].rule
    if rules[0] != rules[1]:
        raise ConfigError(
            f"{judge!r} grades steps by the rule {rules[0]!r}, {measure!r} by {rules[1]!r}",
            rule="a threshold is chosen against labels that mean what the judge means (judges.*.rule)",
            remedy=f"name a --measure of the rule {rules[0]!r}, or give labels of that rule with --labels",
        )
    state, found = read_manifest(directory), FoundSteps()
    wanted = sorted({round_ for round_, _ in state.sealed}) if rounds is None else rounds
    for round_ in wanted:
        tables = ("steps", f"verdicts.{judge}", f"verdicts.{measure}")
        if any((round_, table) not in state.sealed for table in tables):
            continue
        for of_shard in shard_by_shard(directory, {table: state.receipts(round_, table) for table in tables}):
            steps, scored, labelled = (of_shard[table] for table in tables)
            by_judge, by_measure = verdicts_from(scored), verdicts_from(labelled)
            for id_, of_sample in steps_from(steps).items():
                for index, step in enumerate(of_sample):
                    said, truth = by_judge[id_][index], by_measure[id_][index]
                    label = vote_label(truth, config.judges[measure].threshold)
                    add_step(found, judge, said, label, step.end - step.start, is_last=index == len(of_sample) - 1)
    return found


def add_step(
    found: FoundSteps, judge: str, said: Verdict | Judgement, label: int | None, num_tokens: int, *, is_last: bool
) -> None:
    """Count one step: what the judge said of it, and its true label. Raises :class:`ConfigError` for a judge that gives labels."""
    if said.label is not None:
        raise gives_labels(judge)
    if is_last:
        found.last += 1
    elif said.status is VerdictStatus.NOT_ASKED:
        found.not_asked += 1
    elif said.score is None:
        found.unscored += 1
    elif label is None:
        found.unlabelled += 1
    elif num_tokens:  # a step without tokens of its own has nothing to mine
        found.steps.append(LabelledStep(said.score, bool(label), num_tokens))


def _read_labels(path: Path) -> Iterator[LabelledStep]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} does not exist" if not path.exists() else f"{path} cannot be read: {error}"
        raise DataError(problem, rule="--labels is a JSONL file in UTF-8", remedy="correct the path") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _labelled_step(line, f"{path} line {number}")


def _labelled_step(line: str, where: str) -> LabelledStep:
    """One line of a labelled file.

    Raises:
        DataError: it is invalid.
    """
    try:
        row: Any = json.loads(line)
        score, label, tokens = row["score"], row["label"], row.get("tokens", 1)
        kinds_fit = (
            isinstance(score, int | float) and isinstance(label, int) and isinstance(tokens, int) and score is not True
        )
        holds = kinds_fit and score is not False and 0 <= score <= 1 and label in (0, 1) and tokens >= 1
    except (ValueError, TypeError, KeyError, AttributeError):
        holds = False
    if not holds:
        raise DataError(
            f"{where} is invalid: {line[:200]}",
            rule='a line is {"score": from 0 to 1, "label": 0 or 1, "tokens": a count, 1 by default}',
            remedy="fix the line",
        )
    return LabelledStep(float(score), bool(label), tokens)


def _no_choice(curve: Sequence[CalibrationPoint], precision: float | None, min_mined: int) -> UserError:
    """Why no lambda could be chosen, with the best there is."""
    known = [point for point in curve if point.precision is not None and point.num_mined >= min_mined]
    best = max(known, key=lambda point: (point.precision or 0.0, point.num_mined), default=None)
    wanted = "an F1" if precision is None else f"precision {precision:g}"
    reached = "none mines that many" if best is None else (
        f"the most precise is threshold {best.threshold:g} with precision {best.precision:.4f}, mining {best.num_mined}"
    )  # fmt: skip
    return UserError(
        f"no threshold has {wanted} with at least {min_mined} mined steps; {reached}",
        rule="a threshold is chosen among those that mine enough steps to tell",
        remedy="ask for less precision, label more steps, or lower --min-mined",
    )


def _print(
    console: Console,
    judge: str,
    source: str,
    found: FoundSteps,
    curve: Sequence[CalibrationPoint],
    chosen: CalibrationPoint,
    precision: float | None,
) -> None:
    table = Table("threshold", "precision", "(95 % above)", "recall", "F1", "mined steps", "mined tokens", title=source)
    for point in curve:
        table.add_row(
            repr(point.threshold),
            percent(point.precision),
            percent(point.precision_low),
            percent(point.recall),
            "-" if point.f1 is None else f"{point.f1:.3f}",
            f"{point.num_mined} ({percent(point.mined_share)})",
            percent(point.mined_token_share),
            style="bold green" if point is chosen else None,
        )
    console.print(table)
    counts = found.counts()
    console.print(
        f"{counts['used']} steps, {counts['right']} of them right; left out: {counts['unscored']} without a score, "
        f"{counts['unlabelled']} without a label, {counts['last']} last steps (never mined)"
        + (f", {found.not_asked} that it was not asked about (judges.*.after)" if found.not_asked else ""),
        highlight=False,
    )
    rule = "the best F1" if precision is None else f"the most recall at a precision of {precision:g} or more"
    console.print(
        f"chosen: threshold {chosen.threshold!r}, {rule}. Any from {chosen.lower!r} up to {min(chosen.upper, 1.0)!r} "
        "labels these steps the same.",
        highlight=False,
    )
    console.print(
        f"Scores are kept raw, so {judge} does not run again: --set judges.{judge}.threshold={chosen.threshold!r} on the next "
        f"run, or `bcpg-cluster stage weigh --round N --set judges.{judge}.threshold={chosen.threshold!r}` on this one.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
