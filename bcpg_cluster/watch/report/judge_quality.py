"""How good judges and consensus rules are, where the truth about steps is known, and how far judges agree.

Plain data out, the same after a way through JSON. Numbers come from ``watch.report.accuracy`` and ``watch.report.step_quality``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain, combinations
from typing import Any

from bcpg_cluster.prompts.labelled_steps import LabelledSolution
from bcpg_cluster.prompts.step_truth import first_error
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.watch.report.accuracy import agreement, cohens_kappa, label_quality
from bcpg_cluster.watch.report.step_quality import FirstErrorScore, first_error_score, mean_f1

Labels = Sequence[int | None]
"""Of the steps of one solution: 1 right, 0 wrong, ``None`` where the judge abstained."""


def rule_name(rule: ConsensusRule) -> str:
    """How a rule is called in a report: ``k_of_n`` with its k, and what it does with abstentions where it leaves them out."""
    name = rule.name if rule.num_needed is None else f"{rule.name}:{rule.num_needed}"
    return name if rule.abstention == "against" else f"{name}, left_out"


def rule_labels(labels: Mapping[str, Sequence[Labels]], rule: ConsensusRule) -> list[list[int | None]]:
    """What the judges together say of every step of every solution; ``None`` where only abstentions decide.

    Raises:
        ValueError: judges that the rule cannot decide with, or that answered for different steps.
    """
    rule.check_judges(labels)
    return [
        [rule.opinion(dict(zip(labels, votes, strict=True))) for votes in zip(*of_solution, strict=True)]
        for of_solution in zip(*labels.values(), strict=True)
    ]


def truth_quality(labels: Labels, truth: Labels, counts: Sequence[int] | None = None) -> dict[str, Any]:
    """One judge against the truth, over the steps whose truth is known. Shares are ``None`` without a denominator.

    Args:
        counts: how many steps each place stands for; one by default.

    Returns:
        ``precision``, ``recall``, ``f1``: of the label "right", as for mining (an abstention is no such label).
        ``accuracy``, ``kappa``: over the steps the judge answered for.
        ``accuracy_for_weights``: for the rule ``weighted``, the mean of (hits + 1) / (answered + 2) over right and over wrong
        steps. Never 0 or 1; and 0.5 for a judge that always says the same, whose plain accuracy is the share of right steps.
    """
    numbers = [1] * len(labels) if counts is None else counts
    known = [
        (label, true, number) for label, true, number in zip(labels, truth, numbers, strict=True) if true is not None
    ]
    said, true = [label for label, _, _ in known], [true for _, true, _ in known]
    weights = [number for _, _, number in known]
    quality = label_quality(said, true, weights)
    answered = [found for found in known if found[0] is not None]
    smoothed = []
    for value in (0, 1):
        of_kind = [(label, number) for label, true_one, number in answered if true_one == value]
        hits = sum(number for label, number in of_kind if label == value)
        smoothed.append((hits + 1) / (sum(number for _, number in of_kind) + 2))
    num_answered = sum(number for _, _, number in answered)
    return {
        "num_steps": sum(weights),
        "num_abstained": sum(weights) - num_answered,
        "precision": quality.precision,
        "recall": quality.recall,
        "f1": quality.f1,
        "labelled_share": quality.labelled_share,
        "true_share": quality.true_share,
        "accuracy": agreement(said, true, weights),
        "accuracy_for_weights": sum(smoothed) / 2,
        "kappa": cohens_kappa(said, true, weights),
    }


def pair_quality(labels: Mapping[str, Labels], counts: Sequence[int] | None = None) -> dict[str, dict[str, Any]]:
    """Every two judges against each other, as ``first+second``, over the steps both answered for.

    Args:
        counts: how many steps each place stands for; one by default.
    """
    found = {}
    for (first, a), (second, b) in combinations(labels.items(), 2):
        numbers = [1] * len(a) if counts is None else counts
        both = [(x, y, number) for x, y, number in zip(a, b, numbers, strict=True) if x is not None and y is not None]
        found[f"{first}+{second}"] = {
            "num_steps": sum(number for _, _, number in both),
            "num_disputed": sum(number for x, y, number in both if x != y),
            "agreement": agreement(a, b, numbers),
            "kappa": cohens_kappa(a, b, numbers),
        }
    return found


def first_error_quality(solutions: Sequence[LabelledSolution], labels: Sequence[Labels]) -> FirstErrorScore:
    """ProcessBench's score over the solutions whose first wrong step is known.

    Raises:
        ValueError: not one list of labels a solution, or not one label a step.
    """
    predicted, truth = [], []
    for solution, said in zip(solutions, labels, strict=True):
        if len(said) != len(solution.steps):
            raise ValueError(f"{solution.solution_id}: {len(said)} labels for {len(solution.steps)} steps")
        if solution.first_wrong is not None:
            predicted.append(first_error(said))
            truth.append(solution.first_wrong)
    return first_error_score(predicted, truth)


def evaluation(
    subsets: Mapping[str, Sequence[LabelledSolution]],
    labels: Mapping[str, Mapping[str, Sequence[Labels]]],
    rules: Sequence[ConsensusRule],
) -> dict[str, Any]:
    """Every judge and every rule on every subset.

    Args:
        subsets: the solutions, by subset.
        labels: by subset and judge, the labels of every solution.
        rules: how the judges are combined; none leaves ``rules`` empty.

    Returns:
        ``subsets``: by name, ``num_solutions``, ``num_steps``, and ``judges`` and ``rules`` by name, each with
        ``first_error`` (ProcessBench) and ``steps`` (:func:`truth_quality`), and ``pairs``.
        ``overall``: ``judges`` and ``rules`` by name, each with ``mean_f1`` (ProcessBench's F1 averaged over the subsets;
        ``None`` where one has no F1) and ``steps`` over all subsets together; ``pairs`` likewise.
    """
    scores: dict[str, dict[str, list[FirstErrorScore]]] = {"judges": {}, "rules": {}}
    joined: dict[str, dict[str, list[int | None]]] = {"judges": {}, "rules": {}}
    truth: list[int | None] = []
    of_subsets: dict[str, Any] = {}
    for subset, solutions in subsets.items():
        of_rules = {rule_name(rule): rule_labels(labels[subset], rule) for rule in rules}
        of_truth = [*chain.from_iterable(solution.truth for solution in solutions)]
        truth += of_truth
        facts: dict[str, Any] = {"num_solutions": len(solutions), "num_steps": len(of_truth)}
        for kind, named in (("judges", labels[subset]), ("rules", of_rules)):
            facts[kind] = {}
            for name, said in named.items():
                score, flat = first_error_quality(solutions, said), [*chain.from_iterable(said)]
                facts[kind][name] = {"first_error": asdict(score), "steps": truth_quality(flat, of_truth)}
                scores[kind].setdefault(name, []).append(score)
                joined[kind].setdefault(name, []).extend(flat)
        facts["pairs"] = pair_quality({name: [*chain.from_iterable(said)] for name, said in labels[subset].items()})
        of_subsets[subset] = facts
    overall: dict[str, Any] = {
        kind: {
            name: {"mean_f1": mean_f1(scores[kind][name]), "steps": truth_quality(flat, truth)}
            for name, flat in joined[kind].items()
        }
        for kind in joined
    }
    return {"subsets": of_subsets, "overall": {**overall, "pairs": pair_quality(joined["judges"])}}
