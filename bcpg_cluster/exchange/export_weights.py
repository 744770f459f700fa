"""What each token is worth, for other trainers: per-token advantages where one has a field for them, step labels for TRL.

``prime-rl``: the fields of its ``TrainingSample`` (src/prime_rl/transports/batch/types.py). ``verl``: the names of the batch that
its PPO trainer computes (``responses``, ``response_mask``, ``advantages``). Neither reads such a file by itself: both make these
fields in memory, so a few lines of the user's load them. Beside them stand the columns of the rollouts that each project logs, so
that such a file is also a rollout file: people read it, and ``import`` does. ``trl``: stepwise supervision, a data set type of
TRL's (its PRM trainer is gone from 1.16.0); it has no place for the weight of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.dataset_directory import Card, Column, DataFile, Written, write_dataset
from bcpg_cluster.exchange.export_preferences import MESSAGES
from bcpg_cluster.exchange.export_steps import JudgeSet
from bcpg_cluster.exchange.run_tables import rounds_with, shards_of
from bcpg_cluster.records import Prompt, Rollout, StopReason
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import (
    Row,
    WeightedRow,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)

WeightStyle = Literal["prime-rl", "verl", "trl"]
WEIGHT_STYLES: tuple[WeightStyle, ...] = ("prime-rl", "verl", "trl")
_IDS, _FLOATS, _BOOLS = pa.list_(pa.int64()), pa.list_(pa.float32()), pa.list_(pa.bool_())
_OURS = (
    Column("id", pa.string(), "`round/prompt_id/sample`"),
    Column("reward", pa.float32(), "of the final answer, 1 or 0"),
)
COLUMNS: dict[WeightStyle, tuple[Column, ...]] = {
    "prime-rl": (
        Column("token_ids", _IDS, "prompt and response"),
        Column("mask", _BOOLS, "true on response tokens"),
        Column("logprobs", _FLOATS, "of the sampler, nats, at temperature 1; 0 on the prompt"),
        Column("temperatures", _FLOATS, "the run's sampling temperature"),
        Column("env_name", pa.string(), "the run's name"),
        Column("rl_weights", _FLOATS, "1 on response tokens that train, 0 on others"),
        Column("advantages", _FLOATS, "token weight x advantage (Eqs. 6, 7); 0 on the prompt"),
        Column("example_id", pa.string(), "the problem's id"),
        Column("prompt", MESSAGES, "the problem, as the user's message"),
        Column("completion", MESSAGES, "the response, as the assistant's message"),
        Column("answer", pa.string(), "the right answer"),
        Column("is_truncated", pa.bool_(), "whether the response was cut off at the token limit"),
        *_OURS,
    ),
    "verl": (
        Column("uid", pa.string(), "`round/prompt_id`: the group"),
        Column("prompts", _IDS, "ids of the prompt, unpadded"),
        Column("responses", _IDS, "ids of the response, unpadded"),
        Column("response_mask", _IDS, "1 on every response token"),
        Column("advantages", _FLOATS, "token weight x advantage (Eqs. 6, 7), one a response token"),
        Column("rollout_log_probs", _FLOATS, "of the sampler, nats, at temperature 1; empty where unknown"),
        Column("input", pa.string(), "the problem, as the run has it (verl logs it in the chat template)"),
        Column("output", pa.string(), "the response"),
        Column("gts", pa.string(), "the right answer"),
        Column("score", pa.float32(), "the reward"),
        Column("step", pa.int64(), "the round"),
        *_OURS,
    ),
    "trl": (
        Column("prompt", pa.string(), "the problem"),
        Column("completions", pa.list_(pa.string()), "the steps of a wrong response, in order"),
        Column("labels", _BOOLS, "whether the judges' consensus calls the step right"),
        _OURS[0],
    ),
}
_ABOUT = {
    "prime-rl": "The fields of prime-rl's TrainingSample, then those of its rollout files, one row a training row. prime-rl builds "
    "the first in memory and reads no such file: make a `TrainingSample` of `token_ids` to `advantages` in code of your own.",
    "verl": "The tensors of verl's PPO batch, unpadded, then the columns of its rollout dump, one row a training row. verl makes "
    "the first in memory and reads no such file: pad them and put them into the batch in the place of its advantages.",
    "trl": "Stepwise supervision, as TRL's PRM trainer read it (1.16.0 has none). TRL has no place for a token's weight.",
}


@dataclass(frozen=True, slots=True)
class WeightSettings:
    """What an export of weights needs of the run: its name, its sampling temperature and its judges."""

    run_name: str
    temperature: float
    judges: JudgeSet


def export_weights(
    run_dir: RunPath, out: Path, style: WeightStyle, settings: WeightSettings, rounds: Sequence[int] = ()
) -> Written:
    """Write the training rows of a run's rounds (all that were weighed, unless chosen) to a new directory.

    Raises:
        RunDirectoryError: a chosen round was not weighed (``trl``: not judged) yet.
        DataError: rows are pairs; prime-rl's log-probs are unknown; there is no row, or ``out`` is not empty.
    """
    state = read_manifest(run_dir)
    verdicts = tuple(f"verdicts.{name}" for name in settings.judges.voters)
    tables = ("rollouts", "steps", *verdicts) if style == "trl" else ("rollouts", "weighted")
    chosen = rounds_with(state, tables, rounds)
    files = [
        DataFile("train", f"data/round-{n:04d}.parquet", _batches(run_dir, state, n, tables, style, settings))
        for n in chosen
    ]
    facts = {"run": settings.run_name, "rounds": ", ".join(map(str, chosen)), "style": style}
    card = Card(f"Token weights of {settings.run_name}", _ABOUT[style], (style, "reasoning", "bcpg-nsa"), facts)
    return write_dataset(out, files, COLUMNS[style], card)


def _batches(
    run_dir: RunPath,
    state: ManifestState,
    round_: int,
    tables: Sequence[str],
    style: WeightStyle,
    settings: WeightSettings,
) -> Iterator[list[Row]]:
    for shard in shards_of(run_dir, state, round_, ["prompts", *tables]):
        if style == "trl":
            yield _stepwise(shard, settings.judges)
            continue
        prompts = {prompt.prompt_id: prompt for prompt in prompts_from(shard["prompts"])}
        rollouts = {rollout.id: rollout for rollout in rollouts_from(shard["rollouts"])}
        rows = weighted_from(shard["weighted"])
        yield [_row(style, row, rollouts[row.id], prompts[row.id.prompt_id], settings) for row in rows]


def _row(style: WeightStyle, row: WeightedRow, rollout: Rollout, prompt: Prompt, settings: WeightSettings) -> Row:
    ours = {"id": f"{row.id.round}/{row.id.prompt_id}/{row.id.sample}", "reward": row.reward}
    if style == "prime-rl":
        return _prime_rl(row, rollout.sampler_logprobs, settings) | _prime_rl_rollout(rollout, prompt) | ours
    return _verl(row, rollout.sampler_logprobs) | _verl_rollout(row, rollout, prompt) | ours


def _advantages(row: WeightedRow) -> list[float]:
    """One per response token."""
    if row.rival is not None:
        raise DataError(
            f"the training row of {row.id} is a pair",
            rule="pairs have no weight per token",
            remedy="export preferences instead",
        )
    return [weight * row.advantage for weight in row.token_weights]


def _prime_rl(row: WeightedRow, logprobs: Sequence[float], settings: WeightSettings) -> Row:
    if len(logprobs) != len(row.token_ids):
        raise DataError(
            f"{row.id} has {len(row.token_ids)} tokens and {len(logprobs)} log-probs of its sampler",
            rule="prime-rl weighs every token by its sampler's log-prob; an imported response has none",
            remedy="export rounds that this run has drawn itself (--round), or use --style verl or trl",
        )
    before = len(row.prompt_token_ids)
    size = before + len(row.token_ids)
    advantages = _advantages(row)
    return {
        "token_ids": [*row.prompt_token_ids, *row.token_ids],
        "mask": [False] * before + [True] * len(row.token_ids),
        "logprobs": [0.0] * before + list(logprobs),
        "temperatures": [settings.temperature] * size,
        "env_name": settings.run_name,
        "rl_weights": [0.0] * before + [float(value != 0.0) for value in advantages],
        "advantages": [0.0] * before + advantages,
    }


def _prime_rl_rollout(rollout: Rollout, prompt: Prompt) -> Row:
    return {
        "example_id": prompt.prompt_id,
        "prompt": [{"role": "user", "content": prompt.question}],
        "completion": [{"role": "assistant", "content": rollout.text}],
        "answer": prompt.answer,
        "is_truncated": rollout.stop_reason is StopReason.LENGTH,
    }


def _verl(row: WeightedRow, logprobs: Sequence[float]) -> Row:
    return {
        "uid": f"{row.id.round}/{row.id.prompt_id}",
        "prompts": list(row.prompt_token_ids),
        "responses": list(row.token_ids),
        "response_mask": [1] * len(row.token_ids),
        "advantages": _advantages(row),
        "rollout_log_probs": list(logprobs),
    }


def _verl_rollout(row: WeightedRow, rollout: Rollout, prompt: Prompt) -> Row:
    return {
        "input": prompt.question,
        "output": rollout.text,
        "gts": prompt.answer,
        "score": row.reward,
        "step": row.id.round,
    }


def _stepwise(tables: Mapping[str, list[Row]], judges: JudgeSet) -> list[Row]:
    prompts = {prompt.prompt_id: prompt.question for prompt in prompts_from(tables["prompts"])}
    verdicts = {name: verdicts_from(tables[f"verdicts.{name}"]) for name in judges.voters}
    rows: list[Row] = []
    for id_, steps in steps_from(tables["steps"]).items():
        decided = judges.decide({name: of_judge[id_] for name, of_judge in verdicts.items()})
        num_known = min(decided.unasked, default=len(steps))  # a last step that was not asked about has no label
        rows.append(
            {
                "prompt": prompts[id_.prompt_id],
                "completions": [step.text for step in steps[:num_known]],
                "labels": [bool(label) for label in decided.labels[:num_known]],
                "id": f"{id_.round}/{id_.prompt_id}/{id_.sample}",
            }
        )
    return rows
