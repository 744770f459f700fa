"""What Ray says when a node's memory, object store or disk is full, with a way out."""

from __future__ import annotations

_REMEDIES = {
    "ObjectStoreFullError": "give Ray's object store more room (ray start --object-store-memory, a larger /dev/shm)",
    "OutOfDiskError": "make room on the disk with Ray's temporary folder (/tmp/ray, or RAY_TMPDIR)",
    "OutOfMemoryError": "give the pools on that node fewer members (pools.<name>.members), or the node more memory",
}


def with_remedy(error: BaseException, said: str) -> str:
    """``said``, and what to do where this is one of Ray's errors for want of room."""
    for kind in type(error).__mro__:
        if kind.__name__ in _REMEDIES:
            return f"{kind.__name__}: {said}\n  remedy: {_REMEDIES[kind.__name__]}; then run the same command again"
    return said
