"""A run's journal with other events in it, written as the program would have: for tests of what it then makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bcpg_cluster.store.journals.lines import Chain, signed_lines
from bcpg_cluster.store.layout import MANIFEST


def rewrite_manifest(run_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Put the events as ``change`` gives them back in place of those that are there."""
    chain, events = Chain(), []
    for line in (run_dir / MANIFEST).read_bytes().splitlines(keepends=True):
        events.append(change(chain.read(line)))
        chain = chain.after(line)
    (run_dir / MANIFEST).write_bytes(signed_lines(Chain(), events)[0])
