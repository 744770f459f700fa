"""How many tokens prompts have under a model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_AT_ONCE = 1000  # fast tokenizers spread a batch over all cores


def prompt_lengths(
    model: str, questions: Sequence[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> list[int]:
    """Tokens of every question as generation would send it: chat template and generation prompt included."""
    return measure_prompts(_tokenizer(model, revision, trust_remote_code), questions)


@lru_cache(maxsize=1)
def _tokenizer(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Kept: a process is asked about one set of questions after another."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)


def measure_prompts(tokenizer: Any, questions: Sequence[str]) -> list[int]:
    """Tokens of every question by a loaded tokenizer."""
    lengths: list[int] = []
    for start in range(0, len(questions), _AT_ONCE):
        chats = [[{"role": "user", "content": question}] for question in questions[start : start + _AT_ONCE]]
        rendered = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        lengths += map(len, tokenizer(rendered, add_special_tokens=False)["input_ids"])
    return lengths
