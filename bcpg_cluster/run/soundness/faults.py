"""What a check of a run finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.graph import StageSpec, data_stages
from bcpg_cluster.store.journals.lines import Damage
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath


class Fate(StrEnum):
    """What becomes of something damaged."""

    REMADE = "remade"
    """The next `iterate` makes it again, or writes it again."""
    RESTORED = "restored"
    """`--mend` can put it back as it was."""
    UNUSED = "unused"
    """Nothing that is still to be done needs it."""
    LOST = "lost"
    """Only a copy, or giving up results, brings it back."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is not what was written.

    Attributes:
        path: relative to the run directory.
        what: is wrong.
        follows: what depends on it, and what to do.
    """

    path: str
    what: str
    fate: Fate
    follows: str


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run, checked.

    Attributes:
        holder: the process that works on it now; the run was then read as it stood.
        strays: files that no line of the manifest names, relative to the run directory. They count for nothing.
        notes: what was not checked, and what waits to be made again.
    """

    run_dir: RunPath
    holder: str | None
    num_shards: int
    num_snapshots: int
    faults: tuple[Fault, ...]
    strays: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, fate: Fate) -> list[Fault]:
        """The faults with this fate."""
        return [fault for fault in self.faults if fault.fate is fate]

    @property
    def exit_code(self) -> int:
        """0: all is what was written, as far as anything needs it; 1: something is not."""
        return 1 if any(fault.fate is not Fate.UNUSED for fault in self.faults) else 0


@dataclass(frozen=True, slots=True)
class Subject:
    """The run that is looked at.

    Attributes:
        state: as far as the manifest can be believed.
        damages: of the manifest.
        config: ``None`` where it cannot be read; what needs it is then not checked.
    """

    run_dir: RunPath
    state: ManifestState
    damages: tuple[Damage, ...]
    config: Config | None

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The data stages of its rounds; without a config by the tables that are there."""
        if self.config is not None:
            return self.config.data_stages
        judges = {table.removeprefix("verdicts.") for _, table in self.state.shards if table.startswith("verdicts.")}
        # Which judge comes after which is not known.
        may_be_read = {judge: sorted(judges - {judge}) for judge in judges}
        return data_stages(dict.fromkeys(sorted(judges), ""), may_be_read)
