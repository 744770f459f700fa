"""What each token of a response adds to its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text; they join to ``decode(token_ids, skip_special_tokens=True)``.

    A special token adds ``""``, and of the tokens that share a multi-byte character only the one that completes it
    adds it.
    """
    whole: str = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    texts = _streamed_texts(tokenizer, token_ids)
    if texts is None or not whole.startswith("".join(texts)):
        texts = _prefix_texts(tokenizer, token_ids, whole)
    unfinished = whole[len("".join(texts)) :]  # of a character whose last bytes never came
    if unfinished:
        special = set(tokenizer.all_special_ids)
        texts[max(index for index, token_id in enumerate(token_ids) if token_id not in special)] += unfinished
    return tuple(texts)


def _streamed_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str] | None:
    """By the tokenizer's own incremental decoder; ``None`` where it has none or loses its place (malformed bytes)."""
    from tokenizers.decoders import DecodeStream

    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None:
        return None
    stream = DecodeStream(skip_special_tokens=True)
    try:
        return [stream.step(backend, token_id) or "" for token_id in token_ids]
    except Exception:  # tokenizers raises bare Exceptions
        return None


def _prefix_texts(tokenizer: Any, token_ids: Sequence[int], whole: str) -> list[str]:
    """By decoding every prefix: quadratic, but right for any tokenizer. Adds only what is settled of ``whole``."""
    texts, settled = [], ""
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(
            list(token_ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).rstrip("\ufffd")
        is_growth = text.startswith(settled) and whole.startswith(text)
        texts.append(text[len(settled) :] if is_growth else "")
        settled = text if is_growth else settled
    return texts
