"""Responses drawn by a transformers model in this very process: for benchmarks that sample from many small policies in turn.

An engine start for each of a hundred policies would cost more than their training. A draw depends on its request's place, the
seed and the weights alone: every request has random numbers of its own, so two policies that are given the same requests and
the same seed are compared on the same luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils.logging import disable_progress_bar

CHUNK = 256
"""Requests that are drawn together; their cache has to fit the processor's."""
_KEEP = 0.8  # finished rows are taken out of the batch when fewer than this share are left


@dataclass(frozen=True, slots=True)
class Drawn:
    """A response: its token ids, the end token included where there is one, and their log-probs in nats at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


class _RoomyLayer(DynamicLayer):
    """A cache layer that is laid out once: growing by concatenation copies the whole cache for every token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write behind what is there; returns what is there now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            self._room = key_states.new_zeros(2, rows, heads, self._capacity, width)
        end = self._length + key_states.shape[-2]
        self._room[0, :, :, self._length : end] = key_states
        self._room[1, :, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._room = self._room[:, indices]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self._room[0, :, :, : self._length], self._room[1, :, :, : self._length]


class TorchSampler:
    """Draws from a checkpoint directory on the CPU, in float32."""

    def __init__(self, path: Path | str) -> None:
        disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self._end: int = self._model.config.eos_token_id

    def render(self, question: str) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included."""
        messages = [{"role": "user", "content": question}]
        return tuple(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def draw(self, prompts: Sequence[tuple[int, ...]], max_tokens: int, *, seed: int | None) -> list[Drawn]:
        """A response to each prompt, at temperature 1.

        Args:
            prompts: token ids; the same one may come several times.
            max_tokens: of a response.
            seed: of all draws; ``None`` takes the likeliest token each time.
        """
        drawn: dict[int, Drawn] = {}
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            drawn |= zip(chosen, self._draw_chunk([prompts[i] for i in chosen], chosen, max_tokens, seed), strict=True)
        return [drawn[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _draw_chunk(
        self, prompts: Sequence[tuple[int, ...]], places: Sequence[int], max_tokens: int, seed: int | None
    ) -> list[Drawn]:
        longest = max(map(len, prompts))
        inputs = torch.tensor([[0] * (longest - len(prompt)) + [*prompt] for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        noise = None if seed is None else gumbel_noise(places, seed, max_tokens, self._model.config.vocab_size)
        cache = Cache(layers=[_RoomyLayer(longest + max_tokens) for _ in range(self._model.config.num_hidden_layers)])
        tokens = torch.full((len(prompts), max_tokens), self._end)
        logprobs = torch.zeros(len(prompts), max_tokens)
        rows, is_done = torch.arange(len(prompts)), torch.zeros(len(prompts), dtype=torch.bool)
        for step in range(max_tokens):
            found = self._model(
                input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits[:, -1]
            scores = found.log_softmax(-1)
            chosen = (scores if noise is None else scores + noise[rows, step]).argmax(-1)
            tokens[rows, step], logprobs[rows, step] = chosen, scores.gather(1, chosen[:, None])[:, 0]
            is_done = is_done | (chosen == self._end)
            if bool(is_done.all()):
                break
            inputs, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if float(is_done.float().mean()) > 1 - _KEEP:
                left = (~is_done).nonzero()[:, 0]
                cache.batch_select_indices(left)
                rows, inputs, positions, mask, is_done = (
                    part[left] for part in (rows, inputs, positions, mask, is_done)
                )
        return [self._read(ids, scores) for ids, scores in zip(tokens.tolist(), logprobs.tolist(), strict=True)]

    def _read(self, token_ids: list[int], logprobs: list[float]) -> Drawn:
        ended = self._end in token_ids
        length = token_ids.index(self._end) + 1 if ended else len(token_ids)
        return Drawn(tuple(token_ids[:length]), tuple(logprobs[:length]), ended)


def gumbel_noise(places: Sequence[int], seed: int, max_tokens: int, vocabulary: int) -> Tensor:
    """[N, max_tokens, vocabulary]: added to log-probs, its largest place is a draw from them (Gumbel's trick)."""
    drawn = [np.random.default_rng([seed, place]).gumbel(size=(max_tokens, vocabulary)) for place in places]
    return torch.from_numpy(np.stack(drawn).astype(np.float32))
