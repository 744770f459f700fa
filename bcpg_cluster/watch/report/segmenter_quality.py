"""What the choice of a segmenter does to judges: precision and recall on its steps, and how much of wrong solutions is mined."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.prompts.other_steps import Recut
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.watch.report.judge_quality import Labels, evaluation, rule_labels, rule_name


def segmenter_quality(
    subsets: Mapping[str, Sequence[Recut]],
    labels: Mapping[str, Mapping[str, Sequence[Labels]]],
    rules: Sequence[ConsensusRule],
    is_wrong: Mapping[str, Sequence[bool]],
) -> dict[str, Any]:
    """One segmenter, over all subsets.

    Args:
        subsets: its steps of every solution, by subset.
        labels: by subset and judge, the labels of every solution.
        rules: how the judges are combined.
        is_wrong: by subset, whether a solution has a step that is labelled wrong in the file: these are what a run would mine.

    Returns:
        ``num_steps``, ``num_unknown`` (steps of unknown truth), ``num_recomputed`` (solutions whose truth is not the labels'),
        ``tokens_per_step`` (least, median, most), ``subsets`` and ``overall`` as :func:`judge_quality.evaluation` has them, and
        ``mined``: of the wrong solutions the share of ``steps`` and of ``tokens`` that each of ``judges`` and ``rules`` calls
        right, and ``right``, that are right; ``None`` without a wrong solution.
    """
    of_all = [one for some in subsets.values() for one in some]
    sizes = [size for one in of_all for size in one.num_tokens]
    wrong = [flag for name in subsets for flag in is_wrong[name]]
    said: dict[str, dict[str, list[Labels]]] = {"judges": {}, "rules": {}}
    for name in subsets:
        combined = {rule_name(rule): rule_labels(labels[name], rule) for rule in rules}
        for kind, named in (("judges", labels[name]), ("rules", combined)):
            for who, of_subset in named.items():
                said[kind].setdefault(who, []).extend(of_subset)
    mined: dict[str, Any] = {
        kind: {who: _mined(of_all, everything, wrong) for who, everything in named.items()}
        for kind, named in said.items()
    }
    mined["right"] = _mined(of_all, [one.solution.truth for one in of_all], wrong)
    solutions = {name: [one.solution for one in some] for name, some in subsets.items()}
    return {
        "num_steps": len(sizes),
        "num_unknown": sum(true is None for one in of_all for true in one.solution.truth),
        "num_recomputed": sum(one.is_recomputed for one in of_all),
        "tokens_per_step": [min(sizes), statistics.median(sizes), max(sizes)] if sizes else None,
        **evaluation(solutions, labels, rules),
        "mined": mined,
    }


def _mined(solutions: Sequence[Recut], labels: Sequence[Labels], wrong: Sequence[bool]) -> dict[str, float | None]:
    """Shares of steps and tokens of the wrong solutions whose label is 1."""
    pairs = [
        (size, label)
        for one, of_solution, flag in zip(solutions, labels, wrong, strict=True)
        if flag
        for size, label in zip(one.num_tokens, of_solution, strict=True)
    ]
    tokens = sum(size for size, _ in pairs)
    return {
        "steps": sum(label == 1 for _, label in pairs) / len(pairs) if pairs else None,
        "tokens": sum(size for size, label in pairs if label == 1) / tokens if tokens else None,
    }
