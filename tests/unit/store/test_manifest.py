"""store/manifest.py: the journal, its replay, and what may happen to the file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt, StepCheckpoint
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.folded import FoldedReceipts
from bcpg_cluster.store.journals.lines import Chain
from bcpg_cluster.store.layout import LOCK, MANIFEST
from bcpg_cluster.store.manifest import Manifest, ManifestState, SnapshotRecord, read_manifest
from bcpg_cluster.store.reports import RoundReport, TrainingSummary
from tests.told import push_facts


def _receipt(round_: int, table: str, shard: int, attempt: str = "a") -> Receipt:
    path = f"rounds/{round_:04d}/{table}/{shard:05d}-{attempt}.parquet"
    return Receipt(table, round_, shard, attempt, path, 10 + shard, 100, "c" * 8, 0.5, {"samples": 2.0})


def _snapshot(version: int) -> SnapshotRecord:
    return SnapshotRecord(version, f"snapshots/v{version:04d}-x", {"w": "d"}, 1.0, TrainingSummary(steps=2.0))


def test_a_snapshot_keeps_both_of_its_digests_and_an_old_one_has_none_for_the_wire(tmp_path: Path) -> None:
    record = replace(_snapshot(1), files={"config.json": "f"}, wire={"w": "x"})
    with Manifest(tmp_path) as manifest:
        manifest.add_snapshot(record)
    assert read_manifest(tmp_path).snapshots == {1: record}
    state = ManifestState()
    facts = {"version": 1, "path": "p", "digests": {"w": "d"}, "seconds": 1.0, "metrics": {}}
    state.apply({"event": "snapshot", **facts})
    assert state.snapshots[1] == SnapshotRecord(1, "p", {"w": "d"}, 1.0)


def _fill(manifest: Manifest) -> None:
    manifest.create(identity="i", name="n", program_version="0")
    manifest.add_report(RoundReport.read({"round": 0, "accuracy": 0.5}))
    for round_ in (1, 2):
        for table in ("prompts", "rollouts", "weighted"):
            for shard in (1, 0):
                assert manifest.accept(_receipt(round_, table, shard))
            manifest.seal(round_, table, 2)
        manifest.add_snapshot(_snapshot(round_))
        manifest.add_push(round_, push_facts())
        manifest.add_fault(FaultEvent(FaultKind.REQUEUE, "generate", "lost\nline two ½", round=round_))
        manifest.add_report(RoundReport.read({"round": round_, "accuracy": 0.6}))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("journal")
    with Manifest(folder) as manifest:
        _fill(manifest)
    return (folder / MANIFEST).read_bytes()


def test_adapters_are_noted_with_the_snapshot_they_are_merged_in(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        manifest.add_snapshot(replace(_snapshot(1), adapters={"m.lora_A.weight": "d"}))
        manifest.add_snapshot(_snapshot(2))
    found = read_manifest(tmp_path).snapshots
    assert (found[1].adapters, found[2].adapters) == ({"m.lora_A.weight": "d"}, {})
    lines = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert [line for line in lines if "adapters" in str(line)] == [
        line for line in lines if '"version": 1' in json.dumps(line)
    ]  # a run that trains whole weights writes what it wrote before


def test_replay_gives_the_writers_state(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        written = manifest.state
    for state in (read_manifest(tmp_path), Manifest(tmp_path).state):
        assert state == written
    assert [receipt.shard for receipt in written.receipts(1, "rollouts")] == [0, 1]
    assert written.sealed[1, "rollouts"].num_rows == 21
    assert written.reports[2].accuracy == 0.6
    assert written.snapshots[1] == _snapshot(1)
    assert len(written.faults) == 2


def test_no_manifest_is_an_empty_state(tmp_path: Path):
    assert read_manifest(tmp_path) == ManifestState()


def test_a_shard_is_accepted_once(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        first, late = _receipt(1, "rollouts", 0, "first"), replace(_receipt(1, "rollouts", 0, "late"), num_rows=99)
        assert manifest.accept(first)
        before = (tmp_path / MANIFEST).read_bytes()
        assert not manifest.accept(late)
        assert not manifest.accept(first)
        assert (tmp_path / MANIFEST).read_bytes() == before
        assert manifest.state.receipts(1, "rollouts") == [first]
    # even a journal that holds both counts the first
    event = {**Chain().read(before), "attempt": "late", "num_rows": 99}
    (tmp_path / MANIFEST).write_bytes(before + Chain().after(before).signed(event))
    assert read_manifest(tmp_path).receipts(1, "rollouts") == [first]


def test_many_shards_are_counted_in_one_write_as_they_would_be_one_by_one(tmp_path: Path):
    first, late = _receipt(1, "rollouts", 0, "first"), _receipt(1, "rollouts", 0, "late")
    other, known = _receipt(1, "outcomes", 0), _receipt(1, "rollouts", 1)
    with Manifest(tmp_path) as manifest:
        manifest.accept(known)
        assert manifest.accept_all([first, late, known, other]) == [True, False, False, True]
        before = (tmp_path / MANIFEST).read_bytes()
        assert manifest.accept_all([]) == []
        assert manifest.accept_all([late, known]) == [False, False]
        assert (tmp_path / MANIFEST).read_bytes() == before
        assert manifest.state.receipts(1, "rollouts") == [first, known]
        assert read_manifest(tmp_path) == manifest.state


def test_receipts_of_a_reported_round_are_folded_and_read_the_same(tmp_path: Path):
    given = {table: [_receipt(1, table, shard) for shard in range(50)] for table in ("rollouts", "weighted")}
    with Manifest(tmp_path) as manifest:
        for receipts in given.values():
            manifest.accept_all(receipts)
        state = manifest.state
        manifest.add_report(RoundReport.read({"round": 1}))
        assert {type(shards) for shards in state.shards.values()} == {FoldedReceipts}
        for table, receipts in given.items():
            folded = state.shards[1, table]
            assert state.receipts(1, table) == receipts
            assert folded[7] == receipts[7]
            assert (len(folded), sorted(folded), 49 in folded, 50 in folded) == (50, list(range(50)), True, False)
            assert state.missing(1, table, 52) == [50, 51]
        assert read_manifest(tmp_path) == state
        # what is added later counts as ever, and a round that is opened again is as it was
        assert not manifest.accept(_receipt(1, "weighted", 49, "late"))
        assert manifest.accept(_receipt(1, "weighted", 50))
        assert len(state.receipts(1, "weighted")) == 51
        manifest.reopen(1, ["weighted"], versions=2)
        assert {key: type(shards) for key, shards in state.shards.items()} == {(1, "rollouts"): dict}
        assert state.receipts(1, "rollouts") == given["rollouts"]
    assert read_manifest(tmp_path) == state


def test_seal_needs_every_shard(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        manifest.accept(_receipt(1, "rollouts", 1))
        with pytest.raises(
            StoreError, match=r"round 1, table 'rollouts' cannot be sealed: shards \[0, 2\] are missing"
        ):
            manifest.seal(1, "rollouts", 3)
        assert (1, "rollouts") not in manifest.state.sealed
        assert manifest.state.missing(1, "rollouts", 3) == [0, 2]


def test_a_torn_last_line_is_dropped_and_cut_off(tmp_path: Path, journal: bytes):
    (tmp_path / MANIFEST).write_bytes(journal + b'{"event": "report", "rou')
    assert read_manifest(tmp_path).reports.keys() == {0, 1, 2}
    with Manifest(tmp_path) as manifest:
        manifest.add_report(RoundReport.read({"round": 3}))
    assert read_manifest(tmp_path).reports.keys() == {0, 1, 2, 3}


@pytest.mark.parametrize("rubbish", [b'{"event": "sha\n', b"\x00\x00\x00\n", b"\xff\n", b"12\n", b"{}\n", b"\n"])
def test_rubbish_in_the_middle_is_an_error(tmp_path: Path, journal: bytes, rubbish: bytes):
    lines = journal.splitlines(keepends=True)
    content = b"".join([*lines[:3], rubbish, *lines[3:]])
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(RunDirectoryError, match="line 4: not an event") as caught:
        read_manifest(tmp_path)
    assert caught.value.remedy
    with pytest.raises(RunDirectoryError):
        Manifest(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == content


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_journal_cut_anywhere_is_an_earlier_state(
    tmp_path_factory: pytest.TempPathFactory, journal: bytes, data: st.DataObject
):
    cut = data.draw(st.integers(0, len(journal)))
    folder = tmp_path_factory.getbasetemp() / "cut"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(journal[:cut])
    expected = ManifestState()
    chain = Chain()
    for line in journal[:cut].splitlines(keepends=True):
        if line.endswith(b"\n"):
            expected.apply(chain.read(line))
            chain = chain.after(line)
    assert read_manifest(folder) == expected
    with Manifest(folder) as manifest:  # and whoever opens it goes on from there
        assert manifest.state == expected
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
    assert read_manifest(folder).faults[-1].what == "x"
    assert (folder / MANIFEST).read_bytes().count(b"\n") == journal[:cut].count(b"\n") + 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_is_never_a_raw_error(
    tmp_path_factory: pytest.TempPathFactory, journal: bytes, data: st.DataObject
):
    place = data.draw(st.integers(0, len(journal) - 1))
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(
        journal[:place] + data.draw(st.binary(min_size=1, max_size=1)) + journal[place + 1 :]
    )
    try:
        read_manifest(folder)
    except RunDirectoryError as error:
        assert MANIFEST in str(error) or "newer version" in str(error)


def test_a_newer_manifest_is_refused(tmp_path: Path, journal: bytes):
    newer = Chain().signed(Chain().read(journal.splitlines(keepends=True)[0]) | {"manifest_version": 2})
    (tmp_path / MANIFEST).write_bytes(newer)
    with pytest.raises(RunDirectoryError, match=r"made by a newer version \(manifest 2\)"):
        read_manifest(tmp_path)
    with pytest.raises(RunDirectoryError, match="newer"):
        Manifest(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == newer


def test_unknown_events_are_skipped(tmp_path: Path, journal: bytes):
    chain = Chain()
    for line in journal.splitlines(keepends=True):
        chain = chain.after(line)
    (tmp_path / MANIFEST).write_bytes(journal + chain.signed({"event": "moved", "where": "moon"}))
    assert read_manifest(tmp_path).reports.keys() == {0, 1, 2}


def test_reopen_one_table_of_the_last_round(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        manifest.reopen(2, ["weighted"], versions=2)
        state = manifest.state
        assert (2, "weighted") not in state.shards
        assert (2, "weighted") not in state.sealed
        assert (2, "rollouts") in state.sealed
        assert state.snapshots.keys() == state.pushes.keys() == {1}
        assert state.reports.keys() == {0, 1}
        assert manifest.accept(_receipt(2, "weighted", 0, "again"))
    assert read_manifest(tmp_path) == state


def test_reopen_an_early_round_lets_go_of_all_later_ones(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        manifest.reopen(1, ["weighted"], versions=1)
    state = read_manifest(tmp_path)
    assert set(state.shards) == {(1, "prompts"), (1, "rollouts")}
    assert not state.snapshots
    assert state.reports.keys() == {0}


def test_reopen_of_a_measurement_keeps_the_weights(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        manifest.reopen(2, ["eval_rollouts"], versions=3)
        assert manifest.state.snapshots.keys() == {1, 2}
        assert (2, "weighted") in manifest.state.sealed
        assert manifest.state.reports.keys() == {0, 1}


def test_reopen_alone_keeps_later_rounds(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        kept = set(manifest.state.shards) - {(1, "weighted")}
        manifest.reopen_alone(1, ["weighted"])
        state = manifest.state
        assert set(state.shards) == kept
        assert {round_ for round_, _ in kept} >= {1, 2}
        assert (1, "weighted") not in state.sealed
        assert (2, "weighted") in state.sealed
        assert state.snapshots.keys() == {1, 2}
        assert 1 not in state.reports
        assert manifest.accept(_receipt(1, "weighted", 0, "again"))
    assert read_manifest(tmp_path) == state


def test_one_process_works_on_a_run_at_a_time(tmp_path: Path):
    code = f"""
import pathlib, sys
from bcpg_cluster.store.reports import RoundReport, TrainingSummary
from tests.told import push_facts
from bcpg_cluster.store.manifest import Manifest
manifest = Manifest(pathlib.Path({str(tmp_path)!r}))
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(RunDirectoryError, match=f"is in use by process {other.pid}") as caught:
            Manifest(tmp_path)
        assert "another --run-dir" in caught.value.remedy
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid
        other.kill()
    Manifest(tmp_path).close()  # a dead process holds nothing


# --- step checkpoints


def test_step_checkpoints_count_until_their_round_has_its_snapshot(tmp_path: Path):
    old, new, again = StepCheckpoint(20, "a"), StepCheckpoint(40, "b"), StepCheckpoint(20, "c")
    with Manifest(tmp_path) as manifest:
        seen = []
        for note in (
            lambda: manifest.add_step_checkpoint(2, old),
            lambda: manifest.add_step_checkpoint(2, new),
            lambda: manifest.add_fall_back(2, 20),
            lambda: manifest.add_step_checkpoint(2, new),
            lambda: manifest.add_step_checkpoint(
                2, again
            ),  # of a training that began at step 0: what was further is another's
            lambda: manifest.add_fall_back(2, 0),
            lambda: manifest.add_step_checkpoint(2, new),
            lambda: manifest.add_snapshot(_snapshot(2)),
        ):
            note()
            seen.append(manifest.state.step_checkpoints.get(2))
            assert read_manifest(tmp_path) == manifest.state
        assert seen == [[old], [old, new], [old], [old, new], [again], [], [new], None]


def test_a_stage_that_is_done_again_forgets_step_checkpoints(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
        manifest.add_step_checkpoint(3, StepCheckpoint(20, "a"))
        manifest.reopen(3, ["reference"], 3)
        assert manifest.state.step_checkpoints == {} == read_manifest(tmp_path).step_checkpoints


def test_a_snapshots_files_are_noted_and_old_lines_have_none(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        record = replace(_snapshot(1), files={"config.json": "d"})
        manifest.add_snapshot(record)
        assert read_manifest(tmp_path).snapshots[1] == record
    (line,) = (tmp_path / MANIFEST).read_text().splitlines()
    event = json.loads(line)
    del event["files"]
    state = ManifestState()
    state.apply(event)
    assert state.snapshots[1] == replace(record, files={})


def test_a_fault_of_a_kind_that_a_newer_program_has_is_passed_over(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        manifest._append({"event": "fault", "kind": "newer", "what": "x", "cause": "y", "time": 1.0})
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "a", "b"))
    assert [fault.what for fault in read_manifest(tmp_path).faults] == ["a"]
