"""What a tracker is, and how one is opened. Used in the tracker's own process alone (``child``)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

_PAGE_WORDS = "Run page: "
Axis = Literal["round", "train"]  # what a step counts: rounds of the run, or optimiser steps over all its rounds


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as trackers know it.

    Attributes:
        id: stays the same when the run resumes in another process, and differs from a new run in a directory of the same name.
        name: shown; the run directory's.
        project: what groups runs; the configuration's name.
        folder: local and absolute: what the tracker writes here goes below it.
        directory: the run's: a path, or an address in an object store.
        page: the address of its page; ``None`` where nothing says that there is one.
        config: the run's whole configuration, as plain data.
        options: the tracker's own section of the configuration.
    """

    id: str
    name: str
    project: str
    folder: str
    directory: str = ""
    page: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def page_words(self) -> str:
        """Where to see the run, step by step, in Markdown: a link, or the command that shows it."""
        if self.page is not None:
            return f"{_PAGE_WORDS}[{self.page}]({self.page})"
        return f"{_PAGE_WORDS}`{self.page_command}`"

    @property
    def page_command(self) -> str:
        """The command that shows the run's page."""
        return f"bcpg-cluster view --run-dir {shlex.quote(self.directory)}"


def may_replace(description: str | None) -> bool:
    """Whether a run's description in a tracker is empty or ``page_words`` of an earlier start; a person's own stays."""
    return not description or description.startswith(_PAGE_WORDS)


class Tracker(Protocol):
    """Takes numbers. Any exception ends it, and nothing but it."""

    where: str  # for a person: where to look

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """Note values at a step of an axis. The same step may come again when a run resumes after a kill."""
        ...

    def close(self) -> None:
        """Have everything written."""
        ...
