"""How much of a GPU a model takes: weights, KV cache, optimiser, activations. Pure arithmetic from a model's shape.

Estimates of the large items. What CUDA, communication buffers and fragmentation take (some GiB) comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder with gated MLPs, grouped-query attention and biases on q, k and v (Qwen2; others differ by little).

    The names are those of a Hugging Face ``config.json``.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    head_dim: int = 0

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def num_parameters(self) -> int:
        """Embedding and head, and per layer q, k, v, o, the three matrices of the MLP and two norms."""
        hidden, queries = self.hidden_size, self.num_attention_heads * self.head_width
        keys = self.num_key_value_heads * self.head_width
        attention = 2 * hidden * queries + queries + 2 * (hidden * keys + keys)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + hidden

    def kv_bytes(self, num_tokens: int, item_bytes: int) -> int:
        """A key and a value of every layer for each token."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_width * item_bytes * num_tokens


_QWEN_7B = ModelShape(3584, 28, 28, 4, 18944, 152064)
# From the models' config.json on the hub, for the shipped configs: a plan needs no network.
KNOWN: Mapping[str, ModelShape] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelShape(1536, 28, 12, 2, 8960, 151936),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": ModelShape(5120, 48, 40, 8, 13824, 152064),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_7B,
    "Qwen/Qwen2.5-Math-PRM-7B": _QWEN_7B,  # its head of two numbers replaces the vocabulary's; some 0.5 B less
    "Qwen/Qwen2.5-Math-7B-Instruct": _QWEN_7B,
    "PRIME-RL/EurusPRM-Stage1": _QWEN_7B,
    "PRIME-RL/EurusPRM-Stage2": _QWEN_7B,
    "Qwen/Qwen2.5-32B-Instruct": ModelShape(5120, 64, 40, 8, 27648, 152064),
}


def shape_from(content: Mapping[str, Any]) -> ModelShape | None:
    """The shape in a ``config.json``; ``None`` when it names it otherwise."""
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if not all(isinstance(content.get(name), int) for name in needed):
        return None
    return ModelShape(
        content["hidden_size"],
        content["num_hidden_layers"],
        content["num_attention_heads"],
        content.get("num_key_value_heads") or content["num_attention_heads"],
        content["intermediate_size"],
        content["vocab_size"],
        bool(content.get("tie_word_embeddings", False)),
        content.get("head_dim") or 0,
    )


def training_state_bytes(num_parameters: int, *, zero_stage: int, num_ranks: int, dtype: str) -> float:
    """Weights, gradients and optimiser of one rank (ZeRO, arXiv 1910.02054, section 3).

    bfloat16: 2 bytes of weight, 2 of gradient, 12 of optimiser (float32 weight and Adam's two moments) a parameter; float32:
    4, 4 and 8. Stage 1 divides the optimiser by the ranks, stage 2 the gradients too, stage 3 the weights too.
    """
    weight, gradient, optimiser = (2, 2, 12) if dtype == "bfloat16" else (4, 4, 8)
    share = 1 / num_ranks
    each = (
        weight * (share if zero_stage >= 3 else 1)
        + gradient * (share if zero_stage >= 2 else 1)
        + optimiser * (share if zero_stage >= 1 else 1)
    )
    return num_parameters * each


def activation_bytes(
    shape: ModelShape, num_tokens: int, *, dtype: str, is_checkpointed: bool, logprob_chunk_tokens: int
) -> float:
    """What a forward of ``num_tokens`` keeps for its backward (arXiv 2205.05198, equation 1 without the attention matrix, which
    flash attention never stores): 34 bytes a token and hidden number in 16 bit, of all layers, or of one layer and two bytes a
    layer when layers are computed again. And a chunk of the vocabulary's log-probs with its gradient, in float32.
    """
    scale = 1 if dtype == "bfloat16" else 2
    layers = shape.num_hidden_layers
    each = 2 * layers + 34 if is_checkpointed else 34 * layers
    return scale * num_tokens * shape.hidden_size * each + 2 * 4 * logprob_chunk_tokens * shape.vocab_size
