"""Preference pairs for TRL: a right and a wrong response to the same problem.

Columns ``prompt``, ``chosen`` and ``rejected`` as text or as chat messages (TRL's *explicit prompt* preference type,
https://huggingface.co/docs/trl/dataset_formats). With the same pairing, cap and seed these are the pairs that
``objective: {name: dpo}`` trains on: the same groups, the same draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from bcpg_cluster.exchange.dataset_directory import Card, Column, DataFile, Written, write_dataset
from bcpg_cluster.exchange.run_tables import rounds_with, shards_of
from bcpg_cluster.records import Prompt, Rollout
from bcpg_cluster.stages.weigh.groups import kept_rows, shard_groups
from bcpg_cluster.stages.weigh.pairing import PAIRINGS
from bcpg_cluster.stages.weigh.weights import Truncated
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row, outcomes_from, prompts_from, rollouts_from

Style = Literal["conversational", "standard"]

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))


@dataclass(frozen=True, slots=True)
class PairSettings:
    """How pairs are made and written.

    Attributes:
        style: ``conversational`` writes chat messages, to which TRL applies the model's chat template (what the policy was
            sampled with); ``standard`` writes plain texts, and then TRL applies no template.
        pairing, max_pairs: see ``stages.weigh.pairing``; the most pairs of one problem in one round.
        seed: the run's.
        min_verified_share, truncated: which groups and responses count, as in ``weigh``.
    """

    style: Style = "conversational"
    pairing: str = "one_to_one"
    max_pairs: int = 8
    seed: int = 0
    min_verified_share: float = 0.5
    truncated: Truncated = "negative"


def columns_of(style: Style) -> tuple[Column, ...]:
    """The data set's columns."""
    text = MESSAGES if style == "conversational" else pa.string()
    return (
        Column("prompt", text, "the problem, as the user's message"),
        Column("chosen", text, "a response whose final answer is right"),
        Column("rejected", text, "a response to the same problem whose final answer is wrong"),
        Column("round", pa.int32(), "round of the run both were drawn in"),
        Column("prompt_id", pa.string(), "the problem's id in the prompt file"),
        Column("chosen_sample", pa.int32(), "number of the right response among those to this problem"),
        Column("rejected_sample", pa.int32(), "number of the wrong one"),
    )


def export_preferences(
    run_dir: RunPath, out: Path, *, run_name: str, settings: PairSettings, rounds: Sequence[int] = ()
) -> Written:
    """Write the pairs of a run's rounds (all that were verified, unless chosen) to a new directory.

    Raises:
        RunDirectoryError: a chosen round was not verified yet.
        DataError: no problem has both a right and a wrong response, or ``out`` is not empty.
    """
    state = read_manifest(run_dir)
    tables = ("prompts", "rollouts", "outcomes")
    chosen = rounds_with(state, tables[1:], rounds)

    def batches(round_: int) -> Iterator[list[Row]]:
        for shard in shards_of(run_dir, state, round_, tables):
            yield _rows(shard, settings)

    files = [DataFile("train", f"data/round-{round_:04d}.parquet", batches(round_)) for round_ in chosen]
    facts = {"run": run_name, "rounds": ", ".join(map(str, chosen)), "format": f"TRL preference, {settings.style}"}
    facts |= {"pairing": f"{settings.pairing}, at most {settings.max_pairs} pairs a problem, seed {settings.seed}"}
    about = "Pairs of a right and a wrong response to the same problem, by the final answer alone (no judge took part)."
    card = Card(f"Preference pairs of {run_name}", about, ("preference", "dpo", "trl", "reasoning"), facts)
    return write_dataset(out, files, columns_of(settings.style), card)


def _rows(tables: Mapping[str, list[Row]], settings: PairSettings) -> list[Row]:
    """The pairs of one shard, problem after problem."""
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])}
    outcomes = outcomes_from(tables["outcomes"])
    rollouts = rollouts_from(tables["rollouts"])
    rows: list[Row] = []
    for group, result in shard_groups(rollouts, outcomes, settings.min_verified_share, settings.truncated):
        kept = kept_rows(group, result, outcomes)
        right = [rollout for rollout, row in kept if row.reward == 1.0]
        wrong = [rollout for rollout, row in kept if row.reward == 0.0]
        # the same words as in `weigh`, so that the same pairs come out
        seed = f"{settings.seed}/pairs/{group[0].id.round}/{group[0].id.prompt_id}"
        for i, j in PAIRINGS[settings.pairing](len(right), len(wrong), settings.max_pairs, seed):
            rows.append(_row(prompts[group[0].id.prompt_id], right[i], wrong[j], settings.style))
    return rows


def _row(prompt: Prompt, right: Rollout, wrong: Rollout, style: Style) -> Row:
    def say(role: str, text: str) -> str | list[dict[str, str]]:
        return [{"role": role, "content": text}] if style == "conversational" else text

    return {
        "prompt": say("user", prompt.question),
        "chosen": say("assistant", right.text),
        "rejected": say("assistant", wrong.text),
        "round": right.id.round,
        "prompt_id": prompt.prompt_id,
        "chosen_sample": right.id.sample,
        "rejected_sample": wrong.id.sample,
    }
