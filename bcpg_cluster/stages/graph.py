"""Which stage reads and writes what, and which pool runs it. The data flow of a round, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPU_POOL = "cpu"
ROLLOUT_POOL = "rollout"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A map stage: shard k of ``output`` is made of the shards k of ``inputs``, as soon as those are there.

    Attributes:
        units: the input whose units (prompts, samples) can be worked on by themselves; ``None`` where a shard is one piece,
            since the rows of a group decide about one another.
    """

    name: str
    pool: str
    inputs: tuple[str, ...]
    output: str
    units: str | None = None


def data_stages(
    judge_pools: Mapping[str, str],
    judged_after: Mapping[str, Sequence[str]] | None = None,
    segment_pool: str = CPU_POOL,
) -> tuple[StageSpec, ...]:
    """From prompts to weighted samples. A judge that comes after others reads their verdicts too.

    Args:
        judge_pools: each judge's pool, every judge behind those it comes after.
        judged_after: by judge, those that are asked before it; left out for a judge without any.
        segment_pool: where responses are cut.
    """
    earlier = judged_after or {}
    return (
        StageSpec("generate", ROLLOUT_POOL, ("prompts",), "rollouts", "prompts"),
        StageSpec("verify", CPU_POOL, ("prompts", "rollouts"), "outcomes", "rollouts"),
        StageSpec("segment", segment_pool, ("rollouts", "outcomes"), "steps"),
        *(
            StageSpec(
                f"judge.{judge}",
                pool,
                ("prompts", "steps", *(f"verdicts.{other}" for other in earlier.get(judge, ()))),
                f"verdicts.{judge}",
                "steps",
            )
            for judge, pool in judge_pools.items()
        ),
        StageSpec(
            "weigh", CPU_POOL, ("rollouts", "outcomes", "steps", *(f"verdicts.{j}" for j in judge_pools)), "weighted"
        ),
    )


def evaluation_stages() -> tuple[StageSpec, ...]:
    """The held-out benchmark of one policy version."""
    return (
        StageSpec("evaluate", ROLLOUT_POOL, ("eval_prompts",), "eval_rollouts", "eval_prompts"),
        StageSpec("verify_evaluation", CPU_POOL, ("eval_prompts", "eval_rollouts"), "eval_outcomes", "eval_rollouts"),
    )


MEASURING = frozenset(stage.name for stage in evaluation_stages())
"""The evaluation's stages, by name."""
MEASURED = ("eval_prompts", *(stage.output for stage in evaluation_stages()))
"""The evaluation's tables, in order."""
REFERENCE = "reference"
"""The table of reference log-probs. No stage makes it: the trainers do, a shard of the round in a part by every rank."""


def turns(stages: Sequence[StageSpec]) -> list[tuple[str | None, tuple[StageSpec, ...]]]:
    """The stages in turns, each with the one pool besides ``cpu`` that it needs (``None``: no other): for pools that share
    a machine. A stage comes into the earliest turn of its pool that is not before those of its inputs.
    """
    found: list[tuple[str | None, list[StageSpec]]] = []
    made_in: dict[str, int] = {}
    for stage in stages:
        earliest = max((made_in[table] for table in stage.inputs if table in made_in), default=0)
        fitting = [
            index for index, (pool, _) in enumerate(found) if index >= earliest and stage.pool in (CPU_POOL, pool)
        ]
        if not fitting:
            found.append((None if stage.pool == CPU_POOL else stage.pool, []))
            fitting = [len(found) - 1]
        found[fitting[0]][1].append(stage)
        made_in[stage.output] = fitting[0]
    return [(pool, tuple(of_turn)) for pool, of_turn in found]


def downstream(stages: Sequence[StageSpec], table: str) -> list[str]:
    """``table`` and every table that depends on it, in order of the flow."""
    found = [table]
    for stage in stages:
        if stage.output not in found and any(name in found for name in stage.inputs):
            found.append(stage.output)
    return found
