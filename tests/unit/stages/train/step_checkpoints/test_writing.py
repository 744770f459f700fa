"""step_checkpoints/writing.py: nothing that is not finite is written, and a disk that does not take a file says so."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import torch

from bcpg_cluster.errors import TrainingDivergedError
from bcpg_cluster.stages.push.file_digests import digest_file
from bcpg_cluster.stages.train.step_checkpoints.writing import not_finite, save_digested

STATE = {"policy": {"head": torch.ones(3)}, "optimizer": {"state": [{"exp_avg": torch.zeros(2)}], "step": 7}}


def test_what_is_written_is_what_was_digested(tmp_path: Path):
    digest = save_digested(STATE, tmp_path / "state.pt")
    assert digest == digest_file(tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(loaded["policy"]["head"], torch.ones(3))
    assert loaded["optimizer"]["step"] == 7


class Stage(IntEnum):
    """Pickled as CPython 3.11.0 to 3.11.3 do it."""

    TWO = 2

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (Stage, self.name)


def test_members_of_enumerations_are_written_by_value(tmp_path: Path):
    save_digested({"zero_stage": Stage.TWO}, tmp_path / "state.pt")
    with torch.serialization.safe_globals([Stage]):
        assert torch.load(tmp_path / "state.pt", weights_only=True) == {"zero_stage": Stage.TWO}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimiser_state_that_is_not_finite_is_not_written(tmp_path: Path, value: float, dtype: torch.dtype):
    state = {**STATE, "optimizer": {"state": [{"exp_avg": torch.tensor([0.0, value], dtype=dtype)}]}}
    assert not_finite(STATE) is None
    with pytest.raises(TrainingDivergedError, match=r"optimizer\.state\[0\]\.exp_avg is not finite after this step"):
        save_digested(state, tmp_path / "state.pt")
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
import torch
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.snapshot import write_snapshot
from bcpg_cluster.stages.train.step_checkpoints.writing import save_digested
HEAD = TensorSpec("head", "float32", (100_000,))
place = Path(sys.argv[1])
(place / "base").mkdir()
(place / "base/config.json").write_text("{}")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # files cannot grow beyond it, as on a full disk
for write in (
    lambda: save_digested({"policy": torch.ones(100_000)}, place / "state.pt"),
    lambda: write_snapshot(str(place / "v1"), str(place / "base"), [HEAD], [("head", torch.ones(100_000))]),
):
    try:
        write()
    except RunDirectoryError as error:
        print(error)
"""


def test_a_file_that_the_disk_does_not_take_is_said_in_three_lines(tmp_path: Path):
    ended = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert len(lines) == 6, ended.stdout
    assert "a step checkpoint could not be written to" in lines[0] and "File too large" in lines[0]
    assert "the snapshot" in lines[3] and "could not be written" in lines[3] and "File too large" in lines[3]
    assert [line.split(":")[0].strip() for line in lines] == [
        "a step checkpoint could not be written to " + f"{tmp_path}/state.pt",
        "rule",
        "remedy",
        f"the snapshot {tmp_path}/v1 could not be written",
        "rule",
        "remedy",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "state.pt"]  # no half snapshot under any name
