"""p after training: the trained weights' own log-probs of a response, as transformers computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.exchange import after_training
from bcpg_cluster.exchange.after_training import TrainedWeights
from bcpg_cluster.store.manifest import ManifestState, SnapshotRecord
from tests.snapshots import snapshot_of

BASE = resolve_asset("embedded:sums/policy")
PROMPT, RESPONSE = (3, 5, 7), (9, 4, 11, 2)


def moved_model() -> torch.nn.Module:
    """The embedded policy with its weights moved a little."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def by_transformers(model: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *RESPONSE]])).logits[0]
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[len(PROMPT) + place - 1, token]) for place, token in enumerate(RESPONSE)]


@pytest.fixture
def weights(tmp_path: Path, make_config: Callable[..., Config]) -> TrainedWeights:
    config = make_config(policy={"kind": "vllm", "model": "embedded:sums/policy"})
    snapshot_of(str(tmp_path / "snapshots/v0001-a"), BASE, moved_model().named_parameters())
    return TrainedWeights(tmp_path, config)


STATE = ManifestState(
    snapshots={1: SnapshotRecord(1, "snapshots/v0001-a", {}, 1.0), 2: SnapshotRecord(2, "snapshots/v0002-b", {}, 1.0)}
)


def test_a_version_scores_as_its_own_weights_do(weights: TrainedWeights):
    base, moved = by_transformers(AutoModelForCausalLM.from_pretrained(BASE)), by_transformers(moved_model())
    assert max(abs(a - b) for a, b in zip(base, moved, strict=True)) > 1e-3  # else the next lines show nothing
    assert weights.logprobs(STATE, 1, PROMPT, RESPONSE) == pytest.approx(moved, abs=1e-5)
    assert weights.logprobs(STATE, 0, PROMPT, RESPONSE) == pytest.approx(base, abs=1e-5)
    assert weights.logprobs(STATE, 1, PROMPT, RESPONSE) == pytest.approx(moved, abs=1e-5)


def test_what_is_not_there_is_said(weights: TrainedWeights, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunDirectoryError, match="round 3 has not trained yet"):
        weights.logprobs(STATE, 3, PROMPT, RESPONSE)
    with pytest.raises(RunDirectoryError, match="version 2 were deleted") as caught:
        weights.logprobs(STATE, 2, PROMPT, RESPONSE)
    assert "keep_last" in caught.value.remedy
    monkeypatch.setattr(after_training, "MOST_BYTES", 1000)
    with pytest.raises(RunDirectoryError, match="GiB of weights"):
        weights.logprobs(STATE, 1, PROMPT, RESPONSE)
