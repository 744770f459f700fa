"""The observer that writes a run's faults into its manifest. It hears before all others."""

from __future__ import annotations

from dataclasses import replace

from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Event, Faulted, StageProgress


class FaultRecorder:
    """See the module's docstring. Pools do not know the round that they work for; such faults get the one under way."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._round: int | None = None

    def hear(self, event: Event) -> None:
        """Write faults; follow the rounds."""
        match event:
            case StageProgress(round=round_):
                self._round = round_
            case Faulted(fault=fault):
                self._manifest.add_fault(fault if fault.round is not None else replace(fault, round=self._round))
