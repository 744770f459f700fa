"""Log-probs of chosen tokens and the entropy beside them, in chunks: [N, V] never exists as a whole.

Shapes: N response tokens without padding, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log softmax(hidden @ weight.T + bias)[targets] per token, and the entropy of that softmax, in nats.

    The log-softmax is taken in fp32 (fp64 for fp64 inputs) whatever the dtype of the weights.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H] of the output head.
        bias: [V] of the output head, or ``None``.
        targets: [N] token ids.
        chunk_tokens: how many tokens' logits exist at a time.

    Returns:
        Log-probs [N], differentiable once with respect to hidden, weight and bias; entropies [N], detached.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropy = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden.to(weight.dtype), weight, bias, targets, chunk_tokens
        )
    return logprobs, entropy


class _ChunkedLogprobs(torch.autograd.Function):
    """Keeps one log-normaliser per token and computes each chunk's logits again in the backward pass.

    A Function, not ``checkpoint`` per chunk: the head's weight then receives one gradient per backward. ZeRO-2 and -3
    reduce a parameter when its gradient arrives and refuse a second one in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        normaliser = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)  # [N]
        chosen, entropy = torch.empty_like(normaliser), torch.empty_like(normaliser)  # [N]
        for start in range(0, hidden.shape[0], chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = linear(hidden[part], weight, bias).to(dtype)  # [chunk, V]
            normaliser[part] = torch.logsumexp(logits, dim=-1)
            chosen[part] = logits.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = _entropy_of(logits.sub_(normaliser[part, None]))
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.chunk_tokens = chunk_tokens
        ctx.mark_non_differentiable(entropy)
        return chosen - normaliser, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
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
            grad_logits = logits.sub_(normaliser[part, None]).exp_().mul_(-grad[part, None])
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


def _entropy_of(logprobs: Tensor) -> Tensor:
    """-sum p log p [chunk] of log-probs [chunk, V], which are overwritten."""
    # A probability of 0 must count as 0 * log 0 = 0, and 0 * -inf is NaN. exp(-1e4) is 0 in every dtype.
    logprobs.clamp_(min=-1e4)
    return logprobs.exp().mul_(logprobs).sum(dim=-1).neg_()
