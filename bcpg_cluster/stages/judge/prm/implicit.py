"""Implicit process reward models: two language models, and how much likelier a step is to the first than to the second.

The reward of a step is beta * sum over its tokens of (log p_model - log p_reference), arXiv 2412.01981 (equation of the process
reward) and the model card https://huggingface.co/PRIME-RL/EurusPRM-Stage2, whose snippet lays a response out as here (one
assistant turn, steps joined by an empty line), takes beta 0.001 and Qwen/Qwen2.5-Math-7B-Instruct as reference, and prints the
running sums; rewards are their differences. The score is the reward's sigmoid, as in that paper's cross-entropy objective, whose
probability of a right response is the sigmoid of its whole reward. Rankings need no sigmoid, and published ones use none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.prm.layout import (
    MARKER,
    Head,
    Rendered,
    digest,
    holds_any,
    require_chat_template,
    special_tokens,
)


@dataclass(frozen=True, slots=True)
class Reference:
    """What an implicit process reward model is compared with.

    Attributes:
        model: the model it was trained from; the same vocabulary.
        version: names its weights.
        beta: of the reward, above 0. Scores lie close to 0.5 where it is small; their order never depends on it.
    """

    model: str
    version: str
    beta: float


class ImplicitPrm:
    """EurusPRM and relatives: the response is one assistant turn, and every token of it counts for the step it begins in.

    A separator counts for the step before it, and the token that ends the turn for the last step.

    Raises:
        ConfigError: no chat template, no token offsets, or an empty separator.
    """

    name: str = "implicit"
    head: Head = "log_ratio"
    pair: tuple[int, int] | None = None
    separator_id: int | None = None  # an empty line may be anywhere

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._separator = "\n\n" if separator is None else separator
        self._system = system or ""
        self._special = special_tokens(tokenizer)
        require_chat_template(tokenizer, model)
        if not self._separator or not tokenizer.is_fast:
            raise ConfigError(
                f"{model} cannot be served as an implicit process reward model: "
                + ("its tokenizer is a slow one" if self._separator else "the separator is empty"),
                rule="steps are joined by a separator, and a fast tokenizer says in which of them a token begins",
                remedy="leave the separator out (an empty line), and put a tokenizer.json beside the model",
            )
        other = f"/system:{digest(self._system)}" if self._system else ""
        self.version = f"implicit-prm/{self._separator!r}{other}"

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`~bcpg_cluster.stages.judge.prm.layout.Convention`; also ``None`` when a step has no token of its own."""
        if holds_any((problem, *steps), (MARKER, *self._special)):
            return None
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages += [{"role": "user", "content": problem}, {"role": "assistant", "content": MARKER}]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        head, mark, tail = text.partition(MARKER)
        if not mark or MARKER in tail:
            return None
        lines = [step.strip("\n") + self._separator for step in steps[:-1]] + [steps[-1].strip("\n")]
        ends = [len(head) + sum(map(len, lines[: index + 1])) for index in range(len(lines))]
        encoded = self._tokenizer(
            head + "".join(lines) + tail, add_special_tokens=False, return_offsets_mapping=True, return_tensors=None
        )
        begins = [first for first, _ in encoded["offset_mapping"]]
        return _spans(tuple(encoded["input_ids"]), begins, len(head), ends, has_end=bool(tail))


def _spans(
    token_ids: tuple[int, ...], begins: Sequence[int], start: int, ends: Sequence[int], *, has_end: bool
) -> Rendered | None:
    """Each step's last token; ``None`` unless each has one, and the first one's tokens begin where it does."""
    borders = [
        next((place for place, begin in enumerate(begins) if begin >= end), len(begins)) for end in (start, *ends)
    ]
    if has_end:
        borders[-1] += 1
    is_cut = borders[0] == 0 or borders[0] == len(begins) or begins[borders[0]] != start
    if is_cut or borders[-1] > len(token_ids) or any(after <= before for before, after in pairwise(borders)):
        return None
    return Rendered(token_ids, tuple(border - 1 for border in borders[1:]), borders[0])
