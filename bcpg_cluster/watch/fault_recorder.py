"""What a run's parts speak to: it writes the run's faults into its manifest, and passes everything on."""

from __future__ import annotations

from dataclasses import replace

from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import Event, Faulted, Observer, StageProgress


class FaultRecorder:
    """See the module's docstring. Pools do not know the round that they work for; such faults get the one under way, which a
    training in another thread does not change.
    """

    def __init__(self, manifest: Manifest, observer: Observer) -> None:
        self._manifest, self._observer = manifest, observer
        self._round: int | None = None

    def hear(self, event: Event) -> None:
        """Write faults, follow the rounds, pass on."""
        match event:
            case StageProgress(round=round_, stage=stage) if stage != "train" or self._round is None:
                self._round = round_
            case Faulted(fault=fault):
                event = Faulted(fault if fault.round is not None else replace(fault, round=self._round))
                self._manifest.add_fault(event.fault)
        self._observer.hear(event)
