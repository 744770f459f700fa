"""step_checkpoints/record.py and kept.py: damage is found without loading anything, and two checkpoints stay."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.file_digests import digest_file, digested_file
from bcpg_cluster.stages.train.step_checkpoints.kept import KeptCheckpoints
from bcpg_cluster.stages.train.step_checkpoints.record import (
    RECORD,
    CheckpointFile,
    CheckpointRecord,
    check_step_checkpoint,
    checkpoint_name,
    keep_only,
    open_checkpoint,
    write_record,
)

FILES = {"shared.pt": None, "zero_pp_rank_0.pt": 0, "zero_pp_rank_1.pt": 1}


def write(place: Path, num_steps: int, fingerprint: str = "training") -> StepCheckpoint:
    directory = place / checkpoint_name(num_steps)
    directory.mkdir(parents=True)
    files = {}
    for name, rank in FILES.items():
        with digested_file(directory / name) as file:
            file.write(f"{name} after ".encode())
            file.write(str(num_steps).encode())
        assert file.digest() == digest_file(directory / name)
        files[name] = CheckpointFile(file.digest(), rank)
    written = write_record(directory, CheckpointRecord(fingerprint, (), files))
    assert written.digest == hashlib.sha256((directory / RECORD).read_bytes()).hexdigest()
    return StepCheckpoint(num_steps, written.digest)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def fill_with_nothing(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("name", [*FILES, RECORD])
@pytest.mark.parametrize("damage", [flip, truncate, fill_with_nothing, Path.unlink])
def test_every_damage_to_every_file_is_found(tmp_path: Path, name: str, damage: Callable[[Path], object]):
    vouched = write(tmp_path, 20)
    directory = tmp_path / "step-000020"
    assert check_step_checkpoint(directory, vouched) == ()
    damage(directory / name)
    (fault,) = check_step_checkpoint(directory, vouched)
    assert fault.file == name
    for rank in (0, 1):
        of_rank = check_step_checkpoint(directory, vouched, rank)
        assert of_rank == ((fault,) if FILES.get(name) in (None, rank) else ())


def test_a_record_that_was_forged_with_its_files_is_refused(tmp_path: Path):
    """Who may write the directory may write files and a record that agree; the manifest has the digest of another."""
    vouched = write(tmp_path, 20)
    record = tmp_path / "step-000020" / RECORD
    content = json.loads(record.read_text())
    flip(record.with_name("shared.pt"))
    content["files"]["shared.pt"]["sha256"] = digest_file(record.with_name("shared.pt")).sha256
    record.write_text(json.dumps(content, sort_keys=True))
    (fault,) = check_step_checkpoint(record.parent, vouched)
    assert str(fault) == f"{RECORD} is not what was written (its sha256 differs)"
    with pytest.raises(EngineError, match="is not what was written"):
        open_checkpoint(tmp_path, vouched, "training")


def test_a_checkpoint_that_is_gone_and_one_of_another_training(tmp_path: Path):
    vouched = write(tmp_path, 20)
    assert open_checkpoint(tmp_path, vouched, "another") is None
    found = open_checkpoint(tmp_path, vouched, "training")
    assert found is not None
    assert set(found.of_rank(1)) == {"shared.pt", "zero_pp_rank_1.pt"}
    shutil.rmtree(tmp_path / "step-000020")
    (fault,) = check_step_checkpoint(tmp_path / "step-000020", vouched)
    assert str(fault) == f"{RECORD} is not there"


def on_disk(place: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in place.iterdir())


def test_two_that_the_driver_knows_stay_and_the_newest(tmp_path: Path):
    kept = KeptCheckpoints()
    kept.begin(tmp_path, None)
    assert kept.tell() is None
    told_before = {1: False, 2: True, 3: False, 4: False, 5: True, 6: True, 7: False}
    newest, seen = StepCheckpoint(0, ""), []
    for num_steps, is_told in told_before.items():
        if is_told:
            assert kept.tell() == newest
        newest = write(tmp_path, num_steps)
        keep_only(tmp_path, kept.add(newest))
        seen.append(on_disk(tmp_path))
    # 1 was told before 2 was written, 4 before 5, 5 before 6.
    assert seen == [[1], [1, 2], [1, 3], [1, 4], [1, 4, 5], [4, 5, 6], [4, 5, 7]]


def test_what_a_resumed_training_keeps(tmp_path: Path):
    """It fell back from 6 to 4; beside them lies what a killed try left, and what earlier programs wrote."""
    vouched = {num_steps: write(tmp_path, num_steps) for num_steps in (2, 4, 6)}
    (tmp_path / "step-000008").mkdir()
    (tmp_path / "step.pt").write_text("of an earlier program")
    (tmp_path / "latest").write_text("step-000002")
    kept = KeptCheckpoints()
    kept.begin(tmp_path, vouched[4])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000004"]
    assert kept.tell() == vouched[4]
    keep_only(tmp_path, kept.add(write(tmp_path, 6)))
    assert on_disk(tmp_path) == [2, 4, 6]
    kept.tell()
    keep_only(tmp_path, kept.add(write(tmp_path, 8)))
    assert on_disk(tmp_path) == [4, 6, 8]
    KeptCheckpoints().begin(tmp_path, None)
    assert on_disk(tmp_path) == []
