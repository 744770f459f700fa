"""store/journals/in_directory.py: what a disk, a directory or a person may do to a journal's files."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journal import check_free, journal_lines, lock_holder
from bcpg_cluster.store.journals.mending import read_damaged_manifest
from bcpg_cluster.store.layout import LOCK, MANIFEST
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster_cli.endings import say_and_code


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond ``size`` bytes: what is beyond fails as a full one does, after writing what fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 40, 100])
def test_a_line_that_does_not_fit_leaves_the_journal_as_it_was(
    tmp_path: Path, room: int, capsys: pytest.CaptureFixture[str]
):
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        for number in range(20):  # longer than the lock's own file, which the limit is for too
            manifest.add_fault(FaultEvent(FaultKind.RETRY, f"{number}", "y" * 100))
        before = (tmp_path / MANIFEST).read_bytes()
        state = read_manifest(tmp_path)
        with files_up_to(len(before) + room), pytest.raises(OSError, match=MANIFEST) as caught:
            manifest.add_fault(FaultEvent(FaultKind.RETRY, "long", "y" * 1000))
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / MANIFEST))
        assert (tmp_path / MANIFEST).read_bytes() == before
        assert manifest.state == state
        # nothing is added behind it, even where there is room again: what came between was not done
        with pytest.raises(OSError, match=MANIFEST):
            manifest.add_fault(FaultEvent(FaultKind.RETRY, "short", ""))
        assert (tmp_path / MANIFEST).read_bytes() == before
    assert say_and_code(caught.value) == 1
    said = capsys.readouterr().err
    assert "manifest.jsonl cannot be written" in said
    assert "rule:" in said
    assert "remedy: make room" in said
    with Manifest(tmp_path) as manifest:
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "again", ""))
        assert read_manifest(tmp_path) == manifest.state
        assert [fault.what for fault in manifest.state.faults] == [*map(str, range(20)), "again"]


def test_a_disk_that_is_full_before_the_run_starts_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with files_up_to(10), pytest.raises(OSError, match=LOCK) as caught:
        Manifest(tmp_path)
    assert say_and_code(caught.value) == 1
    assert "run.lock cannot be written" in capsys.readouterr().err
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")


def test_a_line_that_may_not_be_on_disk_is_not_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        before = (tmp_path / MANIFEST).read_bytes()

        def failing(descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing)
            with pytest.raises(OSError, match=MANIFEST):
                manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
        with pytest.raises(OSError, match=MANIFEST):  # a later fsync that succeeds proves nothing of the one before
            manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_an_interrupt_in_the_midst_of_a_line_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="i", name="n", program_version="0")
        before = (tmp_path / MANIFEST).read_bytes()

        def interrupted(descriptor: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                manifest.add_fault(FaultEvent(FaultKind.RETRY, "x", "y"))
        assert (tmp_path / MANIFEST).read_bytes() == before
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "stopped", ""))
        assert read_manifest(tmp_path) == manifest.state


@pytest.mark.parametrize("name", [LOCK, MANIFEST])
def test_a_directory_in_a_files_place_is_said(tmp_path: Path, name: str):
    (tmp_path / name / "inside").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=f"{name} cannot be used: Is a directory") as caught:
        Manifest(tmp_path)
    assert caught.value.rule
    assert caught.value.remedy
    if name == LOCK:
        with pytest.raises(RunDirectoryError, match=f"{name} cannot be used: Is a directory"):
            check_free(tmp_path)
        with pytest.raises(RunDirectoryError, match=f"{name} cannot be used: Is a directory"):
            lock_holder(tmp_path)
        assert not (tmp_path / MANIFEST).exists()
    else:
        for read in (read_manifest, read_damaged_manifest, lambda place: list(journal_lines(place))):
            with pytest.raises(RunDirectoryError, match=f"{name} cannot be used: Is a directory"):
                read(tmp_path)
    assert (tmp_path / name / "inside").is_dir()


def test_a_place_where_no_directory_can_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be used: Not a directory"):
        Manifest(tmp_path / "file" / "run")
    with pytest.raises(RunDirectoryError, match="cannot be used: File exists"):
        Manifest(tmp_path / "file")
    assert lock_holder(tmp_path / "file" / "run") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_that_may_not_be_written_is_said(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunDirectoryError, match=r"run\.lock cannot be used: Permission denied"):
            Manifest(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_system_that_is_read_only_is_said():
    """``/proc`` takes no new file, not even from the superuser."""
    with pytest.raises(RunDirectoryError, match="cannot be used: "):
        Manifest(Path("/proc/self/task"))
