"""cli/endings.py: what a disk cannot take is said in plain words; anything else of the system keeps its traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from bcpg_cluster.errors import (
    BcpgError,
    ClusterLostError,
    DamagedShardError,
    EngineError,
    StoreError,
    TrainingDivergedError,
)
from bcpg_cluster_cli.endings import disk_error_in, say_and_code


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (errno.ENOSPC, "the disk is full", 1),
        (errno.EDQUOT, "the disk quota is used up", 1),
        (errno.EROFS, "it is on a read-only file system", 2),
        (errno.EACCES, "this user may not write or read there", 2),
        (errno.ENOTDIR, "a part of the path is a file", 2),
        (errno.EEXIST, "a file has this name", 2),
        (errno.EISDIR, "it is a directory, not a file", 2),
        (errno.ENOENT, "it, or the directory it lies in, is not there", 2),
        (errno.ENAMETOOLONG, "the name is too long", 2),
        (errno.EIO, "the disk does not work", 1),
        (errno.EMFILE, "this process has as many files open as it may", 1),
        (errno.ENFILE, "this machine has as many files open as it can", 1),
    ],
)
def test_what_is_wrong_with_a_place(capsys: pytest.CaptureFixture[str], number: int, words: str, code: int):
    assert say_and_code(OSError(number, "x", "/some/where")) == code
    said = capsys.readouterr().err
    assert f"/some/where cannot be written or read: {words}" in said
    assert "rule:" in said and ("run the same command again: what was finished" in said) is (code == 1)


@pytest.mark.parametrize(
    ("error", "is_kept", "again"),
    [
        (EngineError("x"), True, True),
        (ClusterLostError("x"), True, True),
        (TrainingDivergedError("x"), True, False),  # it would diverge again
        (StoreError("x"), True, False),
        (DamagedShardError("r", "p", table="t", round_=1, shard=2, attempt="a", what="is gone"), False, False),
    ],
)
def test_the_same_command_is_the_remedy_only_where_it_helps(
    capsys: pytest.CaptureFixture[str], error: BcpgError, is_kept: bool, again: bool
):
    assert say_and_code(error) == 1
    said = capsys.readouterr().err
    assert type(error).__name__ in said
    assert ("What was finished is kept" in said, "run the same command again" in said) == (is_kept, again)


def test_other_errors_of_the_system_stay_what_they_are():
    for error in (ConnectionResetError(errno.ECONNRESET, "x"), OSError("y")):
        with pytest.raises(type(error)) as caught:
            say_and_code(error)
        assert caught.value is error


def test_what_libraries_say_of_a_disk(tmp_path: Path):
    """The real ones, with a limit on file sizes for the full disk."""
    program = f"""
import resource, signal, sys, torch
from safetensors.torch import save_file
from bcpg_cluster_cli.endings import disk_error_in
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
tensors = {{"a": torch.zeros(1000000)}}

def by_torch():
    with open({str(tmp_path / "t")!r}, "wb") as file:
        torch.save(tensors, file)

for save in (lambda: save_file(tensors, {str(tmp_path / "s")!r}), by_torch):
    try:
        save()
    except Exception as error:
        print(isinstance(error, OSError), disk_error_in(error).errno)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == f"False {errno.EFBIG}\n" * 2, done.stderr


def test_other_errors_are_none_of_the_disk():
    for error in (ValueError("x"), RuntimeError("ended (os error 2)"), KeyError(28)):
        assert disk_error_in(error) is None


def test_a_run_whose_files_become_too_large_says_so(tmp_path: Path, config_file: Path):
    """A limit on file sizes stands for the full disk: the write fails in the middle of a round."""
    arguments = ["iterate", "-c", str(config_file), "--inline", "-n", "1", "--run-dir", str(tmp_path / "run")]
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
        f"sys.argv = ['bcpg-cluster', *{arguments!r}]; from bcpg_cluster_cli.app import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "cannot be written or read: the file would be larger than is allowed" in ended.stderr
    assert "what was finished is kept" in ended.stderr
