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

    def rendered_texts(self, question: str) -> tuple[str, ...]:
        """What a prompt with this question reads as where others log it: with its special tokens, and without them."""
        ...


class TransformersTokenizer:
    """An :class:`ImportTokenizer` over one of transformers.

    Args:
        tokenizer: from ``AutoTokenizer.from_pretrained``.
        texts_of: what each token adds to the text, as the rollout engine finds it (tokenizer, ids).
        generation_ends: ``eos_token_id`` of the model's ``generation_config.json``, or what stands in for it.

    Raises:
        DataError: it has no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts_of: Callable[[Any, Sequence[int]], Sequence[str]],
        generation_ends: Sequence[int] = (),
    ) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                "the policy's tokenizer has no chat template",
                rule="prompts of imported responses are rendered like those of generated ones",
                remedy="add chat_template.jinja to the model's directory",
            )
        self._tokenizer, self._texts_of = tokenizer, texts_of
        self._end = end_of_turn(tokenizer, generation_ends)

    @property
    def end_token_id(self) -> int | None:
        """What ends an assistant's turn; see :func:`end_of_turn`."""
        return self._end

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included."""
        return tuple(self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The ids of a response and what each adds to the text."""
        ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, tuple(self._texts_of(self._tokenizer, ids))

    def rendered_texts(self, question: str) -> tuple[str, ...]:
        """The rendered prompt as text, and as ``decode(..., skip_special_tokens=True)`` gives it back."""
        messages = [{"role": "user", "content": question}]
        whole: str = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return whole, str(self._tokenizer.decode(self.render(messages), skip_special_tokens=True))


def end_of_turn(tokenizer: Any, generation_ends: Sequence[int]) -> int | None:
    """The token that the policy emits to end its response: what the chat template writes after an assistant's turn.

    Where the template writes no token of its own there, the first of ``generation_ends``; and only where the model has none
    either, the tokenizer's end-of-sequence token. That one is often another: base models end documents with it
    (``<|endoftext|>``) and chats with ``<|im_end|>``; Gemma has ``<end_of_turn>`` and Phi-3 ``<|end|>``.
    """
    by_template = _template_end(tokenizer)
    if by_template is not None:
        return by_template
    end: int | None = generation_ends[0] if generation_ends else tokenizer.eos_token_id
    return end


_TURN = "forty-two"  # stands for a response


def _template_end(tokenizer: Any) -> int | None:
    """The first token after an assistant's message, where the chat template writes one that is no ordinary text."""
    turns = [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": _TURN}]
    try:
        rendered: str = tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=False)
    except Exception:  # a template may refuse such a chat in any way it likes; then it says nothing of its end
        return None
    _, found, after = rendered.rpartition(_TURN)
    if not found or not after.strip():
        return None
    first: int = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"][0]
    own = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return first if first in own else None
