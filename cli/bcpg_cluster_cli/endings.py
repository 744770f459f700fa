"""How a failed command ends: the words, their colour and the exit code."""

from __future__ import annotations

import errno
import os
import sys
import time

import typer

from bcpg_cluster.errors import (
    BcpgError,
    ClusterLostError,
    DamagedShardError,
    EngineError,
    Interrupted,
    PushError,
    UserError,
)

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
}
"""What a place on a disk can be unfit for. Any other error of the system is this program's own, and shows its traceback."""
_PASSING = (EngineError, ClusterLostError, PushError)
"""What may not happen again. Damage and diverging losses do: their messages say what helps."""
_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def say_and_code(error: BcpgError | OSError) -> int:
    """Print what a person needs to know; the exit code: 2 for bad input, 130 for a wanted stop, 1 for the rest.

    Raises:
        OSError: ``error`` itself, where it says nothing of a place that cannot be written.
    """
    if isinstance(error, OSError):
        if error.errno not in _PLACES:
            raise error
        return _say_of_a_place(error)
    if isinstance(error, Interrupted):
        typer.secho(f"{error}\nRun the same command again to resume.", fg="yellow", err=True)
        return 130
    if isinstance(error, UserError):
        typer.secho(f"error: {error}", fg="red", err=True)
        return 2
    kept = "" if isinstance(error, DamagedShardError) else "\nWhat was finished is kept."
    if isinstance(error, _PASSING):
        kept = "\nWhat was finished is kept; run the same command again to resume."
    typer.secho(f"error: {type(error).__name__}: {error}{kept}", fg="red", err=True)
    return 1


def _say_of_a_place(error: OSError) -> int:
    where = str(error.filename2 or error.filename or "a file")
    is_used_up = error.errno in _USED_UP
    said = UserError(
        f"{where} cannot be written: {_PLACES.get(error.errno or 0, error.strerror)}",
        rule="runs, reports and exports are written whole, or not at all",
        remedy="make room, and run the same command again: what was finished is kept"
        if is_used_up
        else "give another directory, or change its owner or permissions",
    )
    typer.secho(f"error: {said}", fg="red", err=True)
    return 1 if is_used_up else 2


def end_if_stuck(error: BcpgError, patience_s: float = 10.0) -> None:
    """End the process by force when it has not ended by itself after ``patience_s``; called in a thread.

    With its head gone Ray waits inside calls that no signal and no exception can leave. Nothing is lost by it: every line of
    the manifest is on disk, and the run's lock is the kernel's.
    """
    time.sleep(patience_s)
    code = say_and_code(error)
    sys.stderr.flush()
    os._exit(code)
