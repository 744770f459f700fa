"""stages/train/checkpoint_source.py: directories as they are, hub ids from the hub's cache; weights that bfloat16 would round."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.push.adapters.merge import AdapterSet, merge_into, merged
from bcpg_cluster.stages.train.checkpoint_source import Float32Weights, local_checkpoint


def make_cached(cache: Path, id_: str, revision: str, files: tuple[str, ...]) -> Path:
    """A model as the hub's client keeps it."""
    folder = cache / f"models--{id_.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 39 + revision[0])
    snapshot.mkdir(parents=True)
    for file in files:
        (snapshot / file).write_text("{}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(snapshot.name)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert local_checkpoint(str(tmp_path)) == str(tmp_path)
    for missing in ("/nowhere", "./nowhere", "~/nowhere", str(tmp_path / "sub")):
        with pytest.raises(DataError, match=r"holds no config\.json"):
            local_checkpoint(missing)


def test_hub_ids_that_are_in_the_cache(cache: Path) -> None:
    main = make_cached(cache, "owner/model", "main", ("config.json", "model.safetensors"))
    other = make_cached(cache, "owner/model", "v2", ("config.json", "pytorch_model.bin"))
    assert Path(local_checkpoint("owner/model")) == main
    assert Path(local_checkpoint("owner/model", "v2")) == other
    make_cached(cache, "owner/empty", "main", ("tokenizer.json", "model.safetensors"))
    with pytest.raises(DataError, match=r"owner/empty holds no config\.json"):
        local_checkpoint("owner/empty")


def test_hub_ids_that_cannot_be_had(cache: Path) -> None:
    with pytest.raises(DataError, match="'owner/none' is not available"):
        local_checkpoint("owner/none")
    with pytest.raises(DataError, match="'owner/none' at revision 'v1' is not available"):
        local_checkpoint("owner/none", "v1")
    with pytest.raises(DataError, match="is not available"):
        local_checkpoint("not/a/hub/id")


def test_weights_that_bfloat16_would_round(tmp_path: Path) -> None:
    finest = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    whole = {"f32.weight": finest, "f16.weight": finest.half(), "bf16.weight": finest.bfloat16()}
    save_file({name: whole[name] for name in ("f32.weight", "bf16.weight")}, tmp_path / "model-1.safetensors")
    save_file({"f16.weight": whole["f16.weight"]}, tmp_path / "model-2.safetensors")
    weights = Float32Weights(str(tmp_path))
    for name in ("f32.weight", "f16.weight"):
        found = weights.get(name)
        assert found is not None
        assert found.dtype == torch.float32
        assert torch.equal(found, whole[name].float())
        assert not torch.equal(found, found.bfloat16().float())
    assert weights.get("bf16.weight") is None
    assert weights.get("other.weight") is None


def test_engines_merge_into_float16_files_what_a_trainer_in_bfloat16_merges(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, down, up = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (2, 5), (6, 2)))
    save_file({"layer.weight": weight.half()}, tmp_path / "model.safetensors")
    frozen = Float32Weights(str(tmp_path)).get("layer.weight")
    assert frozen is not None
    adapters = AdapterSet({"layer.weight": (down, up)}, 0.5)
    ((_, by_engine),) = merge_into([("layer.weight", weight.half())], [adapters])
    assert torch.equal(merged(frozen, down, up, 0.5), by_engine)
