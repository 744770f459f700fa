"""A damaged file keeps its content under another name, beside where it lay."""

from __future__ import annotations

import re

from bcpg_cluster.store.path import RunPath, StoredPath

_ASIDE = re.compile(r"\.damaged(-\d+)?\Z")


def is_set_aside(name: str) -> bool:
    """Whether a file was set aside."""
    return _ASIDE.search(name) is not None


def set_aside(run_dir: RunPath, path: str) -> str | None:
    """Rename a file of a run; its new path, relative to the run, or ``None`` where there is none to rename."""
    if not (run_dir / path).exists():
        return None
    name, number = f"{path}.damaged", 2
    while (run_dir / name).exists():
        name, number = f"{path}.damaged-{number}", number + 1
    source, target = run_dir / path, run_dir / name
    if isinstance(source, StoredPath):
        (run_dir / name).write(source.read_bytes())  # type: ignore[union-attr]
        source.remove_tree()
    else:
        source.rename(target)  # type: ignore[arg-type]
    return name
