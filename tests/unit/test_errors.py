"""errors.py: what is told of an error that came beside another."""

from __future__ import annotations

import errno

import pytest

from bcpg_cluster.errors import EngineError, Interrupted, note_other

FULL = OSError(errno.ENOSPC, "No space left on device", "rounds/0001/verdicts.llm")


@pytest.mark.parametrize(
    "other",
    [None, FULL, Interrupted(), OSError(errno.ENOSPC, "No space left on device", "rounds/0001/reference")],
    ids=["none", "itself", "a wanted stop", "the same disk"],
)
def test_what_adds_nothing_is_not_told(other: BaseException | None):
    error = OSError(FULL.errno, FULL.strerror) if other is not FULL else FULL
    note_other(error, other, "the reference pass beside it failed too")
    assert not hasattr(error, "__notes__")


def test_another_failure_is_told():
    error = OSError(errno.ENOSPC, "No space left on device")
    note_other(error, EngineError("rank 1 is gone"), "the training beside it failed too")
    note_other(error, OSError(errno.EACCES, "Permission denied"), "the reference pass beside it failed too")
    assert error.__notes__ == [
        "the training beside it failed too: EngineError: rank 1 is gone",
        "the reference pass beside it failed too: PermissionError: [Errno 13] Permission denied",
    ]
