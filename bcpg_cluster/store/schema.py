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

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from bcpg_cluster.errors import StoreError

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
    [
        *_ID,
        pa.field("status", pa.string()),
        pa.field("reward", pa.float32()),
        pa.field("extracted", pa.string()),
        pa.field("why", pa.string()),
    ]
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


WHERE_STORED: dict[str, list[pa.Field]] = {"rollouts": [pa.field("entropies", _FLOATS)]}
"""Columns that are absent from a shard unless one of its rows has them."""


def schema_of(table: str, rows: Sequence[Mapping[str, Any]] = ()) -> pa.Schema:
    """The columns of a table, with the schema's version in its metadata; ``rows`` say which of :data:`WHERE_STORED` are there."""
    schema = _VERDICTS if table.startswith("verdicts.") else SCHEMAS.get(table)
    if schema is None:
        raise StoreError(f"unknown table {table!r}")
    for field in WHERE_STORED.get(table, ()):
        if any(field.name in row for row in rows):
            schema = schema.append(field)
    return schema.with_metadata({"bcpg_schema_version": str(SCHEMA_VERSION), "bcpg_table": table})


"""Names a training row: its own sample and its rival's. A right response may be in several pairs."""
