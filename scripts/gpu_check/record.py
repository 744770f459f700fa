"""What a check says and what the whole file says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
ON_CPU = "No GPU was used: these are small sizes on a CPU, which show that the checks work and nothing about a GPU."

Status = Literal["ok", "failed", "skipped"]


class CheckFailed(Exception):
    """Two things that must agree do not; the message says which and by how much."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Of one check.

    Attributes:
        reason: why it failed or was skipped; empty when it is ok.
        seconds: of its process, imports included; 0 where none was started.
        figures: what it measured until then, units in the names.
    """

    name: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the checks ran.

    Attributes:
        device: the GPU's name, or the processor's.
        driver: the GPU's; ``None`` without one.
        cuda: what torch was built for; ``None`` for a CPU build.
        memory_gib: the GPU's; ``None`` without one.
        commit: of the checkout, with ``+changes`` where files differ from it.
    """

    device: str
    is_gpu: bool
    driver: str | None
    cuda: str | None
    memory_gib: float | None
    python: str
    versions: Mapping[str, str]
    commit: str
    load_average: Sequence[float]


@dataclass(frozen=True, slots=True)
class Record:
    """The one file of a run of the checks."""

    began: str
    seconds: float
    limit_s: float
    is_small: bool
    machine: Machine
    checks: Sequence[CheckResult]

    def as_json(self) -> str:
        """With the number of checks by status first, and a plain word where no GPU was used."""
        counts = Counter(check.status for check in self.checks)
        content = {
            "schema": SCHEMA,
            **({} if self.machine.is_gpu else {"note": ON_CPU}),
            "counts": {status: counts[status] for status in ("ok", "failed", "skipped")},
            **asdict(self),
        }
        return json.dumps(content, indent=2) + "\n"

    def has_failed(self) -> bool:
        """Whether any check failed."""
        return any(check.status == "failed" for check in self.checks)


def write_record(record: Record, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(record.as_json())
    partial.replace(path)
