"""How many prompt tokens of a judge's requests an engine's prefix cache can serve: the bound to hold what it served against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class CachesPrefixes(Protocol):
    """An engine that keeps the beginnings of prompts."""

    @property
    def prefix_block_tokens(self) -> int | None:
        """Tokens of a block, the unit that is kept; ``None`` where nothing is."""
        ...


def shareable_tokens(prompts: Sequence[Sequence[int]], block_tokens: int) -> list[int]:
    """Of each prompt, the tokens that it shares with those before it, in whole blocks.

    With room for everything, a cache that works block by block (vLLM's) serves these and computes the rest. The last token of a
    prompt is always computed, since the first token of the answer is drawn from it. What earlier calls left in the cache comes on
    top.

    Args:
        prompts: token ids, in the order sent.
        block_tokens: at least 1.
    """
    seen: set[int] = set()
    found = []
    for prompt in prompts:
        name, num_shared, is_shared = 0, 0, True
        for end in range(block_tokens, len(prompt) + 1, block_tokens):
            # A block counts with all that stands before it.
            name = hash((name, tuple(prompt[end - block_tokens : end])))
            is_shared = is_shared and name in seen and end < len(prompt)
            num_shared += is_shared
            seen.add(name)
        found.append(num_shared * block_tokens)
    return found
