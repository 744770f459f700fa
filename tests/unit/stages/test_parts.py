"""stages/parts.py: which rows of a shard belong to a part, by hand."""

from __future__ import annotations

import pytest

from bcpg_cluster.errors import StoreError
from bcpg_cluster.stages.parts import Part, rows_of_part, unit_keys

PROMPTS = [{"prompt_id": name} for name in "abc"]
ROLLOUTS = [{"round": 1, "prompt_id": name, "sample": sample} for name in "abc" for sample in (0, 1)]
STEPS = [{**row, "step": step} for row in ROLLOUTS if row["prompt_id"] != "b" for step in (0, 1, 2)]


def test_a_part_of_prompts():
    assert rows_of_part({"prompts": PROMPTS}, "prompts", Part(1, 3, 3)) == {"prompts": PROMPTS[1:]}


def test_a_part_of_samples_keeps_all_prompts():
    found = rows_of_part({"prompts": PROMPTS, "rollouts": ROLLOUTS}, "rollouts", Part(1, 3, 6))
    assert found == {"prompts": PROMPTS, "rollouts": ROLLOUTS[1:3]}


def test_the_steps_of_a_sample_stay_together():
    assert unit_keys(STEPS) == [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    found = rows_of_part({"prompts": PROMPTS, "steps": STEPS}, "steps", Part(2, 3, 4))
    assert [(row["prompt_id"], row["sample"], row["step"]) for row in found["steps"]] == [
        ("c", 0, s) for s in (0, 1, 2)
    ]


def test_another_number_of_units_than_expected_is_an_error():
    with pytest.raises(StoreError, match="table 'steps' has 4 units where 5 were expected"):
        rows_of_part({"steps": STEPS}, "steps", Part(0, 2, 5))


def test_halves_tile_the_part():
    assert Part(3, 8, 9).halves() == (Part(3, 5, 9), Part(5, 8, 9))
    assert Part(3, 4, 9).halves() == (Part(3, 4, 9),)
