"""A mark in the run directory, by which a process on another machine sees that it has the same directory."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from bcpg_cluster.errors import UnreachableError, UserError, page
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import write_whole

MARK = "mark.txt"
_PATIENCE_S = 10.0  # a network file system may show a new file to other machines a little later


@dataclass(frozen=True, slots=True)
class RunMark:
    """Where the mark lies, and what it says."""

    path: RunPath
    text: str


def leave_mark(run_dir: RunPath) -> RunMark:
    """The run's mark; made by the first process that works on the run, and the same for all later ones."""
    path = run_dir.absolute() / MARK
    if not path.exists() or not is_mark(path.read_bytes()):
        write_whole(path, f"{secrets.token_hex(16)}\n".encode())
    return RunMark(path, path.read_text())


def is_mark(content: bytes) -> bool:
    """Whether this is what :func:`leave_mark` writes."""
    return re.fullmatch(rb"[0-9a-f]{32}\n", content) is not None


def check_mark(mark: RunMark, *, patience_s: float = _PATIENCE_S, sleep: Callable[[float], None] = time.sleep) -> None:
    """Look for the mark from this process's machine.

    Raises:
        UserError: the directory is not there, or is another one of the same name; names this machine.
    """
    waited = 0.0
    while (why := _what_is_wrong(mark)) is not None:
        if waited >= patience_s:
            raise UserError(
                f"the run directory {str(mark.path).removesuffix(f'/{MARK}')} is not visible from {socket.gethostname()}: {why}",
                rule="the run directory is one file system that all nodes see under the same path, or a store they all reach",
                remedy=f"mount it on that machine ({page('cluster.md')}), or give a --run-dir below one that is mounted on all; a "
                "store needs its driver and credentials there too",
            )
        sleep(0.5)
        waited += 0.5


def _what_is_wrong(mark: RunMark) -> str | None:
    try:
        found = mark.path.read_text()
    except UnreachableError as error:
        return str(error)
    except OSError:
        return f"there is no {MARK} in it"
    return None if found == mark.text else "another directory has that name there"
