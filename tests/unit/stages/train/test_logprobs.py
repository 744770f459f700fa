"""Log-probs and entropies in chunks against torch's own, and what they may hold in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bcpg_cluster.stages.train.logprobs import token_logprobs


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("has_bias", [True, False])
def test_chunked_are_the_plain_ones(chunk_tokens: int, has_bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=draw).double() for shape in ((7, 4), (11, 4), (11,)))
    targets = torch.randint(0, 11, (7,), generator=draw)
    upstream = torch.randn(7, generator=draw).double()
    leaves = [hidden, weight, *([bias] if has_bias else [])]
    found, wanted = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    mine, entropy = token_logprobs(
        found[0], found[1], found[2] if has_bias else None, targets, chunk_tokens=chunk_tokens
    )
    logits = torch.nn.functional.linear(wanted[0], wanted[1], wanted[2] if has_bias else None)
    theirs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())
    mine.backward(upstream)
    theirs.backward(upstream)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda *tensors: token_logprobs(
            tensors[0], tensors[1], tensors[2] if has_bias else None, targets, chunk_tokens=chunk_tokens
        )[0],
        [leaf.clone().requires_grad_() for leaf in leaves],
    )


def test_chunked_are_the_plain_ones_in_fp32() -> None:
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(9, 16, generator=draw), torch.randn(3000, 16, generator=draw)]
    found, wanted = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    targets = torch.randint(0, 3000, (9,), generator=draw)
    mine, entropy = token_logprobs(found[0], found[1], None, targets, chunk_tokens=4)
    logits = wanted[0] @ wanted[1].T
    theirs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())
    mine.sum().backward()
    theirs.sum().backward()
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-5)


def test_entropy_has_no_gradient() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, torch.randn(5, 4), None, torch.tensor([0, 1, 2]), chunk_tokens=2)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_entropy_of_known_distributions() -> None:
    """Uniform over 8 tokens: log 8. Over 2, the rest impossible (-inf): log 2. One token for sure: 0."""
    bias = torch.full((8,), -torch.inf)
    for num_possible in (8, 2, 1):
        bias[:num_possible] = 0.0
        bias[num_possible:] = -torch.inf
        _, entropy = token_logprobs(torch.ones(2, 3), torch.zeros(8, 3), bias, torch.tensor([0, 0]), chunk_tokens=1)
        torch.testing.assert_close(entropy, torch.tensor([float(num_possible)] * 2).log())


def test_the_whole_vocabulary_axis_is_never_held() -> None:
    """Largest tensor of forward and backward: one chunk's logits or the head itself, not [N, V]."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    hidden = torch.randn(64, 2, requires_grad=True)
    weight = torch.randn(50, 2, requires_grad=True)
    with Largest() as largest:
        token_logprobs(hidden, weight, None, torch.zeros(64, dtype=torch.long), chunk_tokens=8)[0].sum().backward()
    assert largest.numel == 8 * 50


def test_results_are_fp32_for_bf16_heads() -> None:
    """The normaliser of a wide vocabulary is kept in fp32; bf16 would round it to steps of 1/16 nats."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 16, generator=draw).bfloat16().requires_grad_()
    weight = torch.randn(4000, 16, generator=draw).bfloat16().requires_grad_()
    targets = torch.randint(0, 4000, (5,), generator=draw)
    logprobs, entropy = token_logprobs(hidden, weight, None, targets, chunk_tokens=2)
    logits = torch.nn.functional.linear(hidden, weight).float()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1))
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())
    assert logprobs.dtype is entropy.dtype is torch.float32
    logprobs.sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype is weight.grad.dtype is torch.bfloat16
