"""run_path.py: what a person may name, and what an object store can do. Files of memory:// are this process's alone."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bcpg_cluster.errors import RunDirectoryError, UnreachableError
from bcpg_cluster.store import path as run_path_module
from bcpg_cluster.store.path import StoredPath, local_only, run_path
from bcpg_cluster.store.whole_files import remove_tree, write_whole


@pytest.fixture
def place() -> Iterator[StoredPath]:
    made = run_path("memory://tests/run_path")
    assert isinstance(made, StoredPath)
    yield made
    made.remove_tree()


def test_what_is_a_directory_and_what_is_not(tmp_path: Path):
    assert run_path("runs/a") == run_path(Path("runs/a")) == Path("runs/a")
    assert run_path(f"file://{tmp_path}") == tmp_path
    stored = run_path("memory://a/b/", {"secret": "x"})
    assert str(stored) == "memory://a/b"
    assert "x" not in repr(stored)
    assert run_path(stored, {"more": 1}).options == {"secret": "x", "more": 1}  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(stored)).options == {"secret": "x"}
    assert stored == run_path("memory://a/b")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nothing://bucket/a", "Protocol not known"),
        ("s3://", "names no place"),
        ("s3:///a", "names no place"),
        ("simplecache::memory://a", "cannot be opened|names no place"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, words: str):
    if address.startswith("s3"):
        pytest.importorskip("s3fs")
    with pytest.raises(RunDirectoryError, match=words):
        run_path(address)


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    import fsspec

    def missing(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(RunDirectoryError, match=r"pip install 'bcpg-cluster\[s3\]'"):
        run_path("s3://bucket/runs/a")


def test_objects(place: StoredPath, tmp_path: Path):
    assert not place.exists()
    assert list(place.iterdir()) == []
    place.check_reachable()  # a place where nothing is yet is good
    file = place / "below" / "a.txt"
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_whole(file, b"one")
    write_whole(file, b"two")
    assert (file.read_bytes(), file.read_text()) == (b"two", "two")
    assert (file.is_file(), file.is_dir()) == (True, False)
    assert ((place / "below").is_dir(), (place / "below").is_file()) == (True, False)
    (place / "below/deeper/b").write(b"")
    assert [path.name for path in (place / "below").iterdir()] == ["a.txt", "deeper"]
    local = tmp_path / "local"
    local.write_bytes(b"three")
    (place / "below" / "c").upload(local)
    (place / "below" / "c").download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"three"
    assert (place / "below").read_children(["c", "a.txt"]) == [b"three", b"two"]
    remove_tree(place / "below")
    assert not (place / "below").exists()
    remove_tree(place / "below")  # nothing to do


def test_create_is_for_one_alone(place: StoredPath):
    assert (place / "lock").create(b"first")
    assert not (place / "lock").create(b"second")
    assert (place / "lock").read_bytes() == b"first"


def test_create_by_a_driver_that_cannot(monkeypatch: pytest.MonkeyPatch):
    """All put at one moment; the last one wins, and all of them see it."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    meet = threading.Barrier(4)

    class PlainFileSystem(MemoryFileSystem):
        protocol = "plain"

        def pipe_file(self, path: str, value: bytes, **options: object) -> None:
            assert not options  # it would drop a mode
            meet.wait()
            super().pipe_file(path, value)

    fsspec.register_implementation("plain", PlainFileSystem, clobber=True)
    monkeypatch.setattr(run_path_module, "_SETTLE_S", 0.3)
    place = run_path("plain://tests/lock")
    assert isinstance(place, StoredPath)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(place.create, [b"a", b"b", b"c", b"d"]))
    assert sorted(got) == [False, False, False, True]
    assert place.read_bytes() == b"abcd"[got.index(True) :][:1]
    assert not place.create(b"e")
    place.remove_tree()


def test_what_a_driver_raises_can_be_tried_again(place: StoredPath, monkeypatch: pytest.MonkeyPatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such luck")  # vendors raise what they like

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(UnreachableError, match=r"could not read memory://tests/run_path/a: RuntimeError: no such luck"):
        (place / "a").read_bytes()
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    with pytest.raises(RunDirectoryError, match="no such luck") as caught:
        place.check_reachable()
    assert "credentials" in caught.value.rule


def test_what_has_to_be_local_says_so(tmp_path: Path, place: StoredPath):
    assert local_only(tmp_path, "a comparison") == tmp_path
    with pytest.raises(RunDirectoryError, match="a comparison cannot live at memory://"):
        local_only(place, "a comparison")
