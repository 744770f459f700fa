"""store/journal.py in an object store: one writer, however many want to be it, and whatever a writer of before still does."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.store.journal import check_free, journal_lines, lock_holder
from bcpg_cluster.store.journals import in_store, owner
from bcpg_cluster.store.journals.in_store import StoredJournal, lease_holder
from bcpg_cluster.store.journals.owner import BEAT_S, LEASE_S
from bcpg_cluster.store.layout import LOCK, SEGMENTS
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.store.path import StoredPath, run_path
from bcpg_cluster.store.reports import RoundReport


@pytest.fixture
def run_dir() -> Iterator[StoredPath]:
    place = run_path("memory://tests/journal")
    assert isinstance(place, StoredPath)
    yield place
    place.remove_tree()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on this process counts as one of another machine, of whose processes nothing is known here."""

    def move() -> None:
        monkeypatch.setattr(owner, "machine", lambda: "another boot")

    return move


def opened(run_dir: StoredPath, clock: Any) -> StoredJournal:
    made = StoredJournal(run_dir, clock=clock, beat=False)
    made.begin(sum(map(len, made.lines())))
    return made


def events(run_dir: StoredPath) -> list[Any]:
    """What counts, without who opened the journal when."""
    found = [json.loads(line) for line in journal_lines(run_dir)]
    return [event["n"] for event in found if event.get("event") != "opened"]


def line(number: int, padding: int = 0) -> bytes:
    return json.dumps({"n": number, "padding": "x" * padding}).encode() + b"\n"


def test_lines_stay_in_order_over_segments_and_sessions(run_dir: StoredPath, clock: Any):
    for session in range(3):
        journal = opened(run_dir, clock)
        for number in range(40):
            journal.append(line(40 * session + number, padding=5000))
        journal.close()
    assert events(run_dir) == list(range(120))
    segments = [path.name for path in (run_dir / SEGMENTS).iterdir()]
    assert len(segments) >= 9  # 600 KB in pieces of 64 KiB
    assert max(len((run_dir / SEGMENTS / name).read_bytes()) for name in segments) < 2 * 64 * 1024


def test_a_manifest_is_the_same_there(run_dir: StoredPath):
    with Manifest(run_dir) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        manifest.add_report(RoundReport(round=0, accuracy=0.5))
        assert lock_holder(run_dir) is not None
        with pytest.raises(RunDirectoryError, match=r"is in use by process \d+ on .+ \(its last sign came"):
            Manifest(run_dir)
        with pytest.raises(RunDirectoryError, match="is in use"):
            check_free(run_dir)
        check_free(run_dir, take_over=True)
    assert lock_holder(run_dir) is None
    assert read_manifest(run_dir) == manifest.state
    with Manifest(run_dir) as again:
        assert again.state == manifest.state


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_that_want_a_run_one_gets_it(attempt: int, run_dir: StoredPath, clock: Any):
    got: list[StoredJournal] = []
    refused: list[RunDirectoryError] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        try:
            got.append(StoredJournal(run_dir, clock=clock, beat=False))
        except RunDirectoryError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_a_run_that_is_taken_while_another_looks_is_not_taken_again(
    run_dir: StoredPath, clock: Any, monkeypatch: pytest.MonkeyPatch
):
    """The other one takes it after this one read the journal, or after it saw that the run is free."""
    for step in ("counted", "newest_lease"):
        taken: list[StoredJournal] = []
        look = getattr(in_store, step)

        def meanwhile(*arguments: Any, look: Any = look, step: str = step, taken: list[Any] = taken) -> Any:
            found = look(*arguments)
            monkeypatch.setattr(in_store, step, look)
            taken.append(StoredJournal(run_dir, clock=clock, beat=False))
            return found

        monkeypatch.setattr(in_store, step, meanwhile)
        with pytest.raises(RunDirectoryError, match="is in use"):
            StoredJournal(run_dir, clock=clock, beat=False)
        assert len(taken) == 1
        taken[0].close()


def test_a_silent_writer_is_succeeded_and_changes_nothing_more(
    run_dir: StoredPath, clock: Any, elsewhere: Callable[[], None]
):
    late = opened(run_dir, clock)
    late.append(line(0))
    elsewhere()
    clock.now += LEASE_S - 1
    with pytest.raises(RunDirectoryError, match="59 s ago"):
        StoredJournal(run_dir, clock=clock, beat=False)
    clock.now += 2
    successor = opened(run_dir, clock)
    successor.append(line(1))
    with pytest.raises(StoreError, match="was taken over by process"):
        late.append(line(2))
    with pytest.raises(StoreError, match="was taken over"):
        late.check_held()
    late.renew()  # neither does it take the run back,
    late.close()  # nor give away what is not its own
    with pytest.raises(RunDirectoryError, match="is in use"):
        StoredJournal(run_dir, clock=clock, beat=False)
    successor.append(line(3))
    assert events(run_dir) == [0, 1, 3]


def test_what_is_written_behind_the_point_of_handing_over_does_not_count(run_dir: StoredPath, clock: Any):
    """The race no clock can close: the line was on its way when the run was taken."""
    late = opened(run_dir, clock)
    late.append(line(0))
    clock.now += LEASE_S + 1
    successor = opened(run_dir, clock)
    tail = run_dir / SEGMENTS / "000001-000000.jsonl"
    tail.write(tail.read_bytes() + line(1))
    (run_dir / SEGMENTS / "000001-000001.jsonl").write(line(2))
    successor.append(line(3))
    assert events(run_dir) == [0, 3]
    successor.close()
    opened(run_dir, clock).append(line(4))
    assert events(run_dir) == [0, 3, 4]


def test_a_process_that_is_gone_holds_nothing(run_dir: StoredPath, clock: Any, monkeypatch: pytest.MonkeyPatch):
    opened(run_dir, clock)
    assert lock_holder_at(run_dir, clock) is not None
    monkeypatch.setattr(owner, "started", lambda pid: "another start")  # the number is used again
    assert lock_holder_at(run_dir, clock) is None
    opened(run_dir, clock).append(line(7))
    assert events(run_dir) == [7]


def lock_holder_at(run_dir: StoredPath, clock: Any) -> str | None:
    return lease_holder(run_dir, clock())


def test_signs_keep_the_run(run_dir: StoredPath, clock: Any):
    journal = opened(run_dir, clock)
    for _ in range(20):
        clock.now += BEAT_S
        journal.renew()
        assert lock_holder_at(run_dir, clock) is not None
    clock.now += LEASE_S + 1
    (run_dir / LOCK).remove_tree()  # without the lock, the journal's own first line says who and when
    assert lock_holder_at(run_dir, clock) is None


def test_somebody_elses_change_is_an_error(run_dir: StoredPath, clock: Any):
    with Manifest(run_dir) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
    (segment,) = (run_dir / SEGMENTS).iterdir()
    segment.write(segment.read_bytes()[:-5])
    with pytest.raises(RunDirectoryError, match="changed by something else"):
        Manifest(run_dir)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_writers_do_all_that_was_acknowledged_counts(seed: int, run_dir: StoredPath, clock: Any):
    """Writers fall silent, are succeeded and go on as if nothing were. What a writer was told is durable, in the order it was
    told, and nothing else is."""
    rng = random.Random(seed)
    writers = [opened(run_dir, clock)]
    acknowledged: list[int] = []
    for number in range(60):
        if rng.random() < 0.1:
            if rng.random() < 0.5:
                writers[-1].close()
            else:
                clock.now += LEASE_S + 1
            writers.append(opened(run_dir, clock))
        elif rng.random() < 0.3:
            clock.now += rng.choice([1.0, BEAT_S])
        writer = rng.choice(writers[-3:]) if rng.random() < 0.3 else writers[-1]
        was_newest = writer is writers[-1]
        try:
            writer.append(line(number, padding=rng.choice([0, 30_000])))
        except StoreError:
            assert not was_newest
        else:
            if was_newest:
                acknowledged.append(number)
    assert events(run_dir) == acknowledged


def test_lines_of_a_writer_that_ends_while_another_looks_all_count(
    run_dir: StoredPath, clock: Any, monkeypatch: pytest.MonkeyPatch
):
    journal = opened(run_dir, clock)
    look = in_store.newest_lease

    def ending(*arguments: Any) -> Any:
        journal.append(line(1))
        journal.close()
        return look(*arguments)

    journal.append(line(0))
    monkeypatch.setattr(in_store, "newest_lease", ending)
    taken = StoredJournal(run_dir, clock=clock, beat=False)
    monkeypatch.setattr(in_store, "newest_lease", look)
    taken.begin(sum(map(len, taken.lines())))
    taken.append(line(2))
    assert events(run_dir) == [0, 1, 2]


def test_a_run_is_taken_from_a_working_process_where_a_person_says_so(run_dir: StoredPath, clock: Any):
    late = opened(run_dir, clock)
    late.append(line(0))
    with pytest.raises(RunDirectoryError, match="is in use by process") as caught:
        StoredJournal(run_dir, clock=clock, beat=False)
    assert "--take-over" in caught.value.remedy
    taken = StoredJournal(run_dir, take_over=True, clock=clock, beat=False)
    taken.begin(sum(map(len, taken.lines())))
    taken.append(line(1))
    with pytest.raises(StoreError, match="was taken over by process"):
        late.check_held()
    tail = run_dir / SEGMENTS / "000001-000000.jsonl"
    tail.write(tail.read_bytes() + line(2))  # was on its way
    assert events(run_dir) == [0, 1]


def test_of_many_that_take_a_run_over_one_gets_it(run_dir: StoredPath, clock: Any):
    opened(run_dir, clock)
    got: list[StoredJournal] = []
    refused: list[RunDirectoryError] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        try:
            got.append(StoredJournal(run_dir, take_over=True, clock=clock, beat=False))
        except RunDirectoryError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) + len(refused) == 8
    held = []
    for journal in got:  # whoever came a moment later took it from the one before
        try:
            journal.check_held()
        except StoreError:
            continue
        held.append(journal)
    assert len(held) == 1
