"""How a failed command ends: the words, their colour and the exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
import time

from bcpg_cluster.errors import (
    BcpgError,
    ClusterLostError,
    DamagedShardError,
    EngineError,
    Interrupted,
    PushError,
    UserError,
)
from bcpg_cluster_cli.terminal import say

_PLACES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "this user may not write or read there",
    errno.EPERM: "the system does not permit it",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EEXIST: "a file has this name",
    errno.EISDIR: "it is a directory, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EIO: "the disk does not work",
    errno.ENOENT: "it, or the directory it lies in, is not there",
    errno.ENOTEMPTY: "it is a directory, and not empty",
    errno.ELOOP: "its links lead in a circle",
    errno.ESTALE: "the file server no longer knows it",
    errno.ENOLCK: "the file system keeps no locks",
    errno.EMFILE: "this process has as many files open as it may",
    errno.ENFILE: "this machine has as many files open as it can",
}
"""What a place on a disk can be unfit for. Any other error of the system is this program's own, and shows its traceback."""
_PASSING = (EngineError, ClusterLostError, PushError)
"""What may not happen again. Damage and diverging losses do: their messages say what helps."""
_MAKE_ROOM = "make room, and run the same command again: what was finished is kept"
_RAISE_LIMIT = "raise the limit (`ulimit -n`), and run the same command again: what was finished is kept"
_USED_UP = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EIO: "mend or replace the disk, and run the same command again: what was finished there is kept",
    errno.ESTALE: "mount it again, and run the same command again: what was finished is kept",
    errno.EMFILE: _RAISE_LIMIT,
    errno.ENFILE: _RAISE_LIMIT,
}
"""What may pass while the place stays the same, and how."""
_RUST = re.compile(r"\(os error (\d{1,3})\)")
_OTHER_PLACE = {
    errno.ENOENT: "put it back or make the directory, or give another place",
    errno.EISDIR: "move the directory away, or give another place",
    errno.ENOTEMPTY: "move the directory away, or give another place",
    errno.EEXIST: "move the file away, or give another place",
    errno.ENAMETOOLONG: "give a shorter path",
}


def say_and_code(error: BcpgError | OSError) -> int:
    """Print what a person needs to know; the exit code: 2 for bad input, 130 for a wanted stop, 1 for the rest.

    Raises:
        OSError: ``error`` itself, where it says nothing of a place on a disk.
    """
    if isinstance(error, OSError):
        if error.errno not in _PLACES:
            raise error
        return _say_of_a_place(error)
    told = _with_notes(error)
    if isinstance(error, Interrupted):
        say(f"{told}\nRun the same command again to resume.", color="yellow", is_error=True)
        return 130
    if isinstance(error, UserError):
        say(f"error: {told}", color="red", is_error=True)
        return 2
    kept = "" if isinstance(error, DamagedShardError) else "\nWhat was finished is kept."
    if isinstance(error, _PASSING):
        kept = "\nWhat was finished is kept; run the same command again to resume."
    say(f"error: {type(error).__name__}: {told}{kept}", color="red", is_error=True)
    return 1


def disk_error_in(error: BaseException) -> OSError | None:
    """What the disk refused, where a library says it in words of its own: safetensors' ``(os error 28)``, or torch's error that was
    raised while it handled one of the system. ``None`` for all else.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _USED_UP:
            return seen
        quoted = _RUST.search(str(seen))
        if quoted and int(quoted[1]) in _USED_UP:
            return OSError(int(quoted[1]), os.strerror(int(quoted[1])))
        seen = seen.__cause__ or seen.__context__
    return None


def _say_of_a_place(error: OSError) -> int:
    where = str(error.filename2 or error.filename or "a file")
    passes = _USED_UP.get(error.errno or 0)
    said = UserError(
        f"{where} cannot be written or read: {_PLACES.get(error.errno or 0, error.strerror)}",
        rule="runs, reports and exports are written whole, or not at all",
        remedy=passes
        or _OTHER_PLACE.get(error.errno or 0, "give another directory, or change its owner or permissions"),
    )
    for note in getattr(error, "__notes__", ()):
        said.add_note(note)
    say(f"error: {_with_notes(said)}", color="red", is_error=True)
    return 1 if passes else 2


def _with_notes(error: BaseException) -> str:
    """What it says, and what failed beside it (``errors.note_other``)."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def end_if_stuck(error: BcpgError, patience_s: float = 10.0) -> None:
    """End the process by force when it has not ended by itself after ``patience_s``; called in a thread.

    With its head gone Ray waits inside calls that no signal and no exception can leave. Nothing is lost by it: every line of
    the manifest is on disk, and the run's lock is the kernel's.
    """
    time.sleep(patience_s)
    code = say_and_code(error)
    sys.stderr.flush()
    os._exit(code)
