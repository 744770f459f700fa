"""stages/train/checkpoint_source.py: directories as they are, hub ids from the hub's cache."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.checkpoint_source import local_checkpoint


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
