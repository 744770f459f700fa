"""store/faults.py: what went wrong, a line each, and never so many lines that they fill the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.store.faults import NUM_LINES_EACH, FaultEvent, FaultKind, FaultLines, count_by_kind, worst_of
from bcpg_cluster.store.layout import MANIFEST
from bcpg_cluster.store.manifest import Manifest, read_manifest


def _fault(kind: FaultKind = FaultKind.REPLACEMENT, number: int = 0, **rest: object) -> FaultEvent:
    member = f"rollout/{number}"
    return FaultEvent(kind, member, "gone", pool="rollout", member=member, time=float(number), **rest)  # type: ignore[arg-type]


def test_a_fault_comes_back_from_the_manifest_as_it_was(tmp_path: Path):
    fault = FaultEvent(
        FaultKind.REQUEUE, "judge.llm round 1 shard 3", "worker died\nline two", "back to the front of the queue",
        round=1, pool="judge.llm", member="judge.llm/0", host="10.0.0.7", time=12.5,
    )  # fmt: skip
    with Manifest(tmp_path) as manifest:
        manifest.add_fault(fault)
        manifest.add_fault(FaultEvent(FaultKind.REMADE, "outcomes", "checksum"))
    found = read_manifest(tmp_path).faults
    assert found[0] == fault
    assert (found[0].time, found[0].first_time) == (12.5, None)
    assert found[0].text == "judge.llm round 1 shard 3 on judge.llm/0: worker died; back to the front of the queue"
    assert found[1].plain().keys() == {"kind", "what", "cause", "consequence", "time", "num_times"}


def test_the_lines_of_earlier_programs_are_read(tmp_path: Path):
    line = {"event": "retry", "what": "train round 1", "why": "a rank was lost", "time": 7.0}
    (tmp_path / MANIFEST).write_text(json.dumps(line) + "\n", encoding="utf-8")
    (found,) = read_manifest(tmp_path).faults
    assert (found.kind, found.what, found.cause, found.time) == (
        FaultKind.RETRY,
        "train round 1",
        "a rank was lost",
        7.0,
    )


def test_a_member_that_dies_again_and_again_does_not_fill_the_manifest(tmp_path: Path):
    """Lines: 100 one by one, then at 150, 225, 337, 505, 757: those between are counted in; the end writes the rest."""
    with Manifest(tmp_path) as manifest:
        for number in range(1000):
            manifest.add_fault(_fault(number=number, round=1))
        assert len(manifest.state.faults) == NUM_LINES_EACH + 5
        joined = manifest.state.faults[NUM_LINES_EACH]
        assert (joined.num_times, joined.first_time, joined.time, joined.member) == (50, 100.0, 149.0, "rollout/149")
        manifest.add_fault(_fault(number=1000, round=2))  # another round counts for itself
    found = read_manifest(tmp_path).faults
    assert count_by_kind(found) == {"replacement": 1001}
    assert len(found) == NUM_LINES_EACH + 7
    assert [fault.num_times for fault in found if fault.round == 2] == [1]
    assert found[-1].first_time == 757.0


def test_a_run_that_is_resumed_counts_on(tmp_path: Path):
    for start in (0, 100):
        with Manifest(tmp_path) as manifest:
            for number in range(start, start + 100):
                manifest.add_fault(_fault(number=number))
    assert len(read_manifest(tmp_path).faults) == NUM_LINES_EACH + 2


def test_what_must_be_named_has_a_line_each():
    lines = FaultLines()
    written = [lines.add(_fault(FaultKind.QUARANTINED, number)) for number in range(500)]
    assert all(written)
    assert lines.rest() == []


@given(st.lists(st.sampled_from([FaultKind.REQUEUE, FaultKind.FALLBACK, FaultKind.QUARANTINED]), max_size=700))
def test_none_is_lost(kinds: list[FaultKind]):
    lines = FaultLines()
    told = [lines.add(_fault(kind, number)) for number, kind in enumerate(kinds)]
    written = [fault for fault in told if fault is not None] + lines.rest()
    assert count_by_kind(written) == count_by_kind(_fault(kind) for kind in kinds)
    assert lines.rest() == []


@pytest.mark.parametrize(
    ("kinds", "worst"),
    [
        ([], None),
        ([FaultKind.REQUEUE, FaultKind.REPLACEMENT], FaultKind.REPLACEMENT),
        ([FaultKind.REQUEUE, FaultKind.QUARANTINED, FaultKind.FALLBACK], FaultKind.QUARANTINED),
    ],
)
def test_the_worst_is_of_the_worst_kind(kinds: list[FaultKind], worst: FaultKind | None):
    found = worst_of([_fault(kind) for kind in kinds])
    assert (found and found.kind) == worst
