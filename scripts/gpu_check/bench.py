"""What every check is given: a device, sizes, a folder, and where its figures go as soon as they are known."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scripts.gpu_check.record import CheckFailed


@dataclass(frozen=True, slots=True)
class Bench:
    """A check's surroundings.

    Attributes:
        device: ``cuda`` or ``cpu``.
        is_small: sizes for a CPU.
        folder: of the check alone; removed after it.
        shared: of all checks: models that several of them read.
        figures: what is known so far; :meth:`note` also writes it to disk, so that a check that is stopped keeps it.
    """

    device: str
    is_small: bool
    folder: Path
    shared: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def note(self, **figures: Any) -> None:
        """Keep figures."""
        self.figures.update(figures)
        (self.folder / "figures.json").write_text(json.dumps(self.figures))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of work on the device, from start to end."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began


def require(holds: bool, problem: str) -> None:
    """Raises:
    CheckFailed: with the problem, unless it holds.
    """
    if not holds:
        raise CheckFailed(problem)
