"""The tables' columns, and how records become rows and come back.

| table | one row for | written by |
|---|---|---|
| ``prompts``, ``eval_prompts`` | a prompt of this round, of the test set | the coordinator |
| ``rollouts``, ``eval_rollouts`` | a sample | generate, evaluate |
| ``outcomes``, ``eval_outcomes`` | a sample | verify |
| ``steps`` | a step of a wrong sample in a kept group | segment |
| ``verdicts.<judge>`` | a step and a judge | judge |
| ``weighted`` | a row the objective trains on: a kept sample, or a pair | weigh |
| ``reference`` | the same | train (the reference pass) |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

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

SCHEMA_VERSION = 2

_ID = [pa.field("round", pa.int32()), pa.field("prompt_id", pa.string()), pa.field("sample", pa.int32())]
_RIVAL_ID = [pa.field("rival_prompt_id", pa.string()), pa.field("rival_sample", pa.int32())]
_TOKENS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())

_ROLLOUTS = pa.schema(
    [
        *_ID,
        pa.field("prompt_token_ids", _TOKENS),
        pa.field("token_ids", _TOKENS),
        pa.field("sampler_logprobs", _FLOATS),
        pa.field("token_texts", pa.list_(pa.string())),
        pa.field("stop_reason", pa.string()),
        pa.field("policy_version", pa.int32()),
        pa.field("seed", pa.int64()),
    ]
)
_OUTCOMES = pa.schema(
    [*_ID, pa.field("status", pa.string()), pa.field("reward", pa.float32()), pa.field("extracted", pa.string())]
)
_VERDICTS = pa.schema(
    [
        *_ID,
        pa.field("step", pa.int32()),
        pa.field("judge", pa.string()),
        pa.field("judge_version", pa.string()),
        pa.field("status", pa.string()),
        pa.field("label", pa.int8()),
        pa.field("score", pa.float32()),
        pa.field("error_type", pa.string()),
        pa.field("raw", pa.string()),
    ]
)

_PROMPTS = pa.schema(
    [pa.field("prompt_id", pa.string()), pa.field("question", pa.string()), pa.field("answer", pa.string())]
)

SCHEMAS: dict[str, pa.Schema] = {
    "prompts": _PROMPTS,
    "eval_prompts": _PROMPTS,
    "rollouts": _ROLLOUTS,
    "eval_rollouts": _ROLLOUTS,
    "outcomes": _OUTCOMES,
    "eval_outcomes": _OUTCOMES,
    "steps": pa.schema(
        [
            *_ID,
            pa.field("step", pa.int32()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("text", pa.string()),
            pa.field("shares_last_token", pa.bool_()),
        ]
    ),
    "weighted": pa.schema(
        [
            *_ID,
            pa.field("prompt_token_ids", _TOKENS),
            pa.field("token_ids", _TOKENS),
            pa.field("token_weights", _FLOATS),
            pa.field("mined", pa.list_(pa.bool_())),
            pa.field("advantage", pa.float64()),
            pa.field("reward", pa.float32()),
            pa.field("group_mean", pa.float64()),
            pa.field("group_size", pa.int32()),
            *_RIVAL_ID,
            pa.field("rival_token_ids", _TOKENS),
        ]
    ),
    "reference": pa.schema(
        [
            *_ID,
            *_RIVAL_ID,
            pa.field("reference_logprobs", _FLOATS),
            pa.field("rival_reference_logprobs", _FLOATS),
        ]
    ),
}


def schema_of(table: str) -> pa.Schema:
    """The columns of a table, with the schema's version in its metadata."""
    schema = _VERDICTS if table.startswith("verdicts.") else SCHEMAS.get(table)
    if schema is None:
        raise StoreError(f"no table is called {table!r}")
    return schema.with_metadata({"bcpg_schema_version": str(SCHEMA_VERSION), "bcpg_table": table})


@dataclass(frozen=True, slots=True)
class Rival:
    """The second response of a training row: the wrong one of a pair, or another prompt's. It is scored after the row's
    own prompt, so its prompt is not kept.
    """

    id: SampleId
    token_ids: tuple[int, ...]


RowKey = tuple[SampleId, SampleId | None]
"""Names a training row: its own sample and its rival's. A right response may be in several pairs."""


@dataclass(frozen=True, slots=True)
class WeightedRow:
    """A row of ``weighted``: what the trainer reads. See ``engines.protocols.TrainRow`` for the fields."""

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
    """A row of ``rollouts``."""
    return {
        **_id_columns(rollout.id),
        "prompt_token_ids": rollout.prompt_token_ids,
        "token_ids": rollout.token_ids,
        "sampler_logprobs": rollout.sampler_logprobs,
        "token_texts": rollout.token_texts,
        "stop_reason": str(rollout.stop_reason),
        "policy_version": rollout.policy_version,
        "seed": rollout.seed,
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
    }


def outcomes_from(rows: Iterable[Row]) -> dict[SampleId, Outcome]:
    """The outcomes of rows of ``outcomes``, by sample."""
    return {
        _id_of(row): Outcome(_id_of(row), OutcomeStatus(row["status"]), row["reward"], row["extracted"]) for row in rows
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
