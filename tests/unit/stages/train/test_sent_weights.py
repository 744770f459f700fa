"""What a trainer notes of a snapshot for the wire is what it sends: the same tensors, in the engines' dtype."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.stages.push.buckets import lay, spec_bytes, unpack
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.push.wire import wire_digest
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import LoraSettings, TrainSettings
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer


class Wire:
    """Stands for the sender and a receiver: what arrives of each parameter, by its digest."""

    def __init__(self) -> None:
        self.arrived: dict[str, str] = {}
        self.num_bytes = 0

    def send(self, tensors: Iterator[tuple[TensorSpec, torch.Tensor]]) -> None:
        for spec, tensor in tensors:
            flat = torch.zeros(spec_bytes(spec), dtype=torch.uint8)
            self.num_bytes += lay(flat, 0, spec, tensor)
            ((name, got),) = unpack(flat, [spec])
            self.arrived[name] = wire_digest(got)

    def leave(self) -> None: ...


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_digests_noted_with_a_snapshot_are_those_of_what_is_sent(tmp_path: Path, lora: LoraSettings | None) -> None:
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        trainer = TorchTrainer("cpu", wire_dtype=dtype)
        settings = TrainSettings(objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-5, lora=lora)
        trainer.open(resolve_asset("embedded:policy"), settings)
        if lora is not None:
            with torch.no_grad():
                for adapter in trainer._opened().adapters.values():
                    adapter.up.normal_(std=0.05)
        trainer._sender = wire = Wire()
        specs = trainer.push_weights()
        written = trainer.save_snapshot(str(tmp_path / dtype))
        trainer.close()
        assert written is not None
        assert wire.arrived == written.wire
        assert verify_snapshot(str(tmp_path / dtype)) == written.stored
        assert {spec.dtype for spec in specs if len(spec.shape) > 1} == {dtype}
        assert {spec.dtype for spec in specs if len(spec.shape) == 1} == {"float32"}
        sizes[dtype] = wire.num_bytes
    assert sizes["bfloat16"] < 0.51 * sizes["float32"]
