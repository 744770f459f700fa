"""``bcpg-cluster judge-eval --stress``: what perturbed solutions do to a config's judges, alone and together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import typer

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.labelled_steps import LabelledSolution, read_subsets
from bcpg_cluster.run.build.judges import can_see_gold
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement
from bcpg_cluster.stages.judge.stress.perturbations import PERTURBATIONS, perturb
from bcpg_cluster.stages.judge.stress.perturbed import (
    Perturbed,
    Solution,
    folded_labels,
    folded_scores,
    truth_after,
)
from bcpg_cluster.stages.weigh.consensus import Abstention, ConsensusRule, vote_label
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.judge_quality import rule_labels, rule_name
from bcpg_cluster.watch.report.judge_stress import StressedSolution, stress_facts
from bcpg_cluster.watch.report.plots import stress_png
from bcpg_cluster_cli.judging.judge_eval import judges_and_rules
from bcpg_cluster_cli.judging.labelled_files import (
    LabelledData,
    MakeJudge,
    ask_about_cases,
    case_of,
    default_folder,
    say_left_out,
    say_without_gold,
)
from bcpg_cluster_cli.judging.stress_tables import print_stress
from bcpg_cluster_cli.terminal import Terminal

REPORT, PICTURE = "judge-stress.json", "judge-stress.png"

Answers = Sequence[Judgement]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A perturbed solution, with what was said of it.

    Attributes:
        before, after: by judge, its answers to the original and to the perturbed solution. A judge that the perturbation leaves
            alone (it sees the gold answer anyway, or never does) is not in ``affected``.
    """

    subset: str
    perturbation: str
    solution: LabelledSolution
    perturbed: Perturbed
    before: dict[str, Answers] = field(default_factory=dict)
    after: dict[str, Answers] = field(default_factory=dict)
    affected: set[str] = field(default_factory=set)


def run_judge_stress(
    data: Sequence[str],
    config: Config,
    make_judge: MakeJudge,
    *,
    perturbations: str | None = None,
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
    """Ask the judges about solutions and about perturbed ones, print and write what that changes; the report.

    Perturbations are drawn by ``seed`` of the config and the content of each solution. Answers are kept as ``judge-eval`` keeps
    its own, in the same place: the same command resumes, and what was asked there is not asked here.

    Args:
        perturbations: names with commas between; ``None`` for all (``stages.judge.stress.perturbations``).
        data, judges, rules, abstention, accuracies, prior, limit, batch, output: as in ``judge_eval.run_judge_eval``.

    Raises:
        ConfigError: no such perturbation, or what ``run_judge_eval`` refuses.
        DataError: invalid files.
        EngineError: a judge failed; what was answered is kept.
    """
    wanted = chosen_perturbations(perturbations)
    names, combined = judges_and_rules(config, judges, rules, abstention, accuracies, prior)
    kept = LabelledData(read_subsets(data, limit), output or default_folder(config), batch)
    say_left_out(kept, console := Terminal(stderr=as_json))
    kept.folder.mkdir(parents=True, exist_ok=True)
    asked = list(_perturbed(kept, wanted, config.seed))
    facts = {name: _ask(config, name, kept, asked, make_judge, console) for name in names}
    num_solutions = sum(len(file.solutions) for file in kept.files.values())
    overall = _measured(asked, config, names, combined, wanted)
    report = {
        "data": list(data),
        "limit": limit,
        "seed": config.seed,
        "left_out": kept.left_out(),
        "num_solutions": num_solutions,
        "judges": facts,
        "rules": [asdict(rule) for rule in combined],
        "perturbations": _drawn(asked, wanted, num_solutions),
        "subsets": {
            subset: _measured([one for one in asked if one.subset == subset], config, names, combined, wanted)
            for subset in kept.files
        },
        "overall": overall,
    }
    write_whole(kept.folder / REPORT, json.dumps(report, indent=2).encode())
    write_whole(kept.folder / PICTURE, stress_png(overall))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_stress(console, report, [kept.folder / REPORT, kept.folder / PICTURE])
    return report


def check_stress(is_asked: bool, perturbations: str | None, segmenters: str | None, tokenizer: str | None) -> None:
    """Raises ``ConfigError`` for perturbations without ``--stress``, and for segmenters or their tokenizer with it."""
    if is_asked and (segmenters is not None or tokenizer is not None):
        other = f"--tokenizer {tokenizer!r}" if segmenters is None else f"--segmenters {segmenters!r}"
        raise ConfigError(
            f"{other} with --stress",
            rule="one compares judges over other steps, the other over the same steps perturbed",
            remedy="ask for one of the two; answers that both need are kept",
        )
    if perturbations is not None and not is_asked:
        raise ConfigError(
            f"--perturbations {perturbations!r} without --stress",
            rule="perturbations belong to judge-eval --stress",
            remedy="add --stress, or leave --perturbations out",
        )


def chosen_perturbations(names: str | None) -> list[str]:
    """The perturbations of ``a,b``, each once; all for ``None``.

    Raises:
        ConfigError: one is unknown, or none is named.
    """
    if names is None:
        return list(PERTURBATIONS)
    wanted = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in PERTURBATIONS]
    if unknown or not wanted:
        raise ConfigError(
            f"--perturbations {names!r}"
            + (f": there is no {', '.join(map(repr, unknown))}" if unknown else " names none"),
            rule="perturbations are named, with commas between",
            remedy=f"some of: {','.join(PERTURBATIONS)}",
        )
    return wanted


def _perturbed(data: LabelledData, wanted: Sequence[str], seed: int) -> Iterator[_Asked]:
    """Every solution under every perturbation that it has the needed thing for, perturbation by perturbation."""
    of_files = [(name, solution) for name, file in data.files.items() for solution in file.solutions]
    for perturbation, (subset, labelled) in product(wanted, of_files):
        solution = Solution(labelled.problem, labelled.steps, labelled.truth, labelled.gold)
        made = perturb(perturbation, solution, seed)
        if made is not None:
            yield _Asked(subset, perturbation, labelled, made)


def _ask(
    config: Config,
    name: str,
    data: LabelledData,
    asked: Sequence[_Asked],
    make_judge: MakeJudge,
    console: Terminal,
) -> dict[str, Any]:
    """Ask one judge about all of it, the originals first, and put its answers where they belong; facts about them."""
    show_gold = config.judges[name].show_gold
    originals = [case_of(solution, show_gold=show_gold) for file in data.files.values() for solution in file.solutions]
    say_without_gold(config, name, originals, console)
    sees_gold = can_see_gold(config.judges[name])
    cases = [*originals, *(_case_after(one, show_gold=show_gold, sees_gold=sees_gold) for one in asked)]
    answers, facts = ask_about_cases(config, name, cases, data, make_judge, console)
    said = dict(zip(cases, answers, strict=True))
    for one, case in zip(asked, cases[len(originals) :], strict=True):
        before = case_of(one.solution, show_gold=show_gold)
        one.before[name], one.after[name] = said[before], said[case]
        if case != before:
            one.affected.add(name)
    return facts


def _case_after(one: _Asked, *, show_gold: bool, sees_gold: bool) -> JudgeCase:
    is_turned_round = sees_gold and one.perturbed.shows_gold is not None
    shows_gold = one.perturbed.shows_gold if is_turned_round else show_gold
    return JudgeCase(one.solution.problem, one.perturbed.steps, one.solution.gold if shows_gold else None)


# --- what came of it


def _drawn(asked: Sequence[_Asked], wanted: Sequence[str], num_solutions: int) -> dict[str, Any]:
    """Of every perturbation, how many solutions it applies to, and what the others lack."""
    counts = {name: sum(one.perturbation == name for one in asked) for name in wanted}
    return {
        name: {
            "num_solutions": count,
            "num_skipped": num_solutions - count,
            "needs": PERTURBATIONS[name].needs,
            "num_left_alone": {
                judge: alone
                for judge in sorted({judge for one in asked for judge in one.before})
                if (alone := sum(one.perturbation == name and judge not in one.affected for one in asked))
            },
        }
        for name, count in counts.items()
    }


def _measured(
    asked: Sequence[_Asked],
    config: Config,
    names: Sequence[str],
    rules: Sequence[ConsensusRule],
    wanted: Sequence[str],
) -> dict[str, Any]:
    """By judge, and by rule, what every perturbation that applies does."""
    by_name = {name: [one for one in asked if one.perturbation == name] for name in wanted}
    return {
        "judges": {
            judge: {
                name: stress_facts(
                    [_of_judge(one, config, judge) for one in some if judge in one.affected], config.seed
                )
                for name, some in by_name.items()
            }
            for judge in names
        },
        "rules": {
            rule_name(rule): {
                name: stress_facts([_of_rule(one, config, rule) for one in some if one.affected], config.seed)
                for name, some in by_name.items()
            }
            for rule in rules
        },
    }


def _of_judge(one: _Asked, config: Config, judge: str) -> StressedSolution:
    before, after = one.before[judge], one.after[judge]
    scores: Mapping[str, Any] = {}
    if any(step.score is not None for step in (*before, *after)):
        scores = {
            "scores_before": [step.score for step in before],
            "scores_after": folded_scores([step.score for step in after], one.perturbed),
        }
    return _stressed(one, _labels(config, judge, before), _labels(config, judge, after), **scores)


def _of_rule(one: _Asked, config: Config, rule: ConsensusRule) -> StressedSolution:
    before, after = (
        rule_labels({judge: [_labels(config, judge, steps)] for judge, steps in said.items()}, rule)[0]
        for said in (one.before, one.after)
    )
    return _stressed(one, before, after)


def _labels(config: Config, judge: str, steps: Answers) -> list[int | None]:
    return [vote_label(step, config.judges[judge].threshold) for step in steps]


def _stressed(
    one: _Asked, before: Sequence[int | None], after: Sequence[int | None], **scores: Sequence[float | None]
) -> StressedSolution:
    made, changed = one.perturbed, truth_after(one.solution.truth, one.perturbed)
    return StressedSolution(made.effects, one.solution.truth, changed, before, folded_labels(after, made), **scores)
