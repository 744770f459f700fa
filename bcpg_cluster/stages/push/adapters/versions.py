"""Adapters pushed alone: what says between which weights they stand, and where an engine's own lie.

An engine that holds the weights a round started from needs the round's adapters alone: it reads the checkpoint it began with
again, adds every adapter since, oldest first, and so repeats in fp32 what the trainer computed for its snapshots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Carried = Literal["weights", "adapters"]
"""What a push carries."""

BASE_WEIGHTS: Final = "base"
"""Stands for :func:`weights_id` of the base model, whose digests are not noted."""

DOWN: Final = ".lora_A.weight"
UP: Final = ".lora_B.weight"
"""Ends of the names of an adapter's matrices, in place of the ``.weight`` they change (peft's own names)."""


@dataclass(frozen=True, slots=True)
class AdapterPush:
    """A round's adapters.

    Attributes:
        digests: sha256 of every matrix by name, noted when the snapshot was written.
        scaling: the factor alpha / rank.
        start: :func:`weights_id` of the weights they were trained on, and are merged into.
        result: that of the snapshot: those weights with the adapters merged in.
    """

    digests: Mapping[str, str]
    scaling: float
    start: str
    result: str


def weights_id(digests: Mapping[str, str]) -> str:
    """One sha256 for all parameters' digests: weights of equal ids are the same bytes under the same names."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MergeStart:
    """The weights an engine holds: a checkpoint on its disk, and what was merged into it since.

    Attributes:
        path: the checkpoint's directory.
        files: name, bytes, time of change and inode of its weight files, when they were read.
        holds: :func:`weights_id` of the weights that answer now.
    """

    path: str
    files: tuple[tuple[str, int, int, int], ...]
    holds: str

    @classmethod
    def of(cls, path: str, holds: str) -> MergeStart:
        """A checkpoint that is about to be read, or was."""
        return cls(path, _weight_files(path), holds)

    @property
    def is_there(self) -> bool:
        """Whether the checkpoint can be read again, and is still the one that was read."""
        return bool(self.files) and _weight_files(self.path) == self.files


def _weight_files(path: str) -> tuple[tuple[str, int, int, int], ...]:
    found = []
    for file in sorted(Path(path).glob("*.safetensors*")):  # the index of several files too
        try:
            stat = file.stat()
        except OSError:  # deleted meanwhile: another list, or none
            continue
        found.append((file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
