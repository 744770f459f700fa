"""Work that ran out of memory becomes a lost member: never a label, and never an error without a way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bcpg_cluster.errors import MemberLostError

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "memoryerror")
_MORE_MEMORY = (
    "give its pool fewer members or leases (pools.<name>.members, leases_per_member), its engine less "
    "(engine_args: kv_cache_memory_bytes, max_num_seqs), or the node more memory; then run the same command again"
)


@contextmanager
def naming_exhaustion() -> Iterator[None]:
    """Around a member's work: what lacks memory raises :class:`MemberLostError`, with what was said and a remedy.

    An engine whose step failed for want of memory cannot be trusted with another, and what it holds is only free when its process
    has ended. So the member is replaced, its leases are tried again, and the run stops when that does not help.
    """
    try:
        yield
    except Exception as error:  # torch, vLLM and the system each raise their own
        if not is_out_of_memory(error):
            raise
        raise MemberLostError(f"out of memory: {type(error).__name__}: {error}\n  remedy: {_MORE_MEMORY}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one it was raised from, is for want of memory."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        if any(words in str(seen).lower() for words in _NO_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
