"""Iterative offline RL of reasoning LLMs (BCPG-NSA) on Ray.

From Python: ``from bcpg_cluster import run, load_config`` (docs/python.md). ``__init__.pyi`` has their types.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line must not load all of it to print its help."""
    if name in ("RunResult", "load_config"):
        return getattr(import_module("bcpg_cluster.run.entry"), name)
    raise AttributeError(f"module 'bcpg_cluster' has no attribute {name!r}")
