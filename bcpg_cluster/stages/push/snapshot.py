"""Snapshots: Hugging Face checkpoint directories with a digest of every parameter.

A snapshot is the durable reference of a policy version: rollout engines prove what they received against its digests
and catch up from it. It appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bcpg_cluster.errors import DataError, NotFiniteError, RunDirectoryError, StoreError, TrainingDivergedError
from bcpg_cluster.stages.push.digest import is_finite, tensor_digest
from bcpg_cluster.stages.push.file_digests import WEIGHT_SUFFIXES, raise_if_exhausted
from bcpg_cluster.stages.push.protocol import SnapshotDigests
from bcpg_cluster.stages.push.wire import as_sent, wire_digest
from bcpg_cluster.store.whole_files import whole_directory

DIGESTS_FILE = "digests.json"
_INDEX_FILE = "model.safetensors.index.json"
_COPIED_DIRECTORIES = ("additional_chat_templates",)


def write_snapshot(
    path: str,
    base_dir: str,
    parameters: Iterable[tuple[str, torch.Tensor]],
    *,
    wire_dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
) -> SnapshotDigests:
    """Write a checkpoint directory that appears whole or not at all; what stood at ``path`` is replaced.

    Args:
        path: where the snapshot is to stand.
        base_dir: the checkpoint the policy started from: config, tokenizer, chat template and generation config are
            copied from it as they are.
        parameters: by their names in the checkpoint, each distinct tensor once (a tied head is left out, as
            ``save_pretrained`` does). Consumed one at a time, so at most one shard is held in memory.
        wire_dtype: what a push will send matrices in.
        max_shard_bytes: where to cut the weights into files.

    Returns:
        The digests of what was written, and of the same tensors as a push sends them.

    Raises:
        TrainingDivergedError: a parameter is not finite.
        RunDirectoryError: the disk does not take it.
    """
    target = Path(path)
    base = Path(base_dir)
    if not (base / "config.json").is_file():
        raise DataError(
            f"{base_dir} holds no config.json",
            rule="a model is a Hugging Face checkpoint directory",
            remedy="give the directory that holds config.json, the tokenizer and the weights",
        )
    try:
        with whole_directory(target) as staging:
            _copy_companions(base, staging)
            digests = _write_weights(staging, parameters, wire_dtype, max_shard_bytes)
            _write_json(staging / DIGESTS_FILE, {"format": 1, "parameters": digests.stored})
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(
            f"the snapshot {path} could not be written: {error}",
            rule="a snapshot appears under its name whole or not at all, and the disk must take it",
            remedy="make room there, and run the same command again: training resumes from its last step checkpoint",
        ) from error
    return digests


def _copy_companions(base: Path, staging: Path) -> None:
    """Copy everything of a checkpoint that is not weights."""
    for entry in sorted(base.iterdir()):
        if entry.is_dir():
            if entry.name in _COPIED_DIRECTORIES:
                shutil.copytree(entry, staging / entry.name)
        elif not entry.name.endswith((*WEIGHT_SUFFIXES, ".index.json")) and entry.name != DIGESTS_FILE:
            shutil.copyfile(entry, staging / entry.name)


def _write_weights(
    staging: Path, parameters: Iterable[tuple[str, torch.Tensor]], wire_dtype: str, max_shard_bytes: int
) -> SnapshotDigests:
    digests: dict[str, str] = {}
    wire: dict[str, str] = {}
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    held_bytes = total_bytes = 0

    def flush() -> None:
        nonlocal held_bytes
        save_file(held, staging / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()
        held_bytes = 0

    for name, parameter in parameters:
        if name in digests:
            raise ValueError(f"parameter {name!r} came twice")
        # A copy: a gathered ZeRO-3 parameter is emptied when the next one is asked for.
        tensor = parameter.detach().to("cpu", copy=True).contiguous()
        if not is_finite(tensor):
            raise TrainingDivergedError(
                f"{name} is not finite after the last step, though its loss and gradient were: no snapshot was written"
            )
        num_bytes = tensor.numel() * tensor.element_size()
        if held and held_bytes + num_bytes > max_shard_bytes:
            flush()
        digests[name], wire[name] = tensor_digest(tensor), wire_digest(as_sent(tensor, wire_dtype))
        held[name] = tensor
        held_bytes += num_bytes
        total_bytes += num_bytes
    flush()

    if len(shards) == 1:
        (staging / "shard-0").rename(staging / "model.safetensors")
        return SnapshotDigests(digests, wire)
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (staging / f"shard-{number}").rename(staging / file)
        weight_map.update(dict.fromkeys(names, file))
    _write_json(staging / _INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    return SnapshotDigests(digests, wire)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_digests(path: str) -> dict[str, str]:
    """The digests written with a snapshot, by parameter name.

    Raises:
        StoreError: there is no complete snapshot at ``path``.
    """
    try:
        content = json.loads((Path(path) / DIGESTS_FILE).read_text())
        if content["format"] != 1:
            raise StoreError(f"snapshot {path}: {DIGESTS_FILE} has format {content['format']}, this version reads 1")
        return {str(name): str(digest) for name, digest in content["parameters"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_if_exhausted(error)
        raise StoreError(f"snapshot {path}: no readable {DIGESTS_FILE}: {error!r}") from error


def read_parameters(path: str, digests: Mapping[str, str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a snapshot, each checked against its digest.

    Args:
        digests: by parameter, as the manifest has them; ``None`` takes those that were written beside the weights.

    Raises:
        StoreError: a file is torn, a parameter is altered, missing or not listed.
        NotFiniteError: a parameter is what was written, and has a NaN or an infinity.
    """
    digests = read_digests(path) if digests is None else digests
    seen: set[str] = set()
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict: it has no __iter__)
                    tensor = tensors.get_tensor(name)
                    if digests.get(name) != tensor_digest(tensor):
                        raise StoreError(f"snapshot {path}: {name} in {file.name} is not what was written")
                    if not is_finite(tensor):
                        raise NotFiniteError(f"snapshot {path}: {name} in {file.name} has values that are not finite")
                    seen.add(name)
                    yield name, tensor
        except (SafetensorError, OSError) as error:
            raise_if_exhausted(error)
            raise StoreError(f"snapshot {path}: {file.name} cannot be read: {error}") from error
    if missing := sorted(set(digests) - seen):
        raise StoreError(f"snapshot {path}: lacks {', '.join(missing[:3])} ({len(missing)} parameters in all)")


def verify_snapshot(path: str, digests: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read a whole snapshot and check it; returns its digests. See :func:`read_parameters`.

    Raises:
        StoreError: it is not what was written; names the file and the parameter.
    """
    expected = read_digests(path) if digests is None else digests
    for _ in read_parameters(path, expected):
        pass
    return dict(expected)
