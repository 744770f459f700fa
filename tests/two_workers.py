"""Which of pytest-xdist's workers has which tests: one all files with engines, the others the rest, file by file.

Two sets of engines at once are too much for a small machine, and one set can be shared. Files that make hosts of their own on
this machine run fakes and wait most of the time; they follow each other too, beside the engines. (Its own way to say this, `--dist
loadgroup`, has no effect with pytest 9.2: it sets an attribute of test items that is gone.)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

TOGETHER = {"files with hosts": "missing_parts()", "files with engines": "pytest.mark.engine"}
"""What each of the files that one worker has one after the other says; the first that holds."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    scopes: dict[str, str] = {}

    class EnginesTogether(LoadScopeScheduling):
        """Gives out the scope of most tests first, which is the engines'."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file not in scopes:
                content = (Path(config.rootpath) / file).read_text()
                scopes[file] = next((scope for scope, said in TOGETHER.items() if said in content), file)
            return scopes[file]

    return EnginesTogether(config, log)
