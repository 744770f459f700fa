"""What a convention is: a model's input for some steps, and what the families' layouts have in common. No vendor imports."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bcpg_cluster.errors import ConfigError

Head = Literal["two_way", "token_pair", "value", "labels", "log_ratio"]
MARKER = "\ue000"  # of Unicode's private use area: holds a place while a chat is laid out


@dataclass(frozen=True, slots=True)
class Rendered:
    """A model's input.

    Attributes:
        token_ids: the whole of it.
        positions: for every step the place whose output is its score; with ``log_ratio`` the step's last token.
        start: ``log_ratio`` only: the first token of the first step.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    start: int = 0


class Convention(Protocol):
    """One family's input format.

    Attributes:
        name: as in the table of ``stages.judge.prm.conventions``.
        head: ``two_way`` is softmax over two logits, the second one good; ``token_pair`` is softmax over the next-token
            logits of :attr:`pair`, the first one good; ``value`` is the sigmoid of one number; ``labels`` is softmax over a
            token classifier's two labels, the second one good; ``log_ratio`` is the sigmoid of how much likelier the model
            finds the step's tokens than a reference model does.
        pair: token ids of good and bad; ``None`` without ``token_pair``.
        separator_id: the token that stands at the positions and nowhere else; ``None`` where there is no such token.
        version: names all that decides the input.
    """

    name: str
    head: Head
    pair: tuple[int, int] | None
    separator_id: int | None
    version: str

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """The input for some steps; ``None`` when they cannot be told apart in it (a separator in the text, say)."""
        ...


def require_chat_template(tokenizer: Any, model: str) -> None:
    """Raises :class:`ConfigError` for a tokenizer that cannot lay out a conversation."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{model} has no chat template",
            rule="this convention lays the steps out as a conversation",
            remedy="put the model's chat_template.jinja beside its tokenizer",
        )


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that mean a special token wherever they stand."""
    return tuple(token for token in tokenizer.all_special_tokens if token.strip())


def holds_any(texts: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether one of the texts holds one of the parts."""
    return any(part in text for text in texts for part in parts)


def at_separators(token_ids: Sequence[int], separator_id: int | None, num_steps: int) -> Rendered | None:
    """Positions are those of the separator; ``None`` unless there is one for every step, no more and no less."""
    positions = tuple(index for index, token_id in enumerate(token_ids) if token_id == separator_id)
    return Rendered(tuple(token_ids), positions) if len(positions) == num_steps else None


def digest(text: str) -> str:
    """Names a text in a version: eight hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
