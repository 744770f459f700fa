"""Starts a Python program as an ordinary user, also where the interpreter and this checkout lie in directories of root's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

USER = 12345  # has no name, no home and no process on this machine
ROOT = Path(__file__).parents[5]


def command_as_user(arguments: Sequence[str], *, visible: Sequence[str] = ()) -> list[str]:
    """This interpreter with ``arguments``, as :data:`USER` when root calls, else as whoever calls.

    Args:
        visible: paths the program needs, besides the interpreter's and the checkout's.
    """
    python = [sys.executable, *arguments]
    if os.geteuid() != 0:
        return python
    needed = [os.path.realpath(sys.base_prefix), sys.base_prefix, sys.prefix, str(ROOT), *visible]
    closed = sorted({folder for path in needed for folder in _closed_folders(path)})
    outermost = [folder for folder in closed if not any(folder.startswith(f"{other}/") for other in closed)]
    mounts = ["--dev-bind", "/", "/"]
    for folder in outermost:
        mounts += ["--tmpfs", folder]
    for path in dict.fromkeys(needed):
        if any(path.startswith(f"{folder}/") for folder in outermost):
            parents = [str(parent) for parent in reversed(Path(path).parents)]
            inside = [parent for parent in parents if any(parent.startswith(f"{folder}/") for folder in outermost)]
            mounts += [part for parent in inside for part in ("--dir", parent)]
            mounts += ["--ro-bind", path, path]
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    return [shutil.which("bwrap") or "bwrap", "--die-with-parent", *mounts, "--", *drop, *python]


def _closed_folders(path: str) -> list[str]:
    """Folders on the way to a path that only their owner may enter."""
    return [str(parent) for parent in Path(path).parents if not parent.stat().st_mode & 0o001]
