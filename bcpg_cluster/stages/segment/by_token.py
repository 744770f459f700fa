r"""Steps that begin at tokens: every so many, or where the sampler was unsure (docs/method.md).

::

    FixedSegmenter        after a fixed number of tokens
    ConfidenceSegmenter   at a token that the sampler gave a probability below a threshold
    EntropySegmenter      at a token where the sampler's entropy was above a threshold

Cutting where the sampler is unsure is the idea of AdaptiveStep (arXiv 2502.13943, https://arxiv.org/abs/2502.13943), which takes
the threshold that 2 % of the tokens fall below. Here the token that was unsure begins the new step, and formulas, code and
``</think>`` are treated as by every other segmenter: a place inside a formula begins no step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.merge import MergeRules, merge_pieces
from bcpg_cluster.stages.segment.protocol import SampledResponse, Segmented
from bcpg_cluster.stages.segment.structure import THINK_END
from bcpg_cluster.stages.segment.token_borders import TokenPlaces


def cuts_at_tokens(token_texts: Sequence[str], begins: Callable[[int], bool], min_tokens: int) -> list[int]:
    """The characters at which a piece begins, in order.

    Args:
        token_texts: what each token adds to the text.
        begins: whether a piece may begin at this token.
        min_tokens: a piece begins this many tokens or more after the one before, or after ``</think>``.
    """
    places = TokenPlaces(token_texts, "".join(token_texts))
    if not places.text.strip():
        return []
    restarts = {border.token for match in THINK_END.finditer(places.text) if (border := places.border(match.end()))}
    cuts, last = [], 0
    for token in range(1, places.num_tokens):
        if token in restarts:
            last = token
        elif token - last >= min_tokens and begins(token):
            at = places.character(token)
            border = places.border(at)  # before it where the token is a later part of a character
            if border is not None and border.token - last >= min_tokens and not places.is_protected(at):
                cuts.append(at)
                last = border.token
    return cuts


@dataclass(frozen=True, slots=True)
class FixedSegmenter:
    """Pieces of ``num_tokens`` tokens; one that would end in a formula or in code ends after it.

    Raises:
        ValueError: ``num_tokens`` is below 1.
    """

    num_tokens: int
    merge: MergeRules | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens is {self.num_tokens}; a step has at least one token")

    def __call__(self, token_texts: Sequence[str]) -> list[Step]:
        """The steps of a response."""
        if not token_texts:
            return []
        return merge_pieces(token_texts, cuts_at_tokens(token_texts, lambda _: True, self.num_tokens), self.merge)


@dataclass(frozen=True, slots=True)
class ConfidenceSegmenter:
    """A piece begins at a token that the sampler gave a probability below ``below`` (at temperature 1).

    Attributes:
        below: a probability.
        min_tokens: of a piece; an unsure token sooner after another begins none.

    Raises:
        ValueError: ``below`` is not a probability, or ``min_tokens`` below 1.
    """

    below: float
    min_tokens: int = 1
    merge: MergeRules | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.below < 1 or self.min_tokens < 1:
            raise ValueError(f"below is {self.below} and min_tokens {self.min_tokens}; 0 < below < 1, min_tokens >= 1")

    def cut(self, responses: Sequence[SampledResponse]) -> Segmented:
        """The steps of every response. Raises :class:`ConfigError` where the log-probs of one are unknown."""
        limit = math.log(self.below)
        return Segmented([self._steps(response, limit) for response in responses])

    def _steps(self, response: SampledResponse, limit: float) -> list[Step]:
        texts, logprobs = response.token_texts, response.logprobs
        if len(logprobs) != len(texts):
            raise missing_values("confidence", len(texts), len(logprobs))
        if not texts:
            return []
        cuts = cuts_at_tokens(texts, lambda token: logprobs[token] < limit, self.min_tokens)
        return merge_pieces(texts, cuts, self.merge)


@dataclass(frozen=True, slots=True)
class EntropySegmenter:
    """A piece begins at a token where the sampler's entropy was above ``above`` nats.

    The entropy that is stored is a lower bound (``stages.generate.entropy``): no token is above by it that is not by the exact
    one. A token that is missed may leave room for a later one, where ``min_tokens`` is above 1.

    Raises:
        ValueError: ``above`` is not positive, or ``min_tokens`` below 1.
    """

    above: float
    min_tokens: int = 1
    merge: MergeRules | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.above > 0 or self.min_tokens < 1:
            raise ValueError(f"above is {self.above} and min_tokens {self.min_tokens}; above > 0, min_tokens >= 1")

    def cut(self, responses: Sequence[SampledResponse]) -> Segmented:
        """The steps of every response. Raises :class:`ConfigError` where no entropy of one was stored."""
        return Segmented([self._steps(response) for response in responses])

    def _steps(self, response: SampledResponse) -> list[Step]:
        texts, entropies = response.token_texts, response.entropies
        if len(entropies) != len(texts):
            raise missing_values("entropy", len(texts), len(entropies))
        if not texts:
            return []
        cuts = cuts_at_tokens(texts, lambda token: entropies[token] > self.above, self.min_tokens)
        return merge_pieces(texts, cuts, self.merge)


def missing_values(kind: str, num_tokens: int, num_values: int) -> ConfigError:
    """What to raise for a response without the numbers that ``segment.kind`` ``confidence`` or ``entropy`` reads."""
    what, how = {
        "confidence": ("log-probs", "responses that this system drew have them, imported ones have none"),
        "entropy": (
            "entropies",
            "they are stored while responses are drawn, with segment.kind: entropy (or generate.entropy_top_k)",
        ),
    }[kind]
    return ConfigError(
        f"segment.kind is {kind!r}, and a response of {num_tokens} tokens has {num_values} {what}",
        rule=f"{kind} cuts by the sampler's {what}, one for every token; {how}",
        remedy="set another segment.kind (structural, delimiter, sat, fixed, llm read the text alone), or draw the responses here",
    )
