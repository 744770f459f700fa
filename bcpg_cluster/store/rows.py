"""How records become the tables' rows, and come back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import (
    ErrorType,
    Outcome,
    OutcomeStatus,
    Prompt,
    Rollout,
    SampleId,
    Step,
    StopReason,
    Verdict,
    VerdictStatus,
)


@dataclass(frozen=True, slots=True)
class Rival:
    """The second response of a training row: the wrong one of a pair, or another prompt's. It is scored after the row's
    own prompt, so its prompt is not kept.
    """

    id: SampleId
    token_ids: tuple[int, ...]


RowKey = tuple[SampleId, SampleId | None]


@dataclass(frozen=True, slots=True)
class WeightedRow:
    """A row of ``weighted``: what the trainer reads. See ``stages.train.protocol.TrainRow`` for the fields."""

    id: SampleId
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    token_weights: tuple[float, ...]
    mined: tuple[bool, ...]
    advantage: float
    reward: float
    group_mean: float
    group_size: int
    rival: Rival | None = None

    @property
    def key(self) -> RowKey:
        """What names this row in the table."""
        return self.id, None if self.rival is None else self.rival.id


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """A row of ``reference``: lp_ref in nats of a training row's response, and of its rival where it has one."""

    key: RowKey
    logprobs: tuple[float, ...]
    rival_logprobs: tuple[float, ...] = ()


Row = dict[str, Any]


def _id_columns(id_: SampleId) -> Row:
    return {"round": id_.round, "prompt_id": id_.prompt_id, "sample": id_.sample}


def _id_of(row: Row) -> SampleId:
    return SampleId(row["round"], row["prompt_id"], row["sample"])


def prompt_row(prompt: Prompt) -> Row:
    """A row of ``prompts``."""
    return {"prompt_id": prompt.prompt_id, "question": prompt.question, "answer": prompt.answer}


def prompts_from(rows: Iterable[Row]) -> list[Prompt]:
    """The prompts of rows of ``prompts``."""
    return [Prompt(**row) for row in rows]


def rollout_row(rollout: Rollout) -> Row:
    """A row of ``rollouts``; the column ``entropies`` is there only where the rollout has them."""
    return {
        **_id_columns(rollout.id),
        "prompt_token_ids": rollout.prompt_token_ids,
        "token_ids": rollout.token_ids,
        "sampler_logprobs": rollout.sampler_logprobs,
        "token_texts": rollout.token_texts,
        "stop_reason": str(rollout.stop_reason),
        "policy_version": rollout.policy_version,
        "seed": rollout.seed,
        **({"entropies": rollout.entropies} if rollout.entropies else {}),
    }


def rollouts_from(rows: Iterable[Row]) -> list[Rollout]:
    """The rollouts of rows of ``rollouts``."""
    return [
        Rollout(
            _id_of(row),
            tuple(row["prompt_token_ids"]),
            tuple(row["token_ids"]),
            tuple(row["sampler_logprobs"]),
            tuple(row["token_texts"]),
            StopReason(row["stop_reason"]),
            row["policy_version"],
            row["seed"],
            tuple(row.get("entropies") or ()),
        )
        for row in rows
    ]


def outcome_row(outcome: Outcome) -> Row:
    """A row of ``outcomes``."""
    return {
        **_id_columns(outcome.id),
        "status": str(outcome.status),
        "reward": outcome.reward,
        "extracted": outcome.extracted,
        "why": outcome.why,
    }


def outcomes_from(rows: Iterable[Row]) -> dict[SampleId, Outcome]:
    """The outcomes of rows of ``outcomes``, by sample."""
    return {
        _id_of(row): Outcome(
            _id_of(row), OutcomeStatus(row["status"]), row["reward"], row["extracted"], row.get("why") or ""
        )
        for row in rows
    }


def step_rows(id_: SampleId, steps: Iterable[Step]) -> list[Row]:
    """The rows of ``steps`` of one sample."""
    return [
        {
            **_id_columns(id_),
            "step": index,
            "start": step.start,
            "end": step.end,
            "text": step.text,
            "shares_last_token": step.shares_last_token,
        }
        for index, step in enumerate(steps)
    ]


def steps_from(rows: Iterable[Row]) -> dict[SampleId, list[Step]]:
    """The steps of rows of ``steps``, in order, by sample."""
    steps: dict[SampleId, list[Step]] = {}
    for row in rows:
        of_sample = steps.setdefault(_id_of(row), [])
        if row["step"] != len(of_sample):
            raise StoreError(f"steps of {_id_of(row)} are out of order: {row['step']} after {len(of_sample) - 1}")
        of_sample.append(Step(row["start"], row["end"], row["text"], row["shares_last_token"]))
    return steps


def verdict_row(verdict: Verdict) -> Row:
    """A row of ``verdicts.<judge>``."""
    return {
        **_id_columns(verdict.id),
        "step": verdict.step,
        "judge": verdict.judge,
        "judge_version": verdict.judge_version,
        "status": str(verdict.status),
        "label": verdict.label,
        "score": verdict.score,
        "error_type": None if verdict.error_type is None else str(verdict.error_type),
        "raw": verdict.raw,
    }


def verdicts_from(rows: Iterable[Row]) -> dict[SampleId, list[Verdict]]:
    """The verdicts of rows of one ``verdicts`` table, in step order, by sample."""
    verdicts: dict[SampleId, list[Verdict]] = {}
    for row in rows:
        of_sample = verdicts.setdefault(_id_of(row), [])
        if row["step"] != len(of_sample):
            raise StoreError(f"verdicts on {_id_of(row)} are out of order: {row['step']} after {len(of_sample) - 1}")
        of_sample.append(
            Verdict(
                _id_of(row),
                row["step"],
                row["judge"],
                row["judge_version"],
                VerdictStatus(row["status"]),
                row["label"],
                row["score"],
                None if row["error_type"] is None else ErrorType(row["error_type"]),
                row["raw"],
            )
        )
    return verdicts


def weighted_row(row: WeightedRow) -> Row:
    """A row of ``weighted``."""
    return {
        **_id_columns(row.id),
        "prompt_token_ids": row.prompt_token_ids,
        "token_ids": row.token_ids,
        "token_weights": row.token_weights,
        "mined": row.mined,
        "advantage": row.advantage,
        "reward": row.reward,
        "group_mean": row.group_mean,
        "group_size": row.group_size,
        **_rival_columns(None if row.rival is None else row.rival.id),
        "rival_token_ids": None if row.rival is None else row.rival.token_ids,
    }


def weighted_from(rows: Iterable[Row]) -> list[WeightedRow]:
    """The rows of ``weighted``."""
    return [
        WeightedRow(
            _id_of(row),
            tuple(row["prompt_token_ids"]),
            tuple(row["token_ids"]),
            tuple(row["token_weights"]),
            tuple(row["mined"]),
            row["advantage"],
            row["reward"],
            row["group_mean"],
            row["group_size"],
            None if (rival := _rival_id(row)) is None else Rival(rival, tuple(row["rival_token_ids"])),
        )
        for row in rows
    ]


def _rival_columns(rival: SampleId | None) -> Row:
    return {
        "rival_prompt_id": None if rival is None else rival.prompt_id,
        "rival_sample": None if rival is None else rival.sample,
    }


def _rival_id(row: Row) -> SampleId | None:
    if row["rival_prompt_id"] is None:
        return None
    return SampleId(row["round"], row["rival_prompt_id"], row["rival_sample"])


def row_keys(rows: Iterable[Row]) -> list[RowKey]:
    """The keys of rows of ``weighted`` or ``reference``, of which these have at least the columns that name them."""
    return [(_id_of(row), _rival_id(row)) for row in rows]


def reference_row(reference: ReferenceRow) -> Row:
    """A row of ``reference``."""
    id_, rival = reference.key
    return {
        **_id_columns(id_),
        **_rival_columns(rival),
        "reference_logprobs": reference.logprobs,
        "rival_reference_logprobs": None if rival is None else reference.rival_logprobs,
    }


def reference_from(rows: Iterable[Row]) -> dict[RowKey, ReferenceRow]:
    """Reference log-probs by training row."""
    references = [
        ReferenceRow(
            (_id_of(row), _rival_id(row)),
            tuple(row["reference_logprobs"]),
            tuple(row["rival_reference_logprobs"] or ()),
        )
        for row in rows
    ]
    return {reference.key: reference for reference in references}
