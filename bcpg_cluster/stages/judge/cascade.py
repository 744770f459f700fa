"""A cascade: a judge is asked only where the verdicts of those before it leave the consensus open. Pure.

Under ``all`` one voter that calls a step wrong decides it, under ``any`` one that calls it right; what the others say of that step
changes nothing. Under the other rules no single vote decides, so no step could be left out for sure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, vote_label

DECIDING_LABEL: Final[Mapping[str, int]] = {"all": 0, "any": 1}
"""By rule of the consensus, the label with which a single voter decides a step."""


def wanted_steps(
    earlier: Mapping[str, Sequence[Verdict]], thresholds: Mapping[str, float], rule: ConsensusRule, num_steps: int
) -> frozenset[int]:
    """The steps of a response on which a later judge's answer can still change what is mined.

    The last step is never mined. A step on which an earlier judge failed to give a verdict stays wanted, and so does one that it
    declined where that is left out of the count: the later judge alone decides it then. Where what is declined counts against the
    step, it is as one called wrong.

    Args:
        earlier: by judge, a verdict a step.
        thresholds: lambda by judge, for those that score.

    Raises:
        ValueError: no single vote decides under ``rule``, or a judge has other than a verdict a step.
    """
    if rule.name not in DECIDING_LABEL:
        raise ValueError(f"no single vote decides under the rule {rule.name!r}")
    if wrong := {name: len(said) for name, said in earlier.items() if len(said) != num_steps}:
        raise ValueError(f"{num_steps} steps and {wrong} verdicts")
    return frozenset(
        step
        for step in range(num_steps - 1)
        if not any(_decides(said[step], thresholds.get(name), rule) for name, said in earlier.items())
    )


def _decides(verdict: Verdict, threshold: float | None, rule: ConsensusRule) -> bool:
    """Whether the step needs no further vote. A judge that was not asked about it had that from one before it."""
    if verdict.status is VerdictStatus.NOT_ASKED:
        return True
    is_against = verdict.status is VerdictStatus.REFUSED and rule.abstention == "against"
    return (0 if is_against else vote_label(verdict, threshold)) == DECIDING_LABEL[rule.name]


def in_order(after: Mapping[str, Sequence[str]]) -> list[str]:
    """The judges so that each comes after those it waits for; otherwise in the order given.

    Args:
        after: by judge, those that are asked before it.

    Raises:
        ValueError: they wait for each other.
    """
    ordered: list[str] = []
    while len(ordered) < len(after):
        ready = [name for name in after if name not in ordered and set(after[name]) <= set(ordered)]
        if not ready:
            waiting = [name for name in after if name not in ordered]
            raise ValueError(f"the judges {', '.join(waiting)} wait for each other (judges.*.after)")
        ordered.append(ready[0])
    return ordered


def check_cascade(after: Mapping[str, Sequence[str]], voters: Collection[str], rule: ConsensusRule) -> None:
    """Check that each judge waits only for voters whose word can decide.

    Args:
        after: by judge, those that are asked before it; empty for most.

    Raises:
        ValueError: says what is wrong, and with which judge.
    """
    for name, earlier in after.items():
        if not earlier:
            continue
        here = f"judges.{name}.after"
        unknown = [other for other in earlier if other not in after]
        if unknown:
            known = ", ".join(other for other in after if other != name)
            raise ValueError(f"{here} names {', '.join(unknown)}; the other judges here are {known or 'none'}")
        if name in earlier:
            raise ValueError(f"{here} names the judge itself")
        if name not in voters:
            raise ValueError(
                f"{here}: only a judge with role 'vote' can come after another; one that measures is compared on all steps, and a "
                "spare one's verdicts are for a later weighing that may need any of them"
            )
        silent = [other for other in earlier if other not in voters]
        if silent:
            raise ValueError(
                f"{here} names {', '.join(silent)}, without a vote: only a vote can decide a step beforehand"
            )
        if rule.name not in DECIDING_LABEL:
            raise ValueError(
                f"{here} is {', '.join(earlier)}, but weigh.rule is {rule.name!r}: no single vote decides a step there, so the "
                "labels would depend on the order of the judges. Cascades go with "
                f"{' and '.join(DECIDING_LABEL)}; set weigh.rule to one of them, or {here}: []"
            )
    in_order(after)
