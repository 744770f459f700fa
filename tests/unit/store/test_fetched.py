"""store/fetched.py: snapshots in an object store and their copies on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcpg_cluster.errors import StoreError
from bcpg_cluster.store.fetched import (
    CACHE_VARIABLE,
    FILES,
    local_copy,
    local_staging,
    put_directory,
    run_cache,
    take_newest,
)
from bcpg_cluster.store.path import StoredPath, run_path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run_dir() -> Iterator[StoredPath]:
    place = run_path("memory://tests/fetched")
    assert isinstance(place, StoredPath)
    yield place
    place.remove_tree()


def put(run_dir: StoredPath, version: int, *, forget: bool = True) -> StoredPath:
    """A snapshot in the store; ``forget`` as on another machine, that has no copy."""
    target = run_dir / f"snapshots/v{version:04d}-abc"
    with local_staging() as staging:
        (staging / "new/sub").mkdir(parents=True)
        (staging / "new/weights").write_bytes(b"w" * 1000 + bytes([version]))
        (staging / "new/sub/config.json").write_text("{}")
        put_directory(staging / "new", target)
    if forget:
        for copy in (run_cache(run_dir) / "snapshots").iterdir():
            if copy.is_dir():
                copy.rename(copy.with_name(f".gone.{copy.name}.{version}"))
    return target


def test_what_is_local_stays_what_it_is(tmp_path: Path):
    assert local_copy(tmp_path) == str(tmp_path)
    assert local_copy("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


def test_a_snapshot_comes_back_whole_and_is_fetched_once(run_dir: StoredPath, monkeypatch: pytest.MonkeyPatch):
    place = put(run_dir, 1)
    first = Path(local_copy(place))
    assert (first / "weights").read_bytes() == b"w" * 1000 + b"\x01"
    assert (first / "sub/config.json").read_text() == "{}"
    monkeypatch.setattr(StoredPath, "download", None)  # would fail
    assert local_copy(place) == str(first)


def test_who_put_it_has_a_copy(run_dir: StoredPath, monkeypatch: pytest.MonkeyPatch):
    place = put(run_dir, 1, forget=False)
    monkeypatch.setattr(StoredPath, "download", None)
    assert Path(local_copy(place), "weights").stat().st_size == 1001


def test_a_torn_upload_is_no_snapshot(run_dir: StoredPath):
    place = put(run_dir, 1)
    (place / FILES).remove_tree()  # the list of files comes last; without it the upload was never finished
    with pytest.raises(StoreError, match="not whole"):
        local_copy(place)
    place = put(run_dir, 2)
    (place / "weights").remove_tree()
    with pytest.raises(StoreError, match=r"weights is not there, though files\.json"):
        local_copy(place)


def test_altered_content_is_refused_and_leaves_no_copy(run_dir: StoredPath, cache: Path):
    place = put(run_dir, 1)
    (place / "weights").write(b"v" * 1001)
    with pytest.raises(StoreError, match="digest differs"):
        local_copy(place)
    assert [path for path in (run_cache(run_dir) / "snapshots").iterdir() if not path.name.startswith(".")] == []


def test_members_of_one_machine_fetch_it_once(run_dir: StoredPath, monkeypatch: pytest.MonkeyPatch):
    place = put(run_dir, 1)
    fetched: list[str] = []
    download = StoredPath.download

    def counting(self: StoredPath, target: Path) -> None:
        fetched.append(self.name)
        download(self, target)

    monkeypatch.setattr(StoredPath, "download", counting)
    copies: list[str] = []
    threads = [threading.Thread(target=lambda: copies.append(local_copy(place))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(copies)) == 1
    assert len(copies) == 6
    assert sorted(fetched) == ["config.json", "weights"]


def test_only_the_copies_used_last_are_kept(run_dir: StoredPath):
    places = [put(run_dir, version) for version in (1, 2, 3)]
    copies = [Path(local_copy(place)) for place in places]
    assert [copy.exists() for copy in copies] == [False, True, True]
    assert Path(local_copy(places[0]), "weights").read_bytes()[-1] == 1  # and may be had again


def test_a_machines_next_try_takes_what_the_last_one_left(tmp_path: Path):
    """Step checkpoints of a run in a store: a rank that comes back goes on, one that was given up writes elsewhere."""
    tries = tmp_path / "checkpoint"
    take_newest(tries / "a")  # nothing was left
    assert not (tries / "a").exists()
    (tries / "a").mkdir(parents=True)
    (tries / "a/step-2").write_text("2")
    for _ in range(2):  # two ranks of one machine
        take_newest(tries / "b")
    assert [path.name for path in tries.iterdir() if path.is_dir()] == ["b"]
    assert (tries / "b/step-2").read_text() == "2"
