"""Log-probs over a vocabulary of 152k in chunks: what memory they take, and that chunks change nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from bcpg_cluster.stages.train.logprobs import token_logprobs
from scripts.gpu_check.bench import Bench, require

VOCABULARY = 151_936
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}  # of a gradient's largest value; log-probs in nats


def check_logprob_chunks(bench: Bench) -> None:
    """Peak memory and seconds in chunks and whole, forward and backward; equality on a slice."""
    tokens, hidden_size, chunk_tokens = (256, 16, 16) if bench.is_small else (4096, 896, 1024)
    bench.note(vocabulary=VOCABULARY, tokens=tokens, hidden=hidden_size, chunk_tokens=chunk_tokens)
    for dtype in ("float32", "bfloat16") if bench.is_gpu else ("float32",):
        states = drawn(tokens, hidden_size, getattr(torch, dtype), bench.device)
        compare_slice(bench, dtype, *states, chunk_tokens=max(1, chunk_tokens // 8))
        for side in ("chunked", "whole"):
            measure(bench, f"{dtype} {side}", *states, chunk_tokens=chunk_tokens if side == "chunked" else tokens)
        chunked, whole = (bench.figures[f"{dtype} {side}: peak_mib"] for side in ("chunked", "whole"))
        require(chunked < whole, f"{dtype}: chunks take {chunked:.0f} MiB and whole logits {whole:.0f} MiB")


def drawn(tokens: int, hidden_size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """States [N, H], a head [V, H] and targets [N]."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=draw).to(device, dtype)
    weight = torch.randn(VOCABULARY, hidden_size, generator=draw).mul_(hidden_size**-0.5).to(device, dtype)
    targets = torch.randint(0, VOCABULARY, (tokens,), generator=draw).to(device)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def compare_slice(
    bench: Bench, dtype: str, hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk_tokens: int
) -> None:
    """A few tokens in chunks against one softmax over all of them."""
    part = hidden[: 3 * chunk_tokens + 1].detach().requires_grad_()
    chosen = targets[: len(part)]
    chunked, _ = token_logprobs(part, weight, None, chosen, chunk_tokens=chunk_tokens)
    mine = torch.autograd.grad(chunked.sum(), (part, weight))
    whole = linear(part, weight).float().log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
    theirs = torch.autograd.grad(whole.sum(), (part, weight))
    off = float((chunked - whole).abs().max().detach())
    gradients = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs, strict=True)]
    bench.note(
        **{f"{dtype}: log-probs off by, nats": off, f"{dtype}: gradients off by, of the largest": max(gradients)}
    )
    require(off <= BOUNDS[dtype], f"{dtype}: log-probs in chunks are off by {off:.3g} nats")
    require(
        max(gradients) <= BOUNDS[dtype], f"{dtype}: gradients in chunks are off by {max(gradients):.3g} of the largest"
    )


def measure(bench: Bench, name: str, hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk_tokens: int) -> None:
    """A forward and backward: MiB above what was there before, and seconds."""
    hidden.grad = weight.grad = None
    before = reset_peak_mib(bench)

    def work() -> None:
        token_logprobs(hidden, weight, None, targets, chunk_tokens=chunk_tokens)[0].sum().backward()

    seconds = bench.seconds(work)
    bench.note(**{f"{name}: peak_mib": peak_mib(bench) - before, f"{name}: s": seconds})


def reset_peak_mib(bench: Bench) -> float:
    """Begin a new peak of the GPU's memory, or of this process's on Linux (`man proc_pid_clear_refs`); what is held now."""
    if bench.is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _of_process("VmRSS")


def peak_mib(bench: Bench) -> float:
    """Since the last reset."""
    return torch.cuda.max_memory_allocated() / 2**20 if bench.is_gpu else _of_process("VmHWM")


def _of_process(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) / 1024
