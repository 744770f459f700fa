"""stages/train/deepspeed/trainer.py: what a rank is after it failed to open a model."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bcpg_cluster.errors import EngineError
from bcpg_cluster.stages.train.deepspeed import trainer as module
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

SETTINGS = TrainSettings(objective=Bcpg(), learning_rate=1e-3, min_learning_rate=1e-3, dtype="bfloat16")


def test_a_rank_that_could_not_look_into_the_files_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "config.json").write_text("{}")
    policy = SimpleNamespace(trained_parameters=list)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(initialize=lambda **options: (SimpleNamespace(),)))
    monkeypatch.setattr(module, "check_deepspeed_config", lambda *arguments: None)
    monkeypatch.setattr(module.TrainerGroup, "join", lambda group: None)
    monkeypatch.setattr(module, "load_rank_policy", lambda *arguments: policy)
    monkeypatch.setattr(module, "GatheredWeights", fail)
    rank = module.DeepSpeedRank(0, 1, "127.0.0.1", 1)
    with pytest.raises(EngineError, match="Too many open files"):
        rank.open(str(tmp_path), SETTINGS)
    rank.close()
