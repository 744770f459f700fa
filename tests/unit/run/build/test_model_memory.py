"""model_memory.py against published sizes and the embedded model's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.run.build.model_memory import KNOWN, ModelShape, activation_bytes, shape_from, training_state_bytes


@pytest.mark.parametrize(
    ("model", "billions"),  # as the model cards say
    [("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78), ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14.8),
     ("Qwen/Qwen2.5-7B-Instruct", 7.62), ("Qwen/Qwen2.5-32B-Instruct", 32.8)],
)  # fmt: skip
def test_parameters_of_known_models(model: str, billions: float):
    assert KNOWN[model].num_parameters() / 1e9 == pytest.approx(billions, rel=0.005)


def test_parameters_of_the_embedded_policy():
    from safetensors import safe_open

    folder = Path(resolve_asset("embedded:chain/policy"))
    shape = shape_from(json.loads((folder / "config.json").read_text()))
    assert shape is not None
    with safe_open(folder / "model.safetensors", framework="np") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    counted = 0
    for lengths in sizes.values():
        size = 1
        for length in lengths:
            size *= length
        counted += size
    assert shape.num_parameters() == counted


def test_other_names_are_unknown():
    assert shape_from({"n_embd": 768, "n_layer": 12}) is None


def test_zero_divides_what_its_stage_says():
    def each(stage: int, dtype: str = "bfloat16") -> float:
        return training_state_bytes(1, zero_stage=stage, num_ranks=4, dtype=dtype)

    assert [each(stage) for stage in range(4)] == [16, 2 + 2 + 3, 2 + 0.5 + 3, 4]
    assert [each(stage, "float32") for stage in range(4)] == [16, 4 + 4 + 2, 4 + 1 + 2, 4]


def test_checkpointing_keeps_two_bytes_a_layer():
    shape = ModelShape(1024, 24, 16, 16, 4096, 1)
    settings = {"dtype": "bfloat16", "logprob_chunk_tokens": 0}
    whole = activation_bytes(shape, 1000, is_checkpointed=False, **settings)  # type: ignore[arg-type]
    again = activation_bytes(shape, 1000, is_checkpointed=True, **settings)  # type: ignore[arg-type]
    assert (whole, again) == (24 * 34 * 1000 * 1024, (2 * 24 + 34) * 1000 * 1024)
