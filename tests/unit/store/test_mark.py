"""run_mark.py: whether a machine sees the run directory, and the same one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bcpg_cluster.errors import UserError
from bcpg_cluster.store.mark import RunMark, check_mark, leave_mark
from bcpg_cluster.store.path import run_path


def test_a_mark_stays_the_same_and_is_seen(tmp_path: Path):
    mark = leave_mark(tmp_path)
    assert leave_mark(tmp_path) == mark
    check_mark(mark, patience_s=0)


def test_a_directory_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=f"not visible from {socket.gethostname()}: there is no mark.txt") as caught:
        check_mark(RunMark(tmp_path / "nowhere" / "mark.txt", "x"), patience_s=0)
    assert "mount it on that machine" in caught.value.remedy


def test_another_directory_of_the_same_name(tmp_path: Path):
    mark = leave_mark(tmp_path)
    with pytest.raises(UserError, match="another directory has that name there"):
        check_mark(RunMark(mark.path, "other"), patience_s=0)


def test_a_file_system_that_shows_it_late(tmp_path: Path):
    path = tmp_path / "mark.txt"
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            path.write_text("x")

    check_mark(RunMark(path, "x"), sleep=sleep)
    assert len(waited) == 3


def test_a_store_that_this_machine_cannot_reach(monkeypatch: pytest.MonkeyPatch):
    from fsspec.implementations.memory import MemoryFileSystem

    place = run_path("memory://tests/run_mark")
    mark = leave_mark(place)
    check_mark(mark, patience_s=0)

    def refuse(self: object, path: str) -> bytes:
        raise PermissionError("no credentials here")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(UserError, match=r"memory://tests/run_mark is not visible from .*no credentials here"):
        check_mark(mark, patience_s=0)
