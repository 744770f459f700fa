"""The embedded policy, trained by a little noise, as a run keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.stages.push.canaries import CANARIES
from bcpg_cluster.store.manifest import SnapshotRecord
from bcpg_cluster.store.reports import TrainingSummary
from tests.snapshots import snapshot_of

BASE = resolve_asset("embedded:chain/policy")


def trained_model() -> Any:
    """The embedded policy with every parameter moved a little."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def add_version(run_dir: Path, version: int, base: str = BASE) -> SnapshotRecord:
    path = f"snapshots/v{version:04d}-a"
    digests = snapshot_of(str(run_dir / path), base, trained_model().named_parameters())
    (run_dir / path / CANARIES).write_text("[]")
    return SnapshotRecord(version, path, dict(digests.stored), 1.0, TrainingSummary(steps=1.0))
