"""Engines in this process: what they print goes to a file, so that the command's own output stays its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def engine_log(path: Path, environment: Mapping[str, str], *, stderr: bool = False) -> Iterator[TextIO]:
    """Within it the process' standard output and error are ``path``, added to; the stream is what they were before.

    Args:
        environment: set before anything heavy is imported, where nothing is said yet.
        stderr: give the standard error, not the standard output.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with path.open("ab") as log:
            for number in kept:
                os.dup2(log.fileno(), number)
        with os.fdopen(os.dup(kept[2 if stderr else 1]), "w", encoding="utf-8") as console:
            yield console
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, before in kept.items():
            os.dup2(before, number)
            os.close(before)
