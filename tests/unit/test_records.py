"""records.py: frozen, ordered, and text that joins."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bcpg_cluster import records
from bcpg_cluster.records import OutcomeStatus, Rollout, SampleId, StopReason


def test_every_record_is_frozen():
    kinds = [kind for kind in vars(records).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    assert len(kinds) >= 7
    assert all(kind.__dataclass_params__.frozen for kind in kinds)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SampleId(0, "p", 0).sample = 1


def test_ids_sort_by_round_prompt_sample_and_are_keys():
    ids = [SampleId(1, "a", 0), SampleId(0, "b", 1), SampleId(0, "b", 0), SampleId(0, "a", 5)]
    assert sorted(ids) == [ids[3], ids[2], ids[1], ids[0]]
    assert len({*ids, SampleId(0, "b", 0)}) == 4


def test_a_rollouts_text_is_what_its_tokens_add():
    rollout = Rollout(
        SampleId(0, "p", 0), (1,), (5, 6, 7, 2), (-1.0,) * 4, ("a", "", "🎉", ""), StopReason.STOP, 0, None
    )
    assert rollout.text == "a🎉"


def test_statuses_are_their_own_text():
    assert json.dumps({"status": OutcomeStatus.NO_ANSWER}) == '{"status": "no_answer"}'
    assert OutcomeStatus("no_answer") is OutcomeStatus.NO_ANSWER
