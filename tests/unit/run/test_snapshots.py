"""snapshots.py: weights are checked against the manifest before anything starts from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.snapshots import (
    SnapshotCheck,
    SnapshotDamagedError,
    drop_torn_snapshots,
    keep_snapshots,
    kept_paths,
    put_in_place,
)
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.file_digests import companion_digests
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from tests.snapshots import snapshot_of


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    """Of a run with snapshot v1, which round 2 kept; v3 is another."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    generator = torch.Generator().manual_seed(0)
    with Manifest(tmp_path / "run") as manifest:
        for version in (1, 3):
            tensors = {name: torch.randn(3, 4, generator=generator) for name in ("model.embed", "model.head")}
            path = f"snapshots/v{version}"
            digests = snapshot_of(
                str(manifest.run_dir / path), str(base), tensors.items(), max_shard_bytes=3 * 4 * 4
            )  # a file each
            manifest.add_snapshot(SnapshotRecord(version, path, dict(digests.stored), 0.0))
        manifest.add_snapshot(SnapshotRecord(2, "snapshots/v1", manifest.state.snapshots[1].digests, 0.0))
        yield manifest


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_whole_snapshots_are_read_once(manifest: Manifest):
    read: list[str] = []

    def verify(path: str, digests: Mapping[str, str]) -> None:
        read.append(path)
        verify_snapshot(path, digests)

    check = SnapshotCheck(manifest, verify)
    for version in (0, 1, 2, 1, 3, 3, 9):  # 0: the base model; 2 has the files of 1; 9 is not there
        check(version)
    assert read == [str(manifest.run_dir / f"snapshots/v{version}") for version in (1, 3)]


@pytest.mark.parametrize(("version", "round_"), [(1, 1), (2, 1)])
def test_a_flipped_byte_is_refused_by_file_and_parameter(manifest: Manifest, version: int, round_: int):
    before = (manifest.run_dir / "manifest.jsonl").read_bytes()
    flip(manifest.run_dir / "snapshots/v1/model-00002-of-00002.safetensors")
    check = SnapshotCheck(manifest, verify_snapshot)
    for _ in range(2):  # what was refused is not remembered as good
        with pytest.raises(RunDirectoryError) as refused:
            check(version)
        assert "model.head in model-00002-of-00002.safetensors is not what was written" in refused.value.problem
        assert f"stage train --round {round_} --discard-later" in refused.value.remedy
    check(3)
    assert (manifest.run_dir / "manifest.jsonl").read_bytes() == before


@pytest.mark.parametrize(("is_kept", "round_"), [(True, 3), (False, 1)])
def test_the_remedy_names_a_round_whose_start_weights_are_kept(manifest: Manifest, is_kept: bool, round_: int):
    if not is_kept:
        shutil.rmtree(manifest.run_dir / "snapshots/v1")
    flip(manifest.run_dir / "snapshots/v3/model-00001-of-00002.safetensors")
    with pytest.raises(RunDirectoryError) as refused:
        SnapshotCheck(manifest, verify_snapshot)(3)
    assert f"stage train --round {round_} --discard-later" in refused.value.remedy


@pytest.mark.parametrize("place", [0, 8, 20])
def test_a_flipped_byte_in_a_files_head_is_refused(manifest: Manifest, place: int):
    flip(manifest.run_dir / "snapshots/v3/model-00001-of-00002.safetensors", place)
    with pytest.raises(RunDirectoryError, match=r"model-00001-of-00002\.safetensors"):
        SnapshotCheck(manifest, verify_snapshot)(3)


def test_the_manifests_digests_count_and_not_those_beside_the_weights(manifest: Manifest, tmp_path: Path):
    """Weights that were exchanged with their digests are a whole snapshot, but not this one."""
    folder = manifest.run_dir / "snapshots"
    (folder / "v1").rename(tmp_path / "old")
    (folder / "v3").rename(folder / "v1")
    assert verify_snapshot(str(folder / "v1"))
    with pytest.raises(RunDirectoryError, match=r"model\.embed in"):
        SnapshotCheck(manifest, verify_snapshot)(1)
    with pytest.raises(RunDirectoryError, match=r"lacks model\.embed"):
        SnapshotCheck(manifest, verify_snapshot)(3)


def test_config_and_tokenizer_are_compared_where_they_have_digests(manifest: Manifest):
    record = manifest.state.snapshots[3]
    folder = manifest.run_dir / record.path
    manifest.state.snapshots[3] = replace(record, files=companion_digests(str(folder)))
    SnapshotCheck(manifest, verify_snapshot)(3)
    (folder / "config.json").write_text("{ }")
    with pytest.raises(SnapshotDamagedError, match=r"v3: config\.json is not what was written"):
        SnapshotCheck(manifest, verify_snapshot)(3)
    manifest.state.snapshots[3] = record  # of a run made before they were noted
    SnapshotCheck(manifest, verify_snapshot)(3)


def test_old_weights_that_are_not_finite_are_refused_and_not_made_again(manifest: Manifest):
    record = manifest.state.snapshots[3]
    file = manifest.run_dir / record.path / "model-00001-of-00002.safetensors"
    weights = torch.full((3, 4), float("nan"))
    save_file({"model.embed": weights}, file)
    manifest.state.snapshots[3] = replace(record, digests={**record.digests, "model.embed": tensor_digest(weights)})
    with pytest.raises(RunDirectoryError, match=r"model\.embed in .* not finite") as refused:
        SnapshotCheck(manifest, verify_snapshot)(3)
    assert not isinstance(refused.value, SnapshotDamagedError)
    assert "--set train.learning_rate" in refused.value.remedy


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_kill_while_a_remade_snapshot_takes_its_place(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, killed_after: int
):
    """Of its two renames none, one or both are done; the next start finds one of the two under the name."""
    folder = manifest.run_dir / "snapshots"
    (folder / "v3-new").mkdir()
    (folder / "v3-new" / "which").write_text("remade")
    (folder / "v3" / "which").write_text("damaged")
    rename, done = Path.rename, []

    def rename_until(source: Path, target: Path) -> Path:
        if len(done) == killed_after:
            raise KeyboardInterrupt
        done.append(source)
        return rename(source, target)

    with monkeypatch.context() as kill:
        kill.setattr(Path, "rename", rename_until)
        with suppress(KeyboardInterrupt):
            put_in_place(manifest.run_dir, "snapshots/v3-new", "snapshots/v3")
    drop_torn_snapshots(manifest.run_dir, manifest)
    assert sorted(path.name for path in folder.iterdir()) == ["v1", "v3"]
    assert (folder / "v3" / "which").read_text() == ("remade" if killed_after == 2 else "damaged")


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_version_that_was_trained_meanwhile_takes_no_place_from_the_one_that_is_measured(
    tmp_path: Path, keep_last: int
):
    """Version 1 is the best. Version 3 is there, or not yet, when version 2 gets its score: the engines hold version 2."""
    for is_trained in (False, True):
        with Manifest(tmp_path / str(is_trained)) as manifest:
            for version in (1, 2, 3)[: 3 if is_trained else 2]:
                manifest.add_snapshot(SnapshotRecord(version, f"snapshots/v{version}", {}, 0.0))
                (manifest.run_dir / f"snapshots/v{version}").mkdir(parents=True)
            assert keep_snapshots(manifest, {1: 0.9, 2: 0.1}, keep_last, measured=2) == []
            there = {f"snapshots/{path.name}" for path in (manifest.run_dir / "snapshots").iterdir()}
            assert kept_paths(manifest.state, keep_last) <= there
            if is_trained:
                deleted = keep_snapshots(manifest, {1: 0.9, 2: 0.1, 3: 0.2}, keep_last, measured=3)
                assert deleted == ([2] if keep_last == 1 else [])
