"""What every objective gets and gives. Shapes: B rows, T response tokens after padding, R rival tokens after padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpg_cluster.stages.train.objective import Length

_PADDED = ("logprobs", "reference", "token_weights")
_PADDED_RIVAL = ("rival_logprobs", "rival_reference")


@dataclass(frozen=True, slots=True)
class LossBatch:
    """B rows of a micro-batch as an objective sees them.

    Padding may hold anything, NaN included: it is made 0 when the batch is built, so no objective can let it reach a loss
    or a gradient.

    Attributes:
        logprobs: [B, T], lp under the policy being trained, nats; carries the gradient.
        reference: [B, T], lp_ref by the trainer's own forward; also the frozen old policy of offline ratios.
        mask: [B, T] bool, true on response tokens.
        token_weights: [B, T], beta_ij of Eq. 7 (all 1 without NSA).
        advantage: [B], A_i = r_i - rbar of the whole group.
        reward: [B], r_i in {0, 1}.
        group_mean: [B], rbar.
        rival_logprobs, rival_reference: [B, R], the same of the row's other response: y- of a DPO pair (with gradient);
            of a KTO mismatch they are not needed here (see ``step_drift``). ``None`` without rivals.
        rival_mask: [B, R] bool.
        step_drift: mean Delta in nats over the mismatched responses of the whole step (KTO's z0 before its clamp at 0), over
            all micro-batches and ranks; 0 where there is nothing to estimate it from.
    """

    logprobs: Tensor
    reference: Tensor
    mask: Tensor
    token_weights: Tensor
    advantage: Tensor
    reward: Tensor
    group_mean: Tensor
    rival_logprobs: Tensor | None = None
    rival_reference: Tensor | None = None
    rival_mask: Tensor | None = None
    step_drift: float = 0.0

    def __post_init__(self) -> None:
        for names, mask in ((_PADDED, self.mask), (_PADDED_RIVAL, self.rival_mask)):
            for name in names:
                values = getattr(self, name)
                if mask is not None and values is not None:
                    object.__setattr__(self, name, masked(values, mask))

    @property
    def drift(self) -> Tensor:
        """Delta_i [B] in nats, with gradient."""
        return sequence_drift(self.logprobs, self.reference, self.mask)

    @property
    def num_tokens(self) -> Tensor:
        """abs(y_i) [B]: the true response lengths; 1 for an empty response, so that it can be divided by."""
        return self.mask.sum(dim=1).clamp(min=1)

    @property
    def is_right(self) -> Tensor:
        """[B] bool: whether the final answer is right."""
        return self.reward > 0.5


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What an objective says of B rows.

    Attributes:
        loss: [B], to be minimised. The caller sums it and divides by the *global* number of rows of the step, or of response
            tokens where the options' ``divides_by_tokens`` says so; neither padding, micro-batches nor ranks change the
            gradient then.
        push: [B, T], detached: the sign and size with which the objective pushes each token of the row's own response
            (> 0 up), which is its weight times its advantage. Anchors, clips, tapers and length scaling are left out, so that
            a token which a clip has silenced still counts as one that was to be pushed. 0 in the padding.
        parts: named detached [B] summands of the loss, for telemetry; they add up to ``loss``.
        clipped: [B, T] bool, tokens whose gradient was cut by a clip or a taper below half; ``None`` where there is no such thing.
    """

    loss: Tensor
    push: Tensor
    parts: Mapping[str, Tensor]
    clipped: Tensor | None = None

    @classmethod
    def of(cls, parts: Mapping[str, Tensor], push: Tensor, clipped: Tensor | None = None) -> RowLosses:
        """The losses whose summands are ``parts`` [B], with gradient."""
        detached = {name: part.detach() for name, part in parts.items()}
        return cls(torch.stack(list(parts.values())).sum(dim=0), push.detach(), detached, clipped)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """``values`` with zeros in the padding. ``where``, not a product: an inf times 0 is NaN and must not reach a sum."""
    return torch.where(mask, values, torch.zeros_like(values))


def sequence_drift(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Delta_i [B] in nats: subtracted per token, then summed (the two sums are large and nearly equal)."""
    return masked(logprobs - reference, mask).sum(dim=1)


def length_divisor(batch: LossBatch, length: Length, constant_tokens: int = 0) -> Tensor:
    """[B] integers: what a row's sum over tokens is divided by (see ``stages.train.objective.Length``).

    With ``token`` that is 1 here, since the caller divides the step's sum by the step's tokens.
    """
    if length == "sequence":
        return batch.num_tokens
    return torch.full_like(batch.num_tokens, 1 if length == "token" else constant_tokens)
