"""What the stage asks of a segmenter: responses with all that is stored of their tokens, and the steps of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.segmenters import Segmenter


@dataclass(frozen=True, slots=True)
class SampledResponse:
    """A response as it was drawn.

    Attributes:
        token_texts: what each token adds to the text (:class:`bcpg_cluster.records.Rollout`).
        logprobs: one per token, nats; empty where they are unknown.
        entropies: one per token, nats; empty where they were not stored.
    """

    token_texts: Sequence[str]
    logprobs: Sequence[float] = ()
    entropies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Segmented:
    """The steps of each response, in the order asked, and what it took, additive over calls (none for rules)."""

    steps: Sequence[list[Step]]
    counts: Mapping[str, float] = field(default_factory=dict)


class ResponseSegmenter(Protocol):
    """Cuts responses into steps that tile them."""

    def cut(self, responses: Sequence[SampledResponse]) -> Segmented:
        """The steps of every response.

        Raises:
            ConfigError: a response lacks what this segmenter reads.
            EngineError: a model failed; the responses may be tried again elsewhere.
        """
        ...


@dataclass(frozen=True, slots=True)
class ByText:
    """A :class:`ResponseSegmenter` that reads the texts of tokens and nothing else."""

    cut_text: Segmenter

    def cut(self, responses: Sequence[SampledResponse]) -> Segmented:
        """The steps of every response."""
        return Segmented([self.cut_text(response.token_texts) for response in responses])
