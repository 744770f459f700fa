"""store/journals: what is caught in a journal that was altered, and what cutting it back leaves."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bcpg_cluster.errors import DamagedManifestError, RunDirectoryError
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journals.lines import Chain, DamageKind
from bcpg_cluster.store.journals.mending import cut_manifest, read_damaged_manifest
from bcpg_cluster.store.layout import MANIFEST, SEGMENTS
from bcpg_cluster.store.manifest import Manifest, ManifestState, SnapshotRecord, is_mendable, read_manifest
from bcpg_cluster.store.path import StoredPath, run_path
from bcpg_cluster.store.reports import RoundReport, TrainingSummary
from tests.rewritten import rewrite_manifest
from tests.told import push_facts


def _receipt(table: str, shard: int, attempt: str = "a", checksum: str = "cc") -> Receipt:
    return Receipt(table, 1, shard, attempt, f"{table}/{shard}", 32, 100, checksum, 0.5, {"samples": 2.0})


def _fill(manifest: Manifest) -> None:
    manifest.create(identity="i", name="n", program_version="0")
    manifest.add_report(RoundReport.read({"round": 0, "accuracy": 0.5}))
    manifest.accept_all([_receipt("rollouts", shard) for shard in range(2)])
    manifest.seal(1, "rollouts", 2)
    manifest.accept_all([_receipt("weighted", shard) for shard in range(3)])
    manifest.seal(1, "weighted", 3)
    manifest.add_snapshot(SnapshotRecord(1, "snapshots/v1", {"w": "d1"}, 1.0, TrainingSummary(steps=2.0)))
    manifest.add_push(1, push_facts())
    manifest.add_fault(FaultEvent(FaultKind.RETRY, "generate", "lost\nline two ½"))
    manifest.add_report(RoundReport.read({"round": 1, "accuracy": 0.625}))


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    with Manifest(tmp_path) as manifest:
        _fill(manifest)
    return (tmp_path / MANIFEST).read_bytes().splitlines(keepends=True)


def unsigned(lines: list[bytes]) -> list[bytes]:
    """As runs made before wrote them: no checksums, and seals that count only shards and rows."""
    events = [json.loads(line) for line in lines]
    return [
        json.dumps({key: value for key, value in event.items() if key not in ("crc", "receipts")}).encode() + b"\n"
        for event in events
    ]


def states(lines: list[bytes]) -> list[ManifestState]:
    """The state after none, one, ... all of the lines."""
    found = []
    for end in range(len(lines) + 1):
        state, chain = ManifestState(), Chain()
        for line in lines[:end]:
            state.apply(chain.read(line))
            chain = chain.after(line)
        found.append(state)
    return found


def is_caught(run_dir: Path, content: list[bytes]) -> bool:
    (run_dir / MANIFEST).write_bytes(b"".join(content))
    try:
        read_manifest(run_dir)
    except DamagedManifestError as error:
        found = read_damaged_manifest(run_dir)
        assert error.line == found.damages[0].line == found.num_lines + 1
        assert f"line {error.line}: " in str(error)
        return True
    assert read_damaged_manifest(run_dir).damages == ()
    return False


def test_every_line_carries_a_checksum_that_an_old_reader_skips(tmp_path: Path, lines: list[bytes]):
    assert all(len(json.loads(line)["crc"]) == 8 for line in lines)
    # CRC-32 of the line's bytes up to the key, begun with the line before's
    content = lines[0].split(b', "crc"')[0]
    assert json.loads(lines[0])["crc"] == f"{zlib.crc32(content):08x}"
    second = lines[1].split(b', "crc"')[0]
    assert json.loads(lines[1])["crc"] == f"{zlib.crc32(second, zlib.crc32(content)):08x}"
    assert read_manifest(tmp_path) == states(lines)[-1]


def test_every_line_removed_repeated_or_moved_is_caught(tmp_path: Path, lines: list[bytes]):
    last = len(lines) - 1
    for place, line in enumerate(lines):
        without = [*lines[:place], *lines[place + 1 :]]
        if place == last:  # a journal that ends earlier is one that a crash left earlier
            assert not is_caught(tmp_path, without)
            assert read_manifest(tmp_path) == states(lines)[last]
        else:
            assert is_caught(tmp_path, without)
        for to in range(place + 1, len(lines) + 1):
            assert is_caught(tmp_path, [*lines[:to], line, *lines[to:]])
    for place in range(last):
        swapped = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
        assert is_caught(tmp_path, swapped)


def test_a_changed_byte_is_caught_at_its_line_or_changes_nothing(tmp_path: Path, lines: list[bytes]):
    journal, whole, harmless = b"".join(lines), states(lines), 0
    for place in (*range(0, len(journal) - 1, 11), len(journal) - 1):
        for flip in (0x01, 0x20, 0x80):
            changed = journal[:place] + bytes([journal[place] ^ flip]) + journal[place + 1 :]
            (tmp_path / MANIFEST).write_bytes(changed)
            at = journal[:place].count(b"\n") + 1
            try:
                state = read_manifest(tmp_path)
            except DamagedManifestError as error:
                assert error.line == at or (at == 1 and error.line == 2 and error.kind == DamageKind.UNTOLD)
            else:  # only the end of the last line: torn, as a crash leaves it
                assert at == len(lines)
                assert state in (whole[-2], whole[-1])
                harmless += 1
    assert harmless == 3


def test_what_was_wrong_is_said(tmp_path: Path, lines: list[bytes]):
    text = b"".join(lines)
    for old, new, said in (
        (b'"w": "d1"', b'"w": "d2"', r"line 10: the snapshot of version 1 fails its checksum"),
        (b'"accuracy": 0.625', b'"accuracy": 0.725', r"line 13: the report of round 1 fails its checksum"),
        (b'"shard": 1, "attempt": "a", "path": "w', b'"shard": 7, "attempt": "a", "path": "w', r"line 7: shard 7 "),
        (b'"num_rows": 96', b'"num_rows": 64', r"line 9: the seal of round 1, table 'weighted', fails"),
        (b'"event": "push"', b'"evenT": "push"', r"line 11: not an event"),
        (b'"crc"', b'"crx"', r"line 2: the report of round 0 has the first checksum, and fails it"),
    ):  # fmt: skip
        assert old in text
        (tmp_path / MANIFEST).write_bytes(text.replace(old, new, 1))
        with pytest.raises(DamagedManifestError, match=said) as caught:
            read_manifest(tmp_path)
        assert caught.value.rule
        assert ("--mend" in caught.value.remedy) == (caught.value.kind != DamageKind.UNTOLD)
        found = read_damaged_manifest(tmp_path)
        assert is_mendable(found.state, found.damages[0]) == (caught.value.kind != DamageKind.UNTOLD)
        with pytest.raises(DamagedManifestError, match=said):
            Manifest(tmp_path)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.line, again.kind) == (str(caught.value), caught.value.line, caught.value.kind)


def test_a_whole_last_line_that_fails_is_an_error_and_a_torn_one_is_not(tmp_path: Path, lines: list[bytes]):
    assert is_caught(tmp_path, [*lines, b"\x00\x8f garbage of a power cut\n"])
    assert is_caught(tmp_path, [*lines[:-1], lines[-1].replace(b"0.625", b"0.626")])
    for torn in (b"\x00" * 4096, b"\x00\x8f garbage", lines[3][:40]):
        assert not is_caught(tmp_path, [*lines, torn])
        assert read_manifest(tmp_path) == states(lines)[-1]


def test_old_lines_are_read_as_ever_and_vouched_for_from_then_on(tmp_path: Path, lines: list[bytes]):
    old = unsigned(lines)
    (tmp_path / MANIFEST).write_bytes(b"".join([*old, b"not the whole line\n"]))  # counts as torn, as ever
    assert read_manifest(tmp_path).reports == states(lines)[-1].reports
    with Manifest(tmp_path) as manifest:
        assert (tmp_path / MANIFEST).read_bytes() == b"".join(old)
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "z", "y"))
    after = (tmp_path / MANIFEST).read_bytes().splitlines(keepends=True)
    assert after[:-2] == old
    assert [fault.what for fault in read_manifest(tmp_path).faults] == ["generate", "x", "z"]
    changed = old[0].replace(b'"identity": "i"', b'"identity": "j"')
    assert is_caught(tmp_path, [changed, *after[1:]])
    for place in range(len(old)):
        assert is_caught(tmp_path, [*after[:place], *after[place + 1 :]])
    # once there was a checksum, a line without one is an error
    (tmp_path / MANIFEST).write_bytes(b"".join([*after, old[1]]))
    with pytest.raises(
        DamagedManifestError, match="the report of round 0 has no checksum, though lines before"
    ) as caught:
        read_manifest(tmp_path)
    assert caught.value.kind == DamageKind.NO_CHECKSUM


@pytest.mark.parametrize("shard", range(3))
def test_a_seal_counts_its_shards_in_old_runs_too(tmp_path: Path, lines: list[bytes], shard: int):
    """The run that trained on 64 of 96 rows."""
    old = unsigned(lines)
    at = 5 + shard
    assert f'"table": "weighted", "round": 1, "shard": {shard},'.encode() in old[at]
    (tmp_path / MANIFEST).write_bytes(b"".join([*old[:at], *old[at + 1 :]]))
    with pytest.raises(
        DamagedManifestError, match=rf"line 8: the seal .* says 3 shards, .* lack \[{shard}\]"
    ) as caught:
        Manifest(tmp_path)
    assert caught.value.kind == DamageKind.SEAL
    (tmp_path / MANIFEST).write_bytes(b"".join(old).replace(b'"num_rows": 96', b'"num_rows": 64'))
    with pytest.raises(DamagedManifestError, match="says 64 rows, but the lines before it have 96"):
        read_manifest(tmp_path)


def test_a_seal_knows_its_shards_by_their_checksums(tmp_path: Path):
    """Even where every line is whole: another receipt stands where the sealed one stood."""
    with Manifest(tmp_path) as manifest:
        manifest.accept(_receipt("weighted", 0))
        manifest.seal(1, "weighted", 1)
    rewrite_manifest(tmp_path, lambda event: event | {"checksum": "dd"} if event["event"] == "shard" else event)
    with pytest.raises(DamagedManifestError, match="is of shards with other checksums") as caught:
        read_manifest(tmp_path)
    assert caught.value.kind == DamageKind.SEAL


def test_all_damages_are_listed(tmp_path: Path, lines: list[bytes]):
    changed = [*lines]
    changed[3] = changed[3].replace(b'"num_rows": 32', b'"num_rows": 31')
    changed[7] = b"rubbish\n"
    changed[11] = unsigned(lines)[11]
    (tmp_path / MANIFEST).write_bytes(b"".join(changed))
    found = read_damaged_manifest(tmp_path)
    assert found.state == states(lines)[3]
    assert found.num_lines == 3
    kinds = [(damage.line, damage.kind) for damage in found.damages]
    assert kinds[:2] == [(4, DamageKind.CHANGED), (8, DamageKind.NOT_AN_EVENT)]
    assert (12, DamageKind.NO_CHECKSUM) in kinds


def test_a_journal_is_cut_back_and_kept_as_it_was(tmp_path: Path, lines: list[bytes]):
    for number, place in enumerate((12, 9, 5, 1), start=1):
        damaged = b"".join([*lines[:place], lines[place].replace(b"event", b"evenT"), *lines[place + 1 :], b"torn"])
        (tmp_path / MANIFEST).write_bytes(damaged)
        cut = cut_manifest(tmp_path)
        assert cut is not None
        assert (cut.num_lines, cut.num_cut) == (place, len(lines) - place + 1)
        assert cut.kept_as == tmp_path / f"manifest.jsonl.damaged-{number}"
        assert cut.kept_as.read_bytes() == damaged
        assert (tmp_path / MANIFEST).read_bytes() == b"".join(lines[:place])
        assert cut_manifest(tmp_path) is None
    with Manifest(tmp_path) as manifest:  # and what follows fits
        manifest.add_report(RoundReport.read({"round": 1, "accuracy": 0.5}))
        assert read_manifest(tmp_path) == manifest.state


def test_nothing_is_cut_where_it_must_not_be(tmp_path: Path, lines: list[bytes]):
    with Manifest(tmp_path), pytest.raises(RunDirectoryError, match="is in use by process"):
        cut_manifest(tmp_path)
    content = b"".join([lines[0].replace(b'"name": "n"', b'"name": "m"'), *lines[1:]])
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedManifestError, match="line 1: the event 'created' fails") as caught:
        cut_manifest(tmp_path)
    assert "--mend" not in caught.value.remedy
    assert (tmp_path / MANIFEST).read_bytes() == content
    assert cut_manifest(tmp_path / "new") is None


@pytest.fixture
def stored() -> Iterator[StoredPath]:
    place = run_path("memory://tests/mending")
    assert isinstance(place, StoredPath)
    yield place
    place.remove_tree()


def test_a_journal_in_a_store_is_cut_by_the_next_epoch(stored: StoredPath):
    with Manifest(stored) as manifest:
        _fill(manifest)
    with Manifest(stored) as manifest:
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
    first, second = sorted((stored / SEGMENTS).iterdir(), key=str)
    damaged = first.read_bytes().replace(b'"num_rows": 32', b'"num_rows": 31', 1)
    first.write(damaged)
    later = second.read_bytes()
    with pytest.raises(
        DamagedManifestError, match="line 4: shard 0 of round 1, table 'rollouts', fails its checksum"
    ) as caught:
        read_manifest(stored)
    cut = cut_manifest(stored)
    assert cut is not None
    assert cut.num_lines == caught.value.line - 1 == 3
    assert (first.read_bytes(), second.read_bytes()) == (damaged, later)
    assert read_manifest(stored).reports.keys() == {0}
    with Manifest(stored) as manifest:
        assert not manifest.state.shards
        manifest.accept(replace(_receipt("rollouts", 0), attempt="again"))
        assert read_manifest(stored) == manifest.state
    assert cut_manifest(stored) is None


def test_a_store_whose_first_line_of_an_epoch_is_gone_is_refused(stored: StoredPath):
    for _ in range(2):
        with Manifest(stored) as manifest:
            manifest.create(identity="i", name="n", program_version="0")
    _, second = sorted((stored / SEGMENTS).iterdir(), key=str)
    second.write(b"".join(second.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(RunDirectoryError, match="does not say how far the segments before it count"):
        read_manifest(stored)
