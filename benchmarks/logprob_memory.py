"""Peak memory and seconds of the chunked log-probs against the plain ones, forward and backward.

What is compared: ``stages.train.logprobs.token_logprobs`` in chunks, and ``log_softmax(linear(hidden, weight))`` with a gather,
both with gradients for the hidden states and the head's weight, from the same numbers. Each measurement is a process of its
own, since a process's peak never goes down; its memory is the peak less what it held before the forward (torch, the states, the
head). The chunked side also computes the entropies, the plain one does not. The gradients of both are compared as well.

    python benchmarks/logprob_memory.py [--json FILE] [--hidden 896] [--tokens 2048] [--vocabulary 151936] [--repeats 3]

The plain side needs some 4 GiB above the head and its states at these sizes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

from measure import argument_parser, facts, finish, interleave, ratios, summarise

SIDES = ("chunked", "plain")


def run_side(side: str, options: argparse.Namespace) -> dict[str, float]:
    """One forward and backward in this process: peak MiB above the start, seconds, and sums that tell the gradients."""
    import torch
    from torch.nn.functional import linear

    from bcpg_cluster.stages.train.logprobs import token_logprobs

    torch.set_num_threads(options.threads)
    draw = torch.Generator().manual_seed(options.seed)
    hidden = torch.randn(options.tokens, options.hidden, generator=draw).requires_grad_()
    weight = torch.randn(options.vocabulary, options.hidden, generator=draw).mul_(options.hidden**-0.5).requires_grad_()
    targets = torch.randint(0, options.vocabulary, (options.tokens,), generator=draw)
    linear(hidden[:8].detach(), weight[:8].detach())  # the kernels' own set-up
    before_mib = peak_mib()
    begin = time.perf_counter()
    if side == "chunked":
        logprobs, _ = token_logprobs(hidden, weight, None, targets, chunk_tokens=options.chunk_tokens)
    else:
        logprobs = linear(hidden, weight).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    logprobs.sum().backward()
    seconds = time.perf_counter() - begin
    found = {"MiB": peak_mib() - before_mib, "s": seconds}
    assert hidden.grad is not None and weight.grad is not None
    gradients = {"hidden": hidden.grad.norm().item(), "weight": weight.grad.norm().item()}
    return {**found, **gradients, "logprobs": logprobs.sum().item()}


def peak_mib() -> float:
    """This process's peak so far (Linux: ru_maxrss is in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_side(side: str) -> dict[str, float]:
    """:func:`run_side` in a process of its own, with this one's arguments."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--side", side], check=True, capture_output=True, text=True
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="rows of the head (default: Qwen2.5's)")
    parser.add_argument("--tokens", type=int, default=2048, help="response tokens of a micro-batch")
    parser.add_argument("--hidden", type=int, default=896, help="hidden size (default: Qwen2.5-0.5B's)")
    parser.add_argument("--chunk-tokens", type=int, default=256, help="tokens per chunk of the chunked side")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.side:
        print(json.dumps(run_side(options.side, options)))
        return
    started = facts()
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}

    def seconds_of(side: str) -> float:
        measured[side].append(measure_side(side))
        return measured[side][-1]["s"]

    chunked_s, plain_s = interleave(lambda _: seconds_of("chunked"), lambda _: seconds_of("plain"), options.repeats)
    chunked_mib, plain_mib = ([run["MiB"] for run in measured[side]] for side in SIDES)
    results: dict[str, Any] = {
        "chunked: peak memory, MiB": summarise(chunked_mib),
        "plain: peak memory, MiB": summarise(plain_mib),
        "memory, chunked / plain": ratios(chunked_mib, plain_mib),
        "chunked: forward and backward, s": summarise(chunked_s),
        "plain: forward and backward, s": summarise(plain_s),
        "seconds, chunked / plain": ratios(chunked_s, plain_s),
    }
    first, second = (measured[side][0] for side in SIDES)
    results["largest relative difference (log-prob sum, gradient norms)"] = summarise(
        [max(abs(first[key] / second[key] - 1) for key in ("logprobs", "hidden", "weight"))]
    )
    names = ("vocabulary", "tokens", "hidden", "chunk_tokens", "threads", "seed")
    settings = {name: getattr(options, name) for name in names} | {"dtype": "float32"}
    finish(
        "peak memory and seconds of chunked against plain log-probs, forward and backward",
        results,
        settings=settings,
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
