"""What a wrong answer's right steps are like: how sure the policy was of them, and how far they come before the first mistake.

A token's gradient mass is 1 - p, p the policy's probability of the token when it drew it: the derivative of its log-prob by its
own logit. What training makes of a token grows with that, so a mined token of mass near 0 changes nothing (docs/mining.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bcpg_cluster.records import Step

UNCERTAIN_MASS = 0.1
"""A token of a larger gradient mass is one that the policy was not sure of."""


def gradient_masses(logprobs: Iterable[float]) -> tuple[float, ...]:
    """1 - exp(lp) of each token, in [0, 1].

    Args:
        logprobs: nats, at temperature 1; one a hair above 0, as rounding leaves it, counts as 0.
    """
    return tuple(-math.expm1(min(logprob, 0.0)) for logprob in logprobs)


def num_steps_before_a_mistake(labels: Sequence[int | None]) -> int:
    """How many steps stand before the first that is not labelled right.

    A step without a label (``None``) ends the count like a wrong one. So does the last step: it states the wrong answer,
    whatever its label.
    """
    return next((index for index, label in enumerate(labels[:-1]) if label != 1), max(len(labels) - 1, 0))


@dataclass
class RightStepCounts:
    """Wrong answers by one source of step labels (the consensus, or a judge that measures). The last step is never right.

    Attributes:
        answers: wrong answers, those without steps included.
        answers_with_right: of them with at least one right step (VPPO, arXiv 2601.18984).
        prefix_shares: sum over answers of the share of the answer's tokens that stand before the first step not labelled
            right (VPPO likewise); 0 for an answer that begins with one.
        tokens: of right steps, where the policy's log-probs are known.
        uncertain_tokens: of them with a gradient mass above ``UNCERTAIN_MASS``.
    """

    answers: int = 0
    answers_with_right: int = 0
    prefix_shares: float = 0.0
    tokens: int = 0
    uncertain_tokens: int = 0

    def add(self, steps: Sequence[Step], labels: Sequence[int | None], masses: Sequence[float]) -> None:
        """Count a wrong answer.

        Args:
            steps: of the answer; they tile its tokens.
            labels: one per step; ``None`` where the source has none.
            masses: one per token (:func:`gradient_masses`); empty where log-probs are unknown.
        """
        right = [step for step, label in zip(steps[:-1], labels[:-1], strict=True) if label == 1]
        self.answers += 1
        self.answers_with_right += bool(right)
        if steps:
            self.prefix_shares += steps[num_steps_before_a_mistake(labels)].start / steps[-1].end
        for step in right:
            of_step = masses[step.start : step.end]
            self.tokens += len(of_step)
            self.uncertain_tokens += sum(mass > UNCERTAIN_MASS for mass in of_step)

    @property
    def uncertain_share(self) -> float | None:
        """Of the tokens of right steps; ``None`` where there are none, or nothing is known of them."""
        return self.uncertain_tokens / self.tokens if self.tokens else None

    @property
    def answers_share(self) -> float | None:
        """Of wrong answers with a right step; ``None`` where there are none."""
        return self.answers_with_right / self.answers if self.answers else None

    @property
    def prefix_share(self) -> float | None:
        """Mean over wrong answers of the share of tokens before the first mistake; ``None`` where there are none."""
        return self.prefix_shares / self.answers if self.answers else None
