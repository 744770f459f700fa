"""Snapshots: whole or not there, and never silently altered."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bcpg_cluster.errors import DataError, NotFiniteError, RunDirectoryError, StoreError, TrainingDivergedError
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.file_digests import companion_digests, companion_faults
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.snapshot import (
    read_digests,
    read_parameters,
    verify_snapshot,
    write_snapshot,
)
from bcpg_cluster.stages.push.wire import wire_digest
from tests.snapshots import snapshot_of

PARAMETERS = {
    "embed": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scale": torch.tensor(3.0),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    (base / "additional_chat_templates").mkdir(parents=True)
    (base / "additional_chat_templates" / "tool.jinja").write_text("t")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        (base / name).write_text(f'"{name}"')
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "digests.json", "old.bin"):
        (base / name).write_text("weights of the base")
    return base


def write(base: Path, path: Path, **options: int) -> dict[str, str]:
    return dict(snapshot_of(str(path), str(base), PARAMETERS.items(), **options).stored)


def test_holds_weights_digests_and_companions(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "snapshot"
    digests = write(base, path)
    assert digests == {name: tensor_digest(tensor) for name, tensor in PARAMETERS.items()}
    assert digests == read_digests(str(path)) == verify_snapshot(str(path))
    assert sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()) == [
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "digests.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    for name, tensor in read_parameters(str(path)):
        assert torch.equal(tensor, PARAMETERS[name])
        assert tensor.dtype is PARAMETERS[name].dtype


def test_says_what_a_push_sends_of_the_same_tensors(base: Path, tmp_path: Path) -> None:
    """Matrices in the engines' dtype, vectors as they are; what lies on disk is the same whatever is sent."""
    matrix, vector = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.5, -2.0])
    parameters = {"embed": matrix, "norm": vector}
    found = {
        dtype: snapshot_of(str(tmp_path / dtype), str(base), parameters.items(), wire_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert found["float32"].wire == {"embed": wire_digest(matrix), "norm": wire_digest(vector)}
    assert found["bfloat16"].wire == {"embed": wire_digest(matrix.bfloat16()), "norm": wire_digest(vector)}
    assert found["float32"].stored == found["bfloat16"].stored == verify_snapshot(str(tmp_path / "bfloat16"))


def test_is_cut_into_files_with_an_index(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    whole = write(base, tmp_path / "whole")
    assert write(base, path, max_shard_bytes=50) == whole == verify_snapshot(str(path))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 48 + 4 + 4},
        "weight_map": {
            "embed": "model-00001-of-00002.safetensors",
            "layer.bias": "model-00002-of-00002.safetensors",
            "scale": "model-00002-of-00002.safetensors",
        },
    }


def test_a_failed_write_leaves_what_was_there(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "3"
    before = write(base, path)

    def breaks() -> Iterator[tuple[str, torch.Tensor]]:
        yield "embed", torch.zeros(2)
        raise RuntimeError("a rank is gone")

    specs = [TensorSpec(name, "float32", (2,)) for name in ("embed", "layer")]
    with pytest.raises(RuntimeError, match="a rank is gone"):
        write_snapshot(str(path), str(base), specs, breaks())
    assert verify_snapshot(str(path)) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["3"]


def test_a_disk_that_fails_anywhere_leaves_what_was_there(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, number = tmp_path / "snapshots" / "3", 0
    before = write(base, path)
    while True:
        number += 1
        done: list[str] = []

        def counted(place: object, name: str, number: int, done: list[str]) -> None:
            real = getattr(place, name)

            def call(*args: Any, **options: Any) -> Any:
                done.append(name)
                if len(done) == number:
                    raise OSError(28, "No space left on device")
                return real(*args, **options)

            disk.setattr(place, name, call)

        try:
            with monkeypatch.context() as disk:
                counted(os, "fsync", number, done)
                counted(shutil, "copyfile", number, done)
                counted(tempfile, "mkdtemp", number, done)
                for name in ("open", "rename", "mkdir", "write_text", "chmod"):
                    counted(Path, name, number, done)
                snapshot_of(str(path), str(base), [("other", torch.ones(2))])
            break
        except RunDirectoryError as error:
            assert "No space left on device" in error.problem
            assert verify_snapshot(str(path)) == before
        assert [entry.name for entry in path.parent.iterdir()] == ["3"]
    assert {"fsync", "copyfile", "mkdtemp", "open", "rename", "write_text"} <= set(done)
    assert set(verify_snapshot(str(path))) == {"other"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(base: Path, tmp_path: Path, value: float) -> None:
    path = tmp_path / "snapshots" / "3"
    weight = torch.tensor([1.0, value])
    with pytest.raises(TrainingDivergedError, match="layer is not finite after the last step"):
        snapshot_of(str(path), str(base), [("embed", torch.ones(2)), ("layer", weight)])
    assert list(path.parent.iterdir()) == []
    snapshot_of(str(path), str(base), [("layer", torch.ones(2))])
    save_file({"layer": weight}, path / "model.safetensors")  # as a version before this one wrote it
    digests = {"layer": tensor_digest(weight)}
    with pytest.raises(NotFiniteError, match=r"layer in model\.safetensors has values that are not finite"):
        verify_snapshot(str(path), digests)


def test_files_that_are_no_weights_are_compared_too(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "3"
    write(base, path, max_shard_bytes=50)
    files = companion_digests(str(path))
    assert "additional_chat_templates/tool.jinja" in files
    assert not any(name.endswith(".safetensors") for name in files)
    assert companion_faults(str(path), files) == ()
    (path / "tokenizer.json").write_text("another")
    (path / "generation_config.json").unlink()
    assert [str(fault) for fault in companion_faults(str(path), files)] == [
        "generation_config.json cannot be read: No such file or directory",
        "tokenizer.json is not what was written",
    ]


def test_replaces_an_older_one(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "3"
    write(base, path)
    digests = snapshot_of(str(path), str(base), [("other", torch.ones(2))])
    assert verify_snapshot(str(path)) == digests.stored
    assert [entry.name for entry in path.parent.iterdir()] == ["3"]


def test_reused_memory_does_not_reach_the_file(base: Path, tmp_path: Path) -> None:
    """A gathered parameter is emptied when the next one is asked for."""
    buffer = torch.empty(3)

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for value in range(3):
            yield str(value), buffer.fill_(value)

    specs = [TensorSpec(str(value), "float32", (3,)) for value in range(3)]
    write_snapshot(str(tmp_path / "snapshot"), str(base), specs, gathered())
    assert [float(tensor[0]) for _, tensor in read_parameters(str(tmp_path / "snapshot"))] == [0, 1, 2]


def test_at_most_one_parameter_is_held(base: Path, tmp_path: Path) -> None:
    """Each is on its way to the disk before the next is asked for."""
    given: list[weakref.ref[torch.Tensor]] = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(4):
            alive.append(sum(of() is not None for of in given))
            tensor = torch.full((3,), float(number))
            given.append(weakref.ref(tensor))
            yield str(number), tensor
            del tensor

    alive: list[int] = []
    specs = [TensorSpec(str(number), "float32", (3,)) for number in range(4)]
    write_snapshot(str(tmp_path / "snapshot"), str(base), specs, gathered())
    assert max(alive) <= 1, alive


OTHERS = [("a", torch.zeros(2)), ("b", torch.zeros(2))]


@pytest.mark.parametrize(
    ("names", "tensors", "problem"),
    [
        ("ab", OTHERS[:1], "shorter"),
        ("a", OTHERS, "longer"),
        ("ba", OTHERS, "a came where b was announced"),
        ("aa", [OTHERS[0], OTHERS[0]], "parameter 'a' came twice"),
        ("a", [("a", torch.zeros(3))], r"a is float32\[3\] instead of float32\[2\]"),
        ("a", [("a", torch.zeros(2).double())], r"a is float64\[2\] instead of float32\[2\]"),
    ],
)
def test_what_comes_must_be_what_was_announced(
    names: str, tensors: list[tuple[str, torch.Tensor]], problem: str, base: Path, tmp_path: Path
) -> None:
    specs = [TensorSpec(name, "float32", (2,)) for name in names]
    with pytest.raises(ValueError, match=problem):
        write_snapshot(str(tmp_path / "snapshot"), str(base), specs, tensors)
    assert not (tmp_path / "snapshot").exists()


def damage_byte(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


def tear(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-5])


def drop_parameter(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors["scale"]
    save_file(tensors, path / "model.safetensors")


def add_parameter(path: Path) -> None:
    save_file({"surprise": torch.ones(1)}, path / "more.safetensors")


def drop_digests(path: Path) -> None:
    (path / "digests.json").unlink()


def tear_digests(path: Path) -> None:
    (path / "digests.json").write_text('{"format": 1')


@pytest.mark.parametrize("harm", [damage_byte, tear, drop_parameter, add_parameter, drop_digests, tear_digests])
def test_harm_is_found(harm, base: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(base, tmp_path / "snapshot")
    harm(tmp_path / "snapshot")
    with pytest.raises(StoreError):
        verify_snapshot(str(tmp_path / "snapshot"))


def test_wants_a_checkpoint_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        snapshot_of(str(tmp_path / "snapshot"), str(tmp_path), PARAMETERS.items())
