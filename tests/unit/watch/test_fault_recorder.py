"""watch/fault_recorder.py: what a run's observer hears of faults is in the manifest, with the round under way."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.fault_recorder import FaultRecorder
from bcpg_cluster.watch.observer import Faulted, Noted, StageProgress


def test_a_fault_gets_the_round_under_way_unless_it_has_one(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        recorder = FaultRecorder(manifest)
        recorder.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, "a", "gone")))
        recorder.hear(StageProgress(2, "generate", 0, 4))
        recorder.hear(Noted("nothing"))
        recorder.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, "b", "gone")))
        recorder.hear(Faulted(FaultEvent(FaultKind.FALLBACK, "push v1", "wire", round=1)))
        assert [(fault.what, fault.round) for fault in manifest.state.faults] == [("a", None), ("b", 2), ("push v1", 1)]
