"""Objectives of the trainer and the log-probabilities they need. The one file of the method that uses torch.

Shapes: B sequences, T response tokens after padding, N response tokens without padding, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class SequenceLosses:
    """What an objective says of B sequences.

    Attributes:
        loss: [B], to be minimised; the caller sums it and divides by the *global* sequence count, so neither padding,
            micro-batches nor ranks change the gradient (docs/method.md).
        delta: [B], Delta_i = log pi_theta(y_i|x) - log pi_ref(y_i|x) in nats, detached.
        num_tokens: [B], abs(y_i): the true response lengths.
    """

    loss: Tensor
    delta: Tensor
    num_tokens: Tensor


def bcpg_loss(
    logprobs: Tensor, reference: Tensor, token_weights: Tensor, advantage: Tensor, mask: Tensor, *, tau: float
) -> SequenceLosses:
    """BCPG and BCPG-NSA, Eq. 6 as it stands (negated)::

        loss_i = -(1/abs(y_i)) * [ sum_j beta_ij * A_i * lp_ij - (tau/2) * Delta_i^2 ]

    The square is on the sequence sum, over all response tokens, and the token weights do not enter it. All weights 1
    is plain BCPG.

    Args:
        logprobs: [B, T], lp under the policy being trained, nats.
        reference: [B, T], lp_ref as the trainer's own forward gave it.
        token_weights: [B, T], beta_ij of Eq. 7.
        advantage: [B], A_i.
        mask: [B, T], 1 on response tokens.
        tau: behaviour-constraint factor.
    """
    lp, delta, num_tokens = _sequence_sums(logprobs, reference, mask)
    gain = advantage * (token_weights * lp).sum(dim=1) - 0.5 * tau * delta.square()  # [B]
    return SequenceLosses(-gain / num_tokens.clamp(min=1), delta.detach(), num_tokens)


def bcpg_token_weight_loss(
    logprobs: Tensor, reference: Tensor, token_weights: Tensor, advantage: Tensor, mask: Tensor, *, tau: float
) -> SequenceLosses:
    """The same gradient as :func:`bcpg_loss` from fixed token weights (docs/method.md); the value differs::

    w_ij   = sg[ beta_ij * A_i - tau * Delta_i ]
    loss_i = -(1/abs(y_i)) * sum_j w_ij * lp_ij
    """
    lp, delta, num_tokens = _sequence_sums(logprobs, reference, mask)
    weights = (token_weights * advantage[:, None] - tau * delta[:, None]).detach()  # [B, T]
    return SequenceLosses(-(weights * lp).sum(dim=1) / num_tokens.clamp(min=1), delta.detach(), num_tokens)


def _sequence_sums(logprobs: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masked log-probs [B, T], Delta [B] and response lengths [B]."""
    keep = mask.bool()
    # where, not a product: whatever padding holds (an inf times 0 is NaN) must not reach a sum.
    lp = torch.where(keep, logprobs, torch.zeros_like(logprobs))
    # Subtracted per token, then summed: the two sequence sums are large and nearly equal (docs/method.md).
    delta = torch.where(keep, logprobs - reference, torch.zeros_like(logprobs)).sum(dim=1)
    return lp, delta, keep.sum(dim=1)


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk_tokens: int
) -> Tensor:
    """Log softmax(hidden @ weight.T + bias)[targets] per token, in nats, without ever holding [N, V].

    The log-softmax is taken in fp32 (fp64 for fp64 inputs) whatever the dtype of the weights.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H] of the output head.
        bias: [V] of the output head, or ``None``.
        targets: [N] token ids.
        chunk_tokens: how many tokens' logits exist at a time.

    Returns:
        [N], differentiable once with respect to hidden, weight and bias.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs: Tensor = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden.to(weight.dtype), weight, bias, targets, chunk_tokens
        )
    return logprobs


class _ChunkedLogprobs(torch.autograd.Function):
    """Keeps one log-normaliser per token and computes each chunk's logits again in the backward pass.

    A Function, not ``checkpoint`` per chunk: the head's weight then receives one gradient per backward. ZeRO-2 and -3
    reduce a parameter when its gradient arrives and refuse a second one in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk_tokens: int
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        normaliser = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)  # [N]
        chosen = torch.empty_like(normaliser)  # [N]
        for start in range(0, hidden.shape[0], chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = linear(hidden[part], weight, bias).to(dtype)  # [chunk, V]
            normaliser[part] = torch.logsumexp(logits, dim=-1)
            chosen[part] = logits.gather(1, targets[part, None]).squeeze(1)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.chunk_tokens = chunk_tokens
        return chosen - normaliser

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Accumulated over chunks in fp32: bf16 sums over thousands of tokens would lose the small ones.
        grad_weight = torch.zeros(weight.shape, dtype=normaliser.dtype, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=normaliser.dtype, device=bias.device) if wants_bias else None
        for start in range(0, hidden.shape[0], ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logits = linear(hidden[part], weight, bias).to(normaliser.dtype)  # [chunk, V]
            # d lp / d logits = onehot(target) - softmax
            grad_logits = (logits - normaliser[part, None]).exp_().mul_(-grad[part, None])
            grad_logits.scatter_add_(1, targets[part, None], grad[part, None])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight
            if grad_weight is not None:
                if grad_weight.dtype == weight.dtype:
                    grad_weight.addmm_(grad_logits.T, hidden[part])
                else:
                    grad_weight += grad_logits.T @ hidden[part]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )
