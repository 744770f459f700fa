"""The digest of a tensor says the same wherever the tensor lies, and what it costs there."""

from __future__ import annotations

import torch

from bcpg_cluster.stages.push.digest import is_finite, tensor_digest
from benchmarks.measure import summarise
from scripts.gpu_check.bench import Bench, require


def check_digest(bench: Bench) -> None:
    """Equal on the device and on the CPU; another one for another bit; seconds of a large tensor."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        here = torch.randn(257, 129, generator=torch.Generator().manual_seed(3)).to(dtype)
        there = here.to(bench.device)
        name = str(dtype).removeprefix("torch.")
        require(tensor_digest(there) == tensor_digest(here), f"{name}: the digest depends on where the tensor lies")
        require(tensor_digest(there.T) == tensor_digest(here.T), f"{name}: so does that of a transposed one")
        require(tensor_digest(there.T) != tensor_digest(there), f"{name}: a transposed tensor has the same digest")
        changed = there.clone()
        changed.view(torch.uint8)[0, 0] ^= 1
        require(tensor_digest(changed) != tensor_digest(there), f"{name}: one bit changed and the digest did not")
        require(is_finite(there), f"{name}: finite values are called infinite")
        changed[-1, -1] = float("nan")
        require(not is_finite(changed), f"{name}: a NaN is called finite")
    mib = 4 if bench.is_small else 512
    large = torch.ones(mib * 2**18, device=bench.device)
    seconds = [bench.seconds(lambda: tensor_digest(large)) for _ in range(3)]
    bench.note(mib=mib, digest_s=summarise(seconds), mib_per_s=mib / min(seconds))
    bench.note(finite_s=summarise([bench.seconds(lambda: is_finite(large)) for _ in range(3)]))
