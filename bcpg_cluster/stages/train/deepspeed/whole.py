"""A parameter of a DeepSpeed engine, whole: what ZeRO cut up, in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def whole(parameter: torch.nn.Parameter, zero_stage: int) -> Iterator[torch.Tensor]:
    """A parameter in fp32 on every rank, every rank in lockstep; valid inside only."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.dtype is not torch.float32 and parameter.requires_grad:
        # The master weights: small updates are not visible in bf16 (docs/method.md).
        yield safe_get_full_fp32_param(parameter)
    elif zero_stage == 3:
        with GatheredParameters([parameter]):
            yield parameter.data.float()  # not the Parameter: it is emptied when the gather ends
    else:
        yield parameter.data.float()
