"""The digest of a tensor says the same wherever the tensor lies, and what it costs there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bcpg_cluster.stages.push.digest import is_finite, tensor_digest
from bcpg_cluster.stages.push.wire import wire_digest
from benchmarks.measure import summarise
from scripts.gpu_check.bench import Bench, require


def check_digest(bench: Bench) -> None:
    """Equal on the device and on the CPU; another one for another bit; seconds of a large tensor."""
    for digest_of in (tensor_digest, wire_digest):
        check_places(bench, digest_of)
    mib = 4 if bench.is_small else 512
    large = torch.ones(mib * 2**18, device=bench.device)
    seconds = [bench.seconds(lambda: tensor_digest(large)) for _ in range(3)]
    on_wire = [bench.seconds(lambda: wire_digest(large)) for _ in range(3)]
    bench.note(mib=mib, digest_s=summarise(seconds), mib_per_s=mib / min(seconds))
    bench.note(wire_digest_s=summarise(on_wire), wire_mib_per_s=mib / min(on_wire))
    bench.note(finite_s=summarise([bench.seconds(lambda: is_finite(large)) for _ in range(3)]))


def check_places(bench: Bench, digest_of: Callable[[torch.Tensor], str]) -> None:
    """One of the two digests: of what lies on disk, and of what travels."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        here = torch.randn(257, 129, generator=torch.Generator().manual_seed(3)).to(dtype)
        there = here.to(bench.device)
        name = str(dtype).removeprefix("torch.")
        require(digest_of(there) == digest_of(here), f"{name}: the digest depends on where the tensor lies")
        require(digest_of(there.T) == digest_of(here.T), f"{name}: so does that of a transposed one")
        require(digest_of(there.T) != digest_of(there), f"{name}: a transposed tensor has the same digest")
        changed = there.clone()
        changed.view(torch.uint8)[0, 0] ^= 1
        require(digest_of(changed) != digest_of(there), f"{name}: one bit changed and the digest did not")
        require(is_finite(there), f"{name}: finite values are called infinite")
        changed[-1, -1] = float("nan")
        require(not is_finite(changed), f"{name}: a NaN is called finite")
