"""From a shard's rows to the lines of the list of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import DropReason, SampleId, Step, StopReason, Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.weights import GroupMember, group_advantages, unasked_group
from bcpg_cluster.watch.report.disagreement import dispute, opinion
from bcpg_cluster.watch.view.records import SampleSummary, ShardSummary
from bcpg_cluster.watch.view.shard_tables import ShardTables, ids_of, lists_of

SURE = 0.95
"""A mined token above this probability carries next to no gradient (docs/mining.md)."""
LETTER_WORDS = {"m": "mined", "d": "disputed", "x": "wrong", "?": "missing", "e": "last", ".": "not judged yet"}
"""What the letters of a strip of steps stand for."""


@dataclass(frozen=True)
class Weights:
    """What weighing made of a sample; ``mined`` by token."""

    mined: np.ndarray
    advantage: float


def weights_of(tables: ShardTables) -> tuple[dict[SampleId, Weights], set[SampleId]]:
    """By sample, its row of ``weighted`` (the first, where pairs give it several); and all that are in one, rivals too."""
    if tables.weighted is None:
        return {}, set()
    table, found, used = tables.weighted, dict[SampleId, Weights](), set[SampleId]()
    rivals = zip(table["rival_prompt_id"].to_pylist(), table["rival_sample"].to_pylist(), strict=True)
    columns = lists_of(table["mined"]), table["advantage"].to_pylist()
    for id_, (prompt, sample), *row in zip(ids_of(table), rivals, *columns, strict=True):
        found.setdefault(id_, Weights(*row))
        used |= {id_} if prompt is None else {id_, SampleId(id_.round, prompt, sample)}
    return found, used


def summarise(tables: ShardTables, config: Config) -> ShardSummary:
    """One line a sample, in the shard's order."""
    places = {prompt.prompt_id: index for index, prompt in enumerate(tables.prompts)}
    ids, logprobs = ids_of(tables.rollouts), lists_of(tables.rollouts["sampler_logprobs"])
    stops = tables.rollouts["stop_reason"].to_pylist()
    weighted, used = weights_of(tables)
    members = _members(tables, config, ids, stops)
    samples = []
    for place, id_ in enumerate(ids):
        outcome = None if tables.outcomes is None else tables.outcomes[id_]
        weights, p = weighted.get(id_), np.exp(np.minimum(logprobs[place], 0.0))
        mined = np.zeros(len(p), bool) if weights is None else weights.mined[: len(p)].astype(bool)
        steps = _StepCounts.of(id_, tables, config, weights)
        member = members.get(id_)
        drop = None if id_ in used else _drop(tables, config, member)
        has_p = len(p) > 0
        samples.append(
            SampleSummary(
                id_.prompt_id,
                id_.sample,
                places[id_.prompt_id],
                "waiting" if outcome is None else str(outcome.status),
                stops[place],
                None if outcome is None else outcome.reward,
                None if outcome is None else outcome.extracted,
                drop,
                None if drop is not None else weights.advantage if weights else member.advantage if member else None,
                tables.lengths[place],
                int(weights.mined.sum()) if weights else 0,
                int((p[mined] > SURE).sum()),
                round(float((1 - p).sum()), 4) if has_p else None,
                round(float((1 - p)[mined].sum()), 4) if has_p else None,
                steps.strip,
                steps.num_disputed,
                round(steps.dispute, 4),
                steps.num_missing,
                steps.num_unparsable,
                steps.num_spared,
                steps.num_spared_wrong,
            )
        )
    questions = tuple((prompt.prompt_id, prompt.question, prompt.answer) for prompt in tables.prompts)
    return ShardSummary(tables.round, tables.shard, questions, tables.waiting_for, tuple(samples))


def _drop(tables: ShardTables, config: Config, member: GroupMember | None) -> str:
    """Why a sample is in no training row."""
    if member is not None and member.drop_reason is not None:
        return str(member.drop_reason)
    if tables.weighted is None:
        return "waiting"
    return str(DropReason.UNPAIRED if config.objective.rows == "pairs" else DropReason.NOT_TRAINED_ON)


def _members(
    tables: ShardTables, config: Config, ids: Sequence[SampleId], stops: Sequence[str]
) -> dict[SampleId, GroupMember]:
    """What the group decides of each sample, as ``weigh`` does; nothing before the outcomes are there."""
    if tables.outcomes is None:
        return {}
    groups: dict[str, list[int]] = {}
    for place, id_ in enumerate(ids):
        groups.setdefault(id_.prompt_id, []).append(place)
    found: dict[SampleId, GroupMember] = {}
    for places in groups.values():
        if stops[places[0]] == StopReason.PROMPT_TOO_LONG:
            result = unasked_group(len(places))
        else:
            result = group_advantages(
                [tables.outcomes[ids[place]].reward for place in places],
                config.weigh.min_verified_share,
                [tables.lengths[place] for place in places],
                truncated=[stops[place] == StopReason.LENGTH for place in places],
                truncated_are=config.weigh.truncated,
            )
        found |= {ids[place]: member for place, member in zip(places, result.members, strict=True)}
    return found


@dataclass(frozen=True)
class _StepCounts:
    """What the list shows of a sample's steps; see :class:`SampleSummary`."""

    strip: str = ""
    num_disputed: int = 0
    dispute: float = 0.0
    num_missing: int = 0
    num_unparsable: int = 0
    num_spared: int = 0
    num_spared_wrong: int = 0

    @classmethod
    def of(cls, id_: SampleId, tables: ShardTables, config: Config, weights: Weights | None) -> _StepCounts:
        steps = (tables.steps or {}).get(id_, ())
        if not steps:
            return cls()
        verdicts = {name: (of_judge or {}).get(id_) for name, of_judge in tables.verdicts.items()}
        disputes = [
            0.0 if step is steps[-1] else step_dispute(verdicts, index, config) for index, step in enumerate(steps)
        ]
        said = [v for name in config.voters for v in verdicts[name] or ()]
        spared = [bool(weights is not None and weights.mined[step.start : step.end].any()) for step in steps]
        labels = [labels_at(verdicts, config.measures, index, config) for index in range(len(steps))]
        return cls(
            step_letters(steps, verdicts, None if weights is None else weights.mined, config),
            sum(value > 0.0 for value in disputes),
            math.fsum(disputes),
            sum(verdict.status.is_missing for verdict in said),
            sum(verdict.status is VerdictStatus.UNPARSABLE for verdict in said),
            sum(spared),
            sum(is_spared and 0 in of.values() for is_spared, of in zip(spared, labels, strict=True)),
        )


def labels_at(
    verdicts: Mapping[str, Sequence[Verdict] | None], judges: Sequence[str], index: int, config: Config
) -> dict[str, int | None]:
    """By judge, its label of one step; ``None`` where it gave none (yet)."""
    found = {}
    for name in judges:
        of_judge = verdicts[name]
        found[name] = opinion(None if of_judge is None else of_judge[index], config.judges[name].threshold).label
    return found


def step_dispute(verdicts: Mapping[str, Sequence[Verdict] | None], index: int, config: Config) -> float:
    """How far the judges that do not measure are apart on one step."""
    judges = [name for name, judge in config.judges.items() if judge.role != "measure" and verdicts[name] is not None]
    return dispute([opinion((verdicts[name] or ())[index], config.judges[name].threshold) for name in judges])


def step_letters(
    steps: Sequence[Step],
    verdicts: Mapping[str, Sequence[Verdict] | None],
    mined: Sequence[bool] | np.ndarray | None,
    config: Config,
) -> str:
    """One letter a step (``SampleSummary.strip``).

    Args:
        verdicts: by judge, a verdict a step; ``None`` for a judge that has not come to the response.
        mined: by token, from the response's own row. Without one (a rival, or an answer that the objective does not train on,
            has no weights) a step that the voters together call right counts as mined.
    """
    return "".join(_step_letter(index, steps, verdicts, mined, config) for index in range(len(steps)))


def _step_letter(
    index: int,
    steps: Sequence[Step],
    verdicts: Mapping[str, Sequence[Verdict] | None],
    mined: Sequence[bool] | np.ndarray | None,
    config: Config,
) -> str:
    said = [verdicts[name] for name in config.voters]
    if index == len(steps) - 1:
        return "e"
    if any(of_judge is None for of_judge in said):
        return "."
    if any(of_judge[index].status.is_missing for of_judge in said if of_judge is not None):
        return "?"
    if step_dispute(verdicts, index, config) > 0.0:
        return "d"
    if mined is None:
        is_mined = bool(config.consensus_rule.decide(labels_at(verdicts, config.voters, index, config)))
    else:
        is_mined = any(mined[steps[index].start : steps[index].end])
    return "m" if is_mined else "x"
