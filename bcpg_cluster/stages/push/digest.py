"""The one digest of a tensor, shared by pushes and snapshots, so that their digests can be compared."""

from __future__ import annotations

import hashlib

import torch


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 hex over dtype, shape and the contiguous bytes in the tensor's own dtype.

    dtype and shape are part of it: the same zero bytes in another shape are another parameter.
    """
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{str(data.dtype).removeprefix('torch.')}{list(data.shape)}".encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
