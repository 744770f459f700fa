"""Which of pytest-xdist's workers has which tests: one all files with engines, the others the rest, file by file.

Two sets of engines at once are too much for a small machine, and one set can be shared. (Its own way to say this, `--dist
loadgroup`, has no effect with pytest 9.2: it sets an attribute of test items that is gone.)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

ENGINES = "files with engines"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    is_with_engines: dict[str, bool] = {}

    class EnginesTogether(LoadScopeScheduling):
        """Gives out the scope of most tests first, which is the engines'."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file not in is_with_engines:
                is_with_engines[file] = "pytest.mark.engine" in (Path(config.rootpath) / file).read_text()
            return ENGINES if is_with_engines[file] else file

    return EnginesTogether(config, log)
