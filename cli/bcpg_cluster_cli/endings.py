"""How a failed command ends: the words, their colour and the exit code."""

from __future__ import annotations

import os
import sys
import time

import typer

from bcpg_cluster.errors import BcpgError, Interrupted, UserError


def say_and_code(error: BcpgError) -> int:
    """Print what a person needs to know; the exit code: 2 for bad input, 130 for a wanted stop, 1 for the rest."""
    if isinstance(error, Interrupted):
        typer.secho(f"{error}\nRun the same command again to resume.", fg="yellow", err=True)
        return 130
    if isinstance(error, UserError):
        typer.secho(f"error: {error}", fg="red", err=True)
        return 2
    typer.secho(
        f"error: {type(error).__name__}: {error}\nWhat was finished is kept; run the same command again to resume.",
        fg="red",
        err=True,
    )
    return 1


def end_if_stuck(error: BcpgError, patience_s: float = 10.0) -> None:
    """End the process by force when it has not ended by itself after ``patience_s``; called in a thread.

    With its head gone Ray waits inside calls that no signal and no exception can leave. Nothing is lost by it: every line of
    the manifest is on disk, and the run's lock is the kernel's.
    """
    time.sleep(patience_s)
    code = say_and_code(error)
    sys.stderr.flush()
    os._exit(code)
