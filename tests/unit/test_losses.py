"""BCPG and BCPG-NSA against the method's oracles: finite differences, identities, hand-worked values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bcpg_cluster.method.losses import SequenceLosses, bcpg_loss, bcpg_token_weight_loss, token_logprobs

Objective = Callable[..., SequenceLosses]
FORMS: list[Objective] = [bcpg_loss, bcpg_token_weight_loss]
TAU = 0.3


class Case:
    """Four sequences of a tiny softmax policy whose parameters are free logits, so that every gradient is exact."""

    def __init__(self, seed: int = 0, lengths: tuple[int, ...] = (5, 3, 1, 4), padded_to: int = 5) -> None:
        draw = torch.Generator().manual_seed(seed)
        rows = len(lengths)
        self.logits = torch.randn(rows, padded_to, 7, generator=draw, dtype=torch.float64)
        self.tokens = torch.randint(0, 7, (rows, padded_to), generator=draw)
        shift = 0.3 * torch.randn(rows, padded_to, generator=draw, dtype=torch.float64)
        self.mask = torch.arange(padded_to)[None] < torch.tensor(lengths)[:, None]
        self.reference = self.logprobs(self.logits) + shift
        self.advantage = torch.tensor([0.75, -0.25, -0.25, -0.25], dtype=torch.float64)[:rows]
        self.mined = (torch.rand(rows, padded_to, generator=draw) < 0.5) & (self.advantage < 0)[:, None]

    def logprobs(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, self.tokens[..., None]).squeeze(-1)

    def weights(self, beta: float) -> Tensor:
        return torch.where(self.mined, beta, 1.0).double()

    def loss(self, logits: Tensor, form: Objective = bcpg_loss, beta: float = 0.5, tau: float = TAU) -> Tensor:
        losses = form(self.logprobs(logits), self.reference, self.weights(beta), self.advantage, self.mask, tau=tau)
        return losses.loss.sum() / len(losses.loss)

    def gradient(self, form: Objective = bcpg_loss, beta: float = 0.5, tau: float = TAU) -> Tensor:
        logits = self.logits.clone().requires_grad_()
        self.loss(logits, form, beta, tau).backward()
        assert logits.grad is not None
        return logits.grad


def test_hand_worked_values() -> None:
    """Delta = -0.5 + 0.25 = -0.25 and 0.5; the first has 2 tokens, the second 1."""
    logprobs = torch.tensor([[-1.5, -0.75], [-1.0, 9.0]])
    reference = torch.tensor([[-1.0, -1.0], [-1.5, 9.0]])
    weights = torch.tensor([[1.0, 0.5], [1.0, 1.0]])
    advantage = torch.tensor([-0.4, 0.6])
    mask = torch.tensor([[1, 1], [1, 0]])
    losses = bcpg_loss(logprobs, reference, weights, advantage, mask, tau=0.1)
    first = -(-0.4 * (-1.5 + 0.5 * -0.75) - 0.05 * 0.25**2) / 2
    second = -(0.6 * -1.0 - 0.05 * 0.5**2)
    torch.testing.assert_close(losses.loss, torch.tensor([first, second]))
    torch.testing.assert_close(losses.delta, torch.tensor([-0.25, 0.5]))
    assert losses.num_tokens.tolist() == [2, 1]
    weighed = bcpg_token_weight_loss(logprobs, reference, weights, advantage, mask, tau=0.1)
    # w = beta * A - tau * Delta: -0.375 and -0.175 for the first sequence, 0.55 for the second
    torch.testing.assert_close(weighed.loss, torch.tensor([(-0.375 * 1.5 - 0.175 * 0.75) / 2, 0.55]))


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0, -0.5])
def test_gradient_is_that_of_finite_differences(beta: float) -> None:
    case = Case()
    assert torch.autograd.gradcheck(lambda logits: case.loss(logits, beta=beta), case.logits.clone().requires_grad_())


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0, -0.5])
def test_token_weight_form_has_the_same_gradient(beta: float) -> None:
    case = Case()
    difference = case.gradient(bcpg_loss, beta) - case.gradient(bcpg_token_weight_loss, beta)
    assert difference.abs().max() < 1e-15


@pytest.mark.parametrize("form", FORMS)
def test_at_the_reference_it_is_group_reinforce(form: Objective) -> None:
    case = Case()
    case.reference = case.logprobs(case.logits)
    logits = case.logits.clone().requires_grad_()
    lengths = case.mask.sum(1)
    reinforce = -(case.advantage[:, None] * case.logprobs(logits) * case.mask).sum(1) / lengths
    (reinforce.sum() / 4).backward()
    torch.testing.assert_close(case.gradient(form, beta=1.0), logits.grad, rtol=0, atol=1e-15)


def test_square_is_of_the_sequence_not_of_tokens() -> None:
    """Guards against the variant that sums per-token squares (docs/method.md), which is another objective."""
    case = Case()
    logits = case.logits.clone().requires_grad_()
    logprobs = case.logprobs(logits)
    gain = (case.advantage[:, None] * logprobs * case.mask).sum(1)
    squares = ((logprobs - case.reference).square() * case.mask).sum(1)
    (-(gain - TAU / 2 * squares) / case.mask.sum(1)).sum().div(4).backward()
    assert logits.grad is not None
    assert (case.gradient(beta=1.0) - logits.grad).abs().max() > 1e-3
    # For a sequence of one token they agree.
    torch.testing.assert_close(case.gradient(beta=1.0)[2], logits.grad[2])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("advantage", [0.6, -0.4])
def test_rest_point_is_advantage_over_tau(form: Objective, tau: float, advantage: float) -> None:
    """One sequence, plain BCPG: minimising settles at Delta* = A / tau (docs/method.md)."""
    reference = torch.full((1, 3), -20.0, dtype=torch.float64)
    logprobs = reference.clone().requires_grad_()  # log-probs as free parameters: the anchor alone must hold them
    optimizer = torch.optim.SGD([logprobs], lr=0.5 / tau)
    ones = torch.ones(1, 3, dtype=torch.float64)
    for _ in range(100):
        optimizer.zero_grad()
        losses = form(logprobs, reference, ones, torch.tensor([advantage], dtype=torch.float64), ones, tau=tau)
        losses.loss.sum().backward()
        optimizer.step()
    assert float(losses.delta) == pytest.approx(advantage / tau, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_affine_in_beta_on_mined_tokens_only(form: Objective) -> None:
    case = Case()
    at = {beta: case.gradient(form, beta) for beta in (1.0, 0.5, 0.0, -0.5)}
    slope = at[1.0] - at[0.0]
    for beta, gradient in at.items():
        torch.testing.assert_close(gradient, at[0.0] + beta * slope, rtol=0, atol=1e-15)
    reached = case.mined & case.mask
    assert reached.any()
    assert (slope[reached].abs().amax(-1) > 0).all()
    assert slope[~reached].abs().max() == 0


def test_no_mined_token_is_plain_bcpg() -> None:
    case = Case()
    case.mined[:] = False
    assert torch.equal(case.gradient(beta=-0.5), case.gradient(beta=1.0))


def test_delta_covers_all_tokens_and_not_the_weights() -> None:
    case = Case()
    deltas = [
        bcpg_loss(
            case.logprobs(case.logits), case.reference, case.weights(beta), case.advantage, case.mask, tau=TAU
        ).delta
        for beta in (1.0, -0.5)
    ]
    assert torch.equal(*deltas)
    assert not deltas[0].requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_permuting_padding_and_splitting_change_nothing(form: Objective) -> None:
    case = Case()
    whole = case.gradient(form)

    def gradient(rows: list[int], width: int) -> Tensor:
        logits = case.logits.clone().requires_grad_()
        losses = form(
            torch.nn.functional.pad(case.logprobs(logits)[rows], (0, width - 5), value=-torch.inf),
            torch.nn.functional.pad(case.reference[rows], (0, width - 5), value=torch.inf),
            torch.nn.functional.pad(case.weights(0.5)[rows], (0, width - 5), value=torch.nan),
            case.advantage[rows],
            torch.nn.functional.pad(case.mask[rows], (0, width - 5)),
            tau=TAU,
        )
        (losses.loss.sum() / 4).backward()  # the global count, whatever the micro-batch holds
        assert logits.grad is not None
        return logits.grad

    torch.testing.assert_close(gradient([2, 0, 3, 1], 5), whole, rtol=0, atol=1e-15)
    torch.testing.assert_close(gradient([0, 1, 2, 3], 9), whole, rtol=0, atol=1e-15)
    torch.testing.assert_close(gradient([3], 5) + gradient([0, 2], 6) + gradient([1], 8), whole, rtol=0, atol=1e-15)


def test_empty_sequence_costs_nothing() -> None:
    nothing = torch.zeros(1, 2)
    losses = bcpg_loss(nothing, nothing, nothing, torch.ones(1), nothing, tau=1.0)
    assert losses.loss.tolist() == [0.0]


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("has_bias", [True, False])
def test_chunked_logprobs_are_the_plain_ones(chunk_tokens: int, has_bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=draw).double() for shape in ((7, 4), (11, 4), (11,)))
    targets = torch.randint(0, 11, (7,), generator=draw)
    upstream = torch.randn(7, generator=draw).double()
    leaves = [hidden, weight, *([bias] if has_bias else [])]
    found, wanted = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    mine = token_logprobs(found[0], found[1], found[2] if has_bias else None, targets, chunk_tokens=chunk_tokens)
    logits = torch.nn.functional.linear(wanted[0], wanted[1], wanted[2] if has_bias else None)
    theirs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)
    mine.backward(upstream)
    theirs.backward(upstream)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda *tensors: token_logprobs(
            tensors[0], tensors[1], tensors[2] if has_bias else None, targets, chunk_tokens=chunk_tokens
        ),
        [leaf.clone().requires_grad_() for leaf in leaves],
    )


def test_chunked_logprobs_never_hold_the_whole_vocabulary_axis() -> None:
    """Largest tensor of forward and backward: one chunk's logits or the head itself, not [N, V]."""
    from torch.utils._python_dispatch import TorchDispatchMode

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
        token_logprobs(hidden, weight, None, torch.zeros(64, dtype=torch.long), chunk_tokens=8).sum().backward()
    assert largest.numel == 8 * 50


def test_logprobs_are_fp32_for_bf16_heads() -> None:
    """The normaliser of a wide vocabulary is kept in fp32; bf16 would round it to steps of 1/16 nats."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 16, generator=draw).bfloat16().requires_grad_()
    weight = torch.randn(4000, 16, generator=draw).bfloat16().requires_grad_()
    targets = torch.randint(0, 4000, (5,), generator=draw)
    logprobs = token_logprobs(hidden, weight, None, targets, chunk_tokens=2)
    logits = torch.nn.functional.linear(hidden, weight).float()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1))
    assert logprobs.dtype is torch.float32
    logprobs.sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype is weight.grad.dtype is torch.bfloat16
