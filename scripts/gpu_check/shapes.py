"""Models with random weights and rows of mixed lengths, in the sizes of a GPU and of a CPU."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.stages.train.objective import Rft
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 model's sizes, and of the rows it is given."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    num_rows: int
    longest: int
    micro_batch_tokens: int

    def step_flops(self, rows: Sequence[TrainRow]) -> float:
        """Of a forward and backward over the rows without padding: 6 a weight and token, the head at response tokens alone, and
        6 x layers x heads' width x length² for causal attention (half of PaLM's 12, arXiv 2204.02311, appendix B).
        """
        width = self.hidden // self.heads
        attention = self.hidden * (2 * self.hidden + 2 * self.kv_heads * width)
        body = self.layers * (attention + 3 * self.hidden * self.intermediate)
        total = 0.0
        for row in rows:
            length = len(row.prompt_token_ids) + len(row.token_ids)
            total += 6 * (body * length + self.vocabulary * self.hidden * len(row.token_ids))
            total += 6 * self.layers * self.hidden * length**2
        return total


HALF_BILLION = Shape(151_936, 896, 4864, 24, 14, 2, num_rows=64, longest=1024, micro_batch_tokens=8192)
"""Qwen2.5-0.5B's (https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/config.json)."""
SMALL = Shape(512, 64, 128, 2, 4, 2, num_rows=24, longest=96, micro_batch_tokens=256)


def shape(is_small: bool) -> Shape:
    """Of a check."""
    return SMALL if is_small else HALF_BILLION


def random_model(of: Shape, path: Path) -> str:
    """A checkpoint with a tied head and random weights in float32; one that is there is taken as it is."""
    if path.exists():
        return str(path)
    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=of.hidden,
        intermediate_size=of.intermediate,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        num_key_value_heads=of.kv_heads,
        vocab_size=of.vocabulary,
        max_position_embeddings=2 * of.longest,
        tie_word_embeddings=True,
    )
    partial = path.with_name(path.name + ".partial")
    Qwen2ForCausalLM(config).save_pretrained(partial)
    partial.rename(path)
    return str(path)


def mixed_rows(of: Shape, seed: int = 0) -> list[TrainRow]:
    """Rows whose responses are a quarter of ``longest`` at the median, with a long tail; their reference is a stand-in."""
    rng = random.Random(seed)
    rows = []
    for _ in range(of.num_rows):
        prompt = tuple(rng.randrange(1, of.vocabulary) for _ in range(rng.randint(of.longest // 16, of.longest // 8)))
        length = min(int(rng.lognormvariate(0.0, 0.8) * of.longest / 4) + 1, of.longest - len(prompt))
        response = tuple(rng.randrange(1, of.vocabulary) for _ in range(length))
        rows.append(
            TrainRow(prompt, response, (1.0,) * length, 0.5, 1.0, 0.5, 2, (False,) * length,
                     reference=ReferenceLogprobs((-6.0,) * length))
        )  # fmt: skip
    return rows


def step_settings(of: Shape, dtype: str, **others: object) -> TrainSettings:
    """One step over all rows. The loss is RFT's: all rows push the same way, so that nothing cancels."""
    return TrainSettings(
        objective=Rft(),
        learning_rate=1e-5,
        min_learning_rate=1e-5,
        batch_sequences=of.num_rows,
        micro_batch_tokens=of.micro_batch_tokens,
        dtype=dtype,
        **others,  # type: ignore[arg-type]
    )
