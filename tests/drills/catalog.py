"""Every drill there is, and a seeded choice of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from tests.drills.records import Blow, Drill, Moment

PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SIGNALS: tuple[Blow, ...] = ("kill", "stop", "stop and continue")
_AT_WORK = {  # in which stages the members of a pool have something to do
    "rollout": ("evaluate", "generate", "push"),
    "cpu": ("verify", "segment", "weigh", "verify_evaluation"),
    "judge.llm": ("judge.llm",),
    "judge.second": ("judge.second",),
    "prm": ("judge.prm",),
    "trainer": ("train", "push"),
}
STAGES = tuple(dict.fromkeys(stage for stages in _AT_WORK.values() for stage in stages))


def member_drills() -> list[Drill]:
    """Every pool in every stage, at work or idle: ``stop`` of an idle member must be seen too."""
    return [
        Drill("process", pool, signal, Moment(1, stage, part))
        for pool, stage, signal, part in product(_AT_WORK, STAGES, _SIGNALS, PARTS)
    ]


def driver_drills() -> list[Drill]:
    """The driver, in every stage; stopped, it has no deadline: what continues it is a person."""
    signals: tuple[Blow, ...] = ("kill", "stop and continue")
    return [
        Drill("process", "driver", signal, Moment(1, stage, part))
        for stage, signal, part in product(STAGES, signals, PARTS)
    ]


def cluster_drills() -> list[Drill]:
    """The processes of Ray itself, each in a cluster of its own."""
    return [
        Drill("process", target, "kill", Moment(1, stage, 0.5)) for target, stage in product(("raylet", "gcs"), STAGES)
    ]


def link_drills() -> list[Drill]:
    """The host of every pool, while its members are at work: cut off for less than their deadline, for longer, and until Ray has
    given the node up.
    """
    cuts: tuple[Blow, ...] = ("short cut", "long cut", "cut off")
    return [
        Drill("link", pool, cut, Moment(1, stage, part))
        for pool, stages in _AT_WORK.items()
        for cut, stage, part in product(cuts, stages, (0.25, 0.5, 0.75))
    ]


def store_drills() -> list[Drill]:
    """Ray's object store, full from one stage to the end."""
    return [Drill("store", "object store", "filled", Moment(1, stage, 0.0)) for stage in STAGES]


def sampled(drills: Sequence[Drill], number: int, seed: int) -> list[Drill]:
    """``number`` of them, the pools, stages and signals as even as that allows."""
    rng = random.Random(seed)
    left = list(drills)
    rng.shuffle(left)
    chosen: list[Drill] = []
    seen: dict[tuple[str, object], int] = {}

    def crowd(drill: Drill) -> int:
        return sum(seen.get(trait, 0) for trait in _traits(drill))

    while left and len(chosen) < number:
        best = min(left, key=crowd)
        left.remove(best)
        chosen.append(best)
        for trait in _traits(best):
            seen[trait] = seen.get(trait, 0) + 1
    return chosen


def _traits(drill: Drill) -> list[tuple[str, object]]:
    stage = drill.moment and drill.moment.stage
    part = drill.moment and drill.moment.part
    at_work = stage in _AT_WORK.get(drill.target, ())
    pairs = [("target", drill.target), ("blow", drill.blow), ("stage", stage), ("part", part), ("at work", at_work)]
    return [*pairs, ("target at work", (drill.target, at_work)), ("target and blow", (drill.target, drill.blow))]
