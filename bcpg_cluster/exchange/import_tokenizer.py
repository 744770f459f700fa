"""What an import needs of a tokenizer, and that of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bcpg_cluster.errors import DataError


class ImportTokenizer(Protocol):
    """Turns text into the policy's own tokens."""

    @property
    def end_token_id(self) -> int | None:
        """What the policy emits to end a response; ``None`` when it has no such token."""
        ...

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included: the very prompt that `generate` would use."""
        ...

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The ids of a response, nothing added, and what each adds to the text (see ``records.Rollout.token_texts``)."""
        ...


class TransformersTokenizer:
    """An :class:`ImportTokenizer` over one of transformers.

    Args:
        tokenizer: from ``AutoTokenizer.from_pretrained``.
        texts_of: what each token adds to the text, as the rollout engine finds it (tokenizer, ids).

    Raises:
        DataError: it has no chat template.
    """

    def __init__(self, tokenizer: Any, texts_of: Callable[[Any, Sequence[int]], Sequence[str]]) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the policy's tokenizer has no chat template",
                rule="prompts of imported responses are rendered like those of generated ones",
                remedy="add chat_template.jinja to the model's directory",
            )
        self._tokenizer, self._texts_of = tokenizer, texts_of

    @property
    def end_token_id(self) -> int | None:
        """The end-of-sequence token."""
        end: int | None = self._tokenizer.eos_token_id
        return end

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included."""
        return tuple(self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The ids of a response and what each adds to the text."""
        ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, tuple(self._texts_of(self._tokenizer, ids))
