"""What a tracker is, and how one is opened. Used in the tracker's own process alone (``child``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Axis = Literal["round", "train"]  # what a step counts: rounds of the run, or optimiser steps over all its rounds


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as trackers know it.

    Attributes:
        id: stays the same when the run resumes in another process, and differs from a new run in a directory of the same name.
        name: shown; the run directory's.
        project: what groups runs; the configuration's name.
        folder: local and absolute: what the tracker writes here goes below it.
        config: the run's whole configuration, as plain data.
        options: the tracker's own section of the configuration.
    """

    id: str
    name: str
    project: str
    folder: str
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Tracker(Protocol):
    """Takes numbers. Any exception ends it, and nothing but it."""

    where: str  # for a person: where to look

    def log(self, axis: Axis, step: int, values: Mapping[str, float]) -> None:
        """Note values at a step of an axis. The same step may come again when a run resumes after a kill."""
        ...

    def close(self) -> None:
        """Have everything written."""
        ...
