"""store/journals/lock.py: one process works on a run, however many want to, die, fall silent or remove its lock."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journal import check_free, lock_holder
from bcpg_cluster.store.journals import owner
from bcpg_cluster.store.journals.in_directory import FileJournal
from bcpg_cluster.store.journals.lock import Standing, find_holder
from bcpg_cluster.store.journals.owner import BEAT_S, LEASE_S, this_process
from bcpg_cluster.store.layout import LIVE, LOCK, MANIFEST
from bcpg_cluster.store.manifest import Manifest, read_manifest

_WORKER = """
import pathlib, sys
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest
sys.stdin.readline()
try:
    manifest = Manifest(pathlib.Path(sys.argv[1]), take_over="--take-over" in sys.argv)
except RunDirectoryError as error:
    print("refused", error.problem, flush=True)
else:
    manifest.add_fault(FaultEvent(FaultKind.RETRY, sys.argv[2], ""))
    print("open", flush=True)
    for line in sys.stdin:
        try:
            manifest.add_fault(FaultEvent(FaultKind.RETRY, line.strip(), ""))
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        else:
            print("added", flush=True)
    manifest.close()
"""


class Worker:
    """A process of its own that opens the run at a word and adds a line at every further one."""

    def __init__(self, run_dir: Path, name: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(run_dir), name, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def say(self, text: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def opened(self) -> str:
        self.say()
        return self.heard()

    def add(self, what: str) -> str:
        self.say(what)
        return self.heard()

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.communicate()


@pytest.fixture
def worker(tmp_path: Path):
    made: list[Worker] = []

    def make(name: str, *options: str) -> Worker:
        made.append(Worker(tmp_path, name, *options))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.end()


def added(run_dir: Path) -> list[str]:
    return [fault.what for fault in read_manifest(run_dir).faults]


def leave_lock(run_dir: Path, silent_s: float, **changes: Any) -> bytes:
    """The lock of a process on another machine, last heard of some time ago."""
    sign = {**this_process(), "host": "elsewhere", "machine": "another boot/pid:[1]", "time": time.time() - silent_s}
    content = json.dumps({**sign, "released": False, **changes}).encode()
    run_dir.mkdir(exist_ok=True)
    (run_dir / LOCK).write_bytes(content)
    return content


@pytest.mark.parametrize("kind", ["new", "killed", "silent", "removed"])
def test_of_many_processes_that_start_at_once_one_gets_the_run(tmp_path: Path, kind: str):
    """With a lock that was removed under one that works, none of them."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("race.py")), str(tmp_path / "run"), "12", kind],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for number, of_attempt in enumerate(told):
        if kind == "removed":
            assert of_attempt == ["in use"] * 8 + ["0 lines"]
        else:
            lines = number + 1 if kind == "killed" else 1
            assert of_attempt == ["in use"] * 7 + ["mine", f"{lines} lines"]
    assert len(told) == 12


def test_a_killed_process_of_this_machine_holds_nothing(tmp_path: Path, worker: Callable[..., Worker]):
    first = worker("first")
    assert first.opened() == "open"
    sign = json.loads((tmp_path / LOCK).read_bytes())
    assert sign.keys() == {"pid", "host", "machine", "started", "time", "released"}
    assert (sign["pid"], sign["host"], sign["released"]) == (first.process.pid, socket.gethostname(), False)
    held = lock_holder(tmp_path)
    assert held is not None
    assert held.startswith(f"{first.process.pid} on {socket.gethostname()} (its last sign came ")
    first.end()
    assert lock_holder(tmp_path) is None
    check_free(tmp_path)
    assert worker("second").opened() == "open"
    assert added(tmp_path) == ["first", "second"]


def test_removing_the_lock_of_a_working_process_lets_no_other_in_and_stops_it(
    tmp_path: Path, worker: Callable[..., Worker]
):
    first, second = worker("first"), worker("second")
    assert first.opened() == "open"
    (tmp_path / LOCK).unlink()
    before = (tmp_path / MANIFEST).read_bytes()
    held = lock_holder(tmp_path)
    assert held is not None
    assert "its run.lock was removed" in held
    assert second.opened().startswith("refused")
    assert not (tmp_path / LOCK).exists()
    assert first.add("late").startswith(f"StoreError {tmp_path / LOCK} is no longer this process's: ")
    assert (tmp_path / MANIFEST).read_bytes() == before
    first.end()
    third = worker("third")
    assert third.opened() == "open"
    assert third.add("more") == "added"
    assert added(tmp_path) == ["first", "third", "more"]


def test_a_manifest_that_is_put_in_its_place_stops_the_process(tmp_path: Path, worker: Callable[..., Worker]):
    first = worker("first")
    assert first.opened() == "open"
    copy = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).write_bytes(copy)
    assert "manifest.jsonl was removed or replaced" in first.add("late")
    assert (tmp_path / MANIFEST).read_bytes() == copy


def test_a_process_of_another_machine_is_believed_until_it_falls_silent(tmp_path: Path):
    content = leave_lock(tmp_path, LEASE_S - 20)
    for take_over in (False, True):
        with pytest.raises(
            RunDirectoryError, match=r"is in use by process \d+ on elsewhere \(its last sign came 40 s ago\)"
        ):
            Manifest(tmp_path, take_over=take_over)
        with pytest.raises(RunDirectoryError, match="is in use"):
            check_free(tmp_path, take_over=take_over)
    content = leave_lock(tmp_path, LEASE_S + 60)
    assert lock_holder(tmp_path) is None  # as far as one sees from here, nothing works on it
    with pytest.raises(
        RunDirectoryError, match=r"on elsewhere \(its last sign came 120 s ago\), and that process is silent"
    ) as caught:
        check_free(tmp_path)
    assert "--take-over" in caught.value.remedy
    assert f"remove {tmp_path / LOCK}" in caught.value.remedy
    with pytest.raises(RunDirectoryError, match="is silent"):
        Manifest(tmp_path)
    assert (tmp_path / LOCK).read_bytes() == content
    assert not (tmp_path / MANIFEST).exists()
    check_free(tmp_path, take_over=True)
    with Manifest(tmp_path, take_over=True):
        assert json.loads((tmp_path / LOCK).read_bytes())["host"] == socket.gethostname()
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, LOCK]
    with Manifest(tmp_path):  # given back
        pass


@pytest.mark.parametrize(
    ("silent_s", "changes", "standing"),
    [
        (0.0, {"released": True}, Standing.FREE),  # given back
        (5.0, {"host": "here"}, Standing.HELD),  # started anew a moment ago, or another machine of this name
        (90.0, {"host": "here"}, Standing.FREE),  # this machine was started anew since: a power cut
        (-300.0, {}, Standing.HELD),  # its clock is ahead
        (90.0, {"machine": None}, Standing.SILENT),  # from a kernel that does not say
    ],
)
def test_how_a_lock_stands(tmp_path: Path, silent_s: float, changes: dict[str, Any], standing: Standing):
    if changes.get("host") == "here":
        changes = {**changes, "host": socket.gethostname()}
    leave_lock(tmp_path, silent_s, **changes)
    assert find_holder(tmp_path, time.time()).standing is standing


@pytest.mark.parametrize("content", [b"", b"123", b"\x00\xff rubbish", b"[]", b'{"pid": 1}'])
def test_a_lock_of_an_older_program_or_without_sense_is_the_kernels_alone(tmp_path: Path, content: bytes):
    (tmp_path / LOCK).write_bytes(content)
    assert lock_holder(tmp_path) is None
    with Manifest(tmp_path):
        assert lock_holder(tmp_path) is not None


def test_a_stopped_process_is_taken_over_and_changes_nothing_more(
    tmp_path: Path, worker: Callable[..., Worker], clock: Any
):
    """SIGSTOP: the kernel lock stays, the heartbeat does not. Its line was on its way when the run was taken."""
    first = worker("first")
    assert first.opened() == "open"
    first.process.send_signal(signal.SIGSTOP)
    sign = json.loads((tmp_path / LOCK).read_bytes())
    with (tmp_path / LOCK).open("r+b") as file:  # as if it were stopped for long
        file.write(json.dumps({**sign, "time": sign["time"] - LEASE_S - 1}).encode())
    assert "and that process is silent" in worker("second").opened()
    third = worker("third", "--take-over")
    assert third.opened() == "open"
    first.process.send_signal(signal.SIGCONT)
    assert "was taken over by process" in first.add("late")
    assert third.add("more") == "added"
    assert added(tmp_path) == ["first", "third", "more"]


def test_a_line_on_its_way_when_the_run_is_taken_over_lands_in_no_journal(tmp_path: Path, clock: Any):
    """The race between looking at the lock and writing: the file written to no longer has the name."""
    late = FileJournal(tmp_path, clock=clock, beat=False)
    late.begin(0)
    late.append(b"1\n")
    clock.now += LEASE_S + 1
    taken = FileJournal(tmp_path, take_over=True, clock=clock, beat=False)
    taken.begin(2)
    os.write(late._file.fileno(), b"late\n")
    taken.append(b"2\n")
    assert (tmp_path / MANIFEST).read_bytes() == b"1\n2\n"
    with pytest.raises(StoreError, match="Nothing this process does from here on counts"):
        late.append(b"3\n")
    with pytest.raises(StoreError):
        late.check_held()
    late._lock.renew()
    late.close()  # neither does it take the run back, nor does it give away what is not its own
    with pytest.raises(RunDirectoryError, match="is in use"):
        FileJournal(tmp_path, clock=clock, beat=False)


def test_a_process_that_may_open_no_more_files_still_has_its_lock(tmp_path: Path):
    with Manifest(tmp_path) as manifest:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        last = os.dup(0)
        os.close(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                (tmp_path / LOCK).open()
            manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
            manifest.check_held()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert read_manifest(tmp_path) == manifest.state


def test_signs_keep_the_run(tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch):
    journal = FileJournal(tmp_path, clock=clock, beat=False)
    for _ in range(20):
        clock.now += BEAT_S
        journal._lock.renew()
    monkeypatch.setattr(owner, "machine", lambda: "another boot/pid:[2]")
    monkeypatch.setattr("socket.gethostname", lambda: "another host")
    # seen from another machine, where the kernel's lock does not reach
    content = (tmp_path / LOCK).read_bytes()
    there = tmp_path / "as seen there"
    there.mkdir()
    (there / LOCK).write_bytes(content)
    assert find_holder(there, clock() + LEASE_S).standing is Standing.HELD
    assert find_holder(there, clock() + LEASE_S + 1).standing is Standing.SILENT


def test_a_lock_removed_under_a_process_of_another_machine_is_missed_by_its_live_status(tmp_path: Path):
    live = {
        "pid": 7,
        "host": "elsewhere",
        "boot": "another",
        "started": 0.0,
        "heartbeat": time.time() - 3,
        "ended": None,
    }
    (tmp_path / LIVE).write_text(json.dumps(live))
    with pytest.raises(
        RunDirectoryError,
        match=r"process 7 on elsewhere \(its last sign came 3 s ago, in live.json; run.lock was removed",
    ):
        Manifest(tmp_path, take_over=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LIVE]
    for changes in ({"heartbeat": time.time() - 100}, {"ended": {"how": "done"}}):
        (tmp_path / LIVE).write_text(json.dumps({**live, **changes}))
        check_free(tmp_path)
    for odd in ("null", "[1]", "{", '{"heartbeat": "x"}'):
        (tmp_path / LIVE).write_text(odd)
        check_free(tmp_path)
