"""Whatever the disk refuses: three lines, no traceback, nothing half-written; the same command again ends as if nothing had been.

Every operation of a small run fails once, and once with all after it.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.run.reproduce.contents import compare_runs
from bcpg_cluster.stages.fakes.disk_faults import DiskFault, WatchedDisk
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.live_status import read_live
from tests.prompt_files import write_prompts

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO)


def is_told(ended: Any) -> None:
    """The command failed as it should: problem, rule and remedy."""
    assert ended.code in (1, 2), ended
    assert "Traceback" not in ended.err
    said = ended.err[ended.err.rindex("error: ") :].splitlines()
    assert [line.split(":")[0].strip() for line in said[:3]] == ["error", "rule", "remedy"], ended.err
    assert not said[3:] or "beside it failed too" in said[3], ended.err  # what works at once may fail at once


# --- the disk itself -------------------------------------------------------------------------------------------------


def test_operations_are_counted_in_order(tmp_path: Path) -> None:
    with WatchedDisk(tmp_path / "here") as disk:
        (tmp_path / "here").mkdir()
        write_whole(tmp_path / "here" / "a", b"12")
        write_whole(tmp_path / "elsewhere", b"12")
        (tmp_path / "here" / "a").read_bytes()
    assert [(operation.number, operation.kind) for operation in disk.operations] == [
        (1, "make"),
        (2, "open"),
        (3, "sync"),
        (4, "rename"),
    ]
    assert disk.operations[-1].path == str(tmp_path / "here" / "a")


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_whole_file_is_whole_or_as_it_was(at: int, is_lasting: bool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    with WatchedDisk(tmp_path, DiskFault(at, is_lasting, errno.EDQUOT)), pytest.raises(OSError) as caught:
        write_whole(tmp_path / "a", b"after")
    assert (caught.value.errno, caught.value.filename) == (errno.EDQUOT, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"before"
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ["a"] or (is_lasting and len(left) == 2)


def test_what_was_not_synced_is_torn(tmp_path: Path) -> None:
    import os

    with WatchedDisk(tmp_path, DiskFault(3)), (tmp_path / "log").open("ab") as log:
        log.write(b"1234")
        log.flush()
        os.fsync(log.fileno())
        log.write(b"5678")
        log.flush()
        with pytest.raises(OSError):
            os.fsync(log.fileno())
    assert (tmp_path / "log").read_bytes() == b"123456"


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(fakes_content: Callable[[], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of one round of 16 responses."""
    folder = tmp_path_factory.mktemp("small")
    rng, taken = random.Random(5), set[str]()
    write_prompts(folder / "train.jsonl", 8, "a", rng, taken)
    write_prompts(folder / "test.jsonl", 4, "t", rng, taken)
    content = fakes_content()
    content["prompts"] = {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "per_round": 4}
    content["generate"] |= {"group_size": 4}
    content["evaluate"] = {"num_samples": 1, "prompts_per_shard": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


@pytest.fixture
def iterate(small: Path, bcpg: Callable[..., Any]) -> Callable[[Path], Any]:
    return lambda run: bcpg("iterate", "-c", small, "--inline", "-n", "1", "--run-dir", run)


def undisturbed(iterate: Callable[[Path], Any], run: Path) -> int:
    with WatchedDisk(run) as disk:
        assert iterate(run).code == 0
    return len(disk.operations)


def fails_and_resumes(iterate: Callable[[Path], Any], run: Path, good: Path, fault: DiskFault) -> None:
    shutil.rmtree(run, ignore_errors=True)
    with WatchedDisk(run, fault):
        ended = iterate(run)
    if ended.code != 0:  # a second writing of live.json is no part of the run's work
        is_told(ended)
    again = iterate(run)
    assert again.code == 0, (fault, ended.err, again.err)
    assert [part for part in compare_runs(good, run, 1) if not part.is_equal] == [], fault


def test_some_operations_of_a_run(iterate: Callable[[Path], Any], tmp_path: Path) -> None:
    """One of each kind of error and of place; the slow tests have all."""
    number = undisturbed(iterate, tmp_path / "good")
    for place, error in enumerate((*ERRORS, *ERRORS)):
        at = 1 + place * (number - 1) // (2 * len(ERRORS) - 1)
        fails_and_resumes(iterate, tmp_path / "bad", tmp_path / "good", DiskFault(at, place % 2 == 0, error))


@pytest.mark.slow
@pytest.mark.parametrize("is_lasting", [False, True], ids=["one", "all after it"])
def test_every_operation_of_a_run(is_lasting: bool, iterate: Callable[[Path], Any], tmp_path: Path) -> None:
    number = undisturbed(iterate, tmp_path / "good")
    assert number > 100
    for at in range(1 + is_lasting, number + 1, 2):  # each in one way; `make drills` has both
        fault = DiskFault(at, is_lasting, ERRORS[at // 2 % len(ERRORS)])
        fails_and_resumes(iterate, tmp_path / "bad", tmp_path / "good", fault)


# --- other commands --------------------------------------------------------------------------------------------------

WRITING: dict[str, tuple[str, ...]] = {
    "export steps": ("export", "steps", "--run-dir", "RUN", "--out", "OUT/made"),
    "export weights": ("export", "weights", "--style", "verl", "--run-dir", "RUN", "--out", "OUT/made"),
    "export verl": ("export", "verl", "--run-dir", "RUN", "--out", "OUT/made"),
    "view": ("view", "--run-dir", "RUN", "--bundle", "OUT/deep/page.html"),
    "disagreements": ("disagreements", "--run-dir", "RUN", "--round", "1", "--page", "OUT/deep/page.html"),
}


@pytest.mark.parametrize("arguments", WRITING.values(), ids=WRITING.keys())
def test_every_operation_of_a_command(
    arguments: tuple[str, ...], finished_run: Any, tmp_path: Path, bcpg: Callable[..., Any], tree_digest: Any
) -> None:
    before = tree_digest(finished_run.directory)

    def run(fault: DiskFault | None) -> tuple[Any, WatchedDisk]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        places = [
            a.replace("RUN", str(finished_run.directory)).replace("OUT", str(tmp_path / "out")) for a in arguments
        ]
        with WatchedDisk(tmp_path / "out", fault) as disk:
            return bcpg(*places), disk

    ended, disk = run(None)
    assert ended.code == 0, ended.err
    whole = tree_digest(tmp_path / "out")
    assert disk.operations
    for at in range(1, len(disk.operations) + 1):
        for is_lasting in (False, True):
            ended, _ = run(DiskFault(at, is_lasting, ERRORS[at % len(ERRORS)]))
            if ended.code == 0:  # what failed was a clearing up
                assert tree_digest(tmp_path / "out").items() >= whole.items()
            else:
                is_told(ended)
                assert not (tmp_path / "out" / "made").exists()
    assert tree_digest(finished_run.directory) == before


@pytest.mark.parametrize("place", ["a file in the way", "a long name", "read only"])
def test_places_for_a_run(place: str, iterate: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    run = {
        "a file in the way": tmp_path / "file" / "run",
        "a long name": tmp_path / ("x" * 300) / "run",
        "read only": Path("/proc/run"),
    }[place]
    is_told(iterate(run))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- an odd live.json ------------------------------------------------------------------------------------------------

LIVE = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "another shape": b'{"pid": "x"}',
    "nested": b"[" * 100_000,
    "huge": b'{"pid": 1, "host": "h", "boot": "b", "started": 1e300, "heartbeat": 1e300}',
    "infinite": b'{"pid": 1, "host": "h", "boot": "b", "started": 0, "heartbeat": 1e999}',
    "a huge integer": b'{"pid": 1, "host": "h", "boot": "b", "started": 0, "heartbeat": 1, "round": 1%s}'
    % (b"0" * 400),
    "another version's": b'{"pid": 1, "host": "h", "boot": "b", "started": 0, "heartbeat": 1, "pools": [{"name": 5}]}',
}


@pytest.mark.parametrize("content", [*LIVE.values(), None], ids=[*LIVE.keys(), "a directory"])
def test_an_odd_live_status(content: bytes | None, finished_run: Any, tmp_path: Path, bcpg: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run.directory, run)
    live = run / "live.json"
    live.unlink(missing_ok=True)
    if content is None:
        live.mkdir()
    else:
        live.write_bytes(content)
    assert read_live(run) is None
    shown = bcpg("status", "--run-dir", run)
    assert shown.code == 0, shown.err
    assert "not running" in shown.out
    facts = bcpg("status", "--run-dir", run, "--json")
    assert facts.code == 0 and json.loads(facts.out)["live"] is None
    assert bcpg("scale", "judge.llm=2", "--run-dir", run, "--wait", "1").code == 2
