"""watch/fault_recorder.py: what a run says of faults is in the manifest and passed on, with the round under way."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.fault_recorder import FaultRecorder
from bcpg_cluster.watch.observer import Faulted, Noted, StageProgress
from tests.told import Heard


def test_a_fault_gets_the_round_under_way_unless_it_has_one(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        heard = Heard()
        recorder = FaultRecorder(manifest, heard)
        recorder.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, "a", "gone")))
        recorder.hear(StageProgress(2, "generate", 0, 4))
        recorder.hear(Noted("nothing"))
        recorder.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, "b", "gone")))
        recorder.hear(Faulted(FaultEvent(FaultKind.FALLBACK, "push v1", "wire", round=1)))
        assert [(fault.what, fault.round) for fault in manifest.state.faults] == [("a", None), ("b", 2), ("push v1", 1)]
        passed_on = [event.fault for event in heard.of(Faulted)]
        assert [(fault.kind, fault.what, fault.round) for fault in passed_on[1:]] == [
            (FaultKind.REPLACEMENT, "b", 2),
            (FaultKind.FALLBACK, "push v1", 1),
        ]
        assert [type(event) for event in heard.events[1:3]] == [StageProgress, Noted]


def test_a_fault_of_the_pools_is_of_the_round_they_measure_while_the_next_one_trains(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        recorder = FaultRecorder(manifest, Heard())
        recorder.hear(StageProgress(1, "evaluate", 0, 4))
        recorder.hear(StageProgress(2, "train", 1, 4))
        recorder.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, "rollout/0", "gone")))
        assert [fault.round for fault in manifest.state.faults] == [1]
