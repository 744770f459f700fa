"""A run: its rounds, its members, its directory. Read ``coordinator.py`` first.

The room itself can be called: ``from bcpg_cluster import run`` is a function for scripts and notebooks (``entry.run_rounds``).
"""

import sys
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    def __call__(self, *args: Any, **named: Any) -> Any:
        """See :func:`bcpg_cluster.run.entry.run_rounds`."""
        from bcpg_cluster.run.entry import run_rounds

        return run_rounds(*args, **named)


sys.modules[__name__].__class__ = _Run
