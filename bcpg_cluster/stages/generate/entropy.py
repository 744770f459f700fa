"""The sampler's entropy at a token, from the log-probs of its likeliest tokens: a lower bound, and how far off it may be.

With p_1 .. p_k the probabilities that are known and r = 1 - sum p_i the rest, what is stored is

    H_k = - sum p_i ln p_i - r ln r        (nats; the rest counts as one token)

Taking tokens together only lowers an entropy, so H_k <= H. The rest at its flattest, over the V - k other tokens, adds the most:
H <= H_k + r ln(V - k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def known_entropy(logprobs: Sequence[float]) -> float:
    """H_k in nats, of the log-probs (nats) of different tokens; what they leave of 1 counts as one more token."""
    probabilities = [math.exp(logprob) for logprob in logprobs]
    known = -sum(p * logprob for p, logprob in zip(probabilities, logprobs, strict=True) if p > 0.0)
    rest = 1.0 - sum(probabilities)
    return max(known, 0.0) if rest <= 0.0 else known - rest * math.log(rest)


def position_entropies(flat: Any, positions: int) -> tuple[float, ...]:
    """H_k at every position of vLLM's ``FlatLogprobs``: the drawn token, then the likeliest ones, which may name it again."""
    found = []
    for start, end in zip(flat.start_indices[:positions], flat.end_indices[:positions], strict=True):
        by_token: Mapping[int, float] = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        found.append(known_entropy(tuple(by_token.values())))
    return tuple(found)
