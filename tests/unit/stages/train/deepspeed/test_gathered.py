"""stages/train/deepspeed/gathered.py: a rank that fails leaves no other waiting in a gather."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.deepspeed.gathered import GatheredWeights
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

BF16 = TrainSettings(objective=Bcpg(), learning_rate=1e-3, min_learning_rate=1e-3, zero_stage=3, dtype="bfloat16")
NAMES = ("first", "second", "third")


def test_frozen_weights_that_cannot_be_read_are_an_error_after_the_last_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[float] = []

    @contextmanager
    def whole(self: GatheredWeights, parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
        gathered.append(float(parameter.detach()[0]))
        yield parameter.detach().float()

    monkeypatch.setattr(GatheredWeights, "_whole", whole)
    frozen = [
        torch.nn.Parameter(torch.full((2,), float(at), dtype=torch.bfloat16), requires_grad=False) for at in range(3)
    ]
    save_file({name: torch.full((2,), at + 2.0**-20) for at, name in enumerate(NAMES)}, tmp_path / "model.safetensors")
    policy = SimpleNamespace(checkpoint_parameters=lambda: [*zip(NAMES, frozen, strict=True)], adapters={})
    group = SimpleNamespace(rank=0, device=torch.device("cpu"))
    weights = GatheredWeights(cast(Any, policy), str(tmp_path), BF16, cast(Any, group), ProgressReporter())
    taken: list[str] = []
    with pytest.raises(DataError, match="cannot be read"), weights.each() as tensors:
        for number, (name, weight) in enumerate(tensors):
            taken.append(name)
            if number == 0:
                assert float(weight[0]) == 2.0**-20, "of the file, not of the engine"
                (tmp_path / "model.safetensors").unlink()
    assert gathered == [0.0, 1.0, 2.0]
    assert taken == [*NAMES]
