"""stages/exhausted.py: which errors are for want of memory, and what becomes of them."""

from __future__ import annotations

import errno

import pytest

from bcpg_cluster.errors import EngineError, MemberLostError
from bcpg_cluster.stages.exhausted import is_out_of_memory, naming_exhaustion


def _from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "fork"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        _from(EngineError("the engine died"), MemoryError()),
        EngineError("the engine died: MemoryError()"),
    ],
)
def test_a_member_without_memory_is_lost_with_a_remedy(error: Exception) -> None:
    assert is_out_of_memory(error)
    with (
        pytest.raises(MemberLostError, match=r"out of memory: (.|\n)*remedy: give its pool fewer members") as lost,
        naming_exhaustion(),
    ):
        raise error
    assert type(error).__name__ in str(lost.value)


@pytest.mark.parametrize(
    "error", [EngineError("refused"), ValueError("memory"), OSError(errno.ENOSPC, "full"), KeyError("a")]
)
def test_every_other_error_stays_what_it_is(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised, naming_exhaustion():
        raise error
    assert raised.value is error
