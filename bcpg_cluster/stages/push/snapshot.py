"""Snapshots: Hugging Face checkpoint directories with a digest of every parameter.

A snapshot is the durable reference of a policy version: rollout engines prove what they received against its digests
and catch up from it. It appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError

from bcpg_cluster.errors import DataError, NotFiniteError, RunDirectoryError, StoreError, TrainingDivergedError
from bcpg_cluster.stages.push.buckets import cut
from bcpg_cluster.stages.push.digest import is_finite, tensor_digest
from bcpg_cluster.stages.push.file_digests import WEIGHT_SUFFIXES, raise_if_exhausted
from bcpg_cluster.stages.push.protocol import SnapshotDigests, TensorSpec
from bcpg_cluster.stages.push.weight_file import opened_weights, stored_bytes, write_weight_file
from bcpg_cluster.stages.push.wire import as_sent, wire_digest
from bcpg_cluster.store.whole_files import what_helps, whole_directory

DIGESTS_FILE = "digests.json"
_INDEX_FILE = "model.safetensors.index.json"
_COPIED_DIRECTORIES = ("additional_chat_templates",)


def write_snapshot(
    path: str,
    base_dir: str,
    specs: Sequence[TensorSpec],
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
        specs: what will be written, in order: names in the checkpoint, each distinct tensor once (a tied head is left out, as
            ``save_pretrained`` does).
        parameters: those tensors, by name. Each is on disk before the next is asked for, so one is in memory at a time.
        wire_dtype: what a push will send matrices in.
        max_shard_bytes: where to cut the weights into files.

    Returns:
        The digests of what was written, and of the same tensors as a push sends them.

    Raises:
        TrainingDivergedError: a parameter is not finite.
        RunDirectoryError: the disk does not take it.
        ValueError: what came is not what was announced.
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
            digests = _write_weights(staging, specs, parameters, wire_dtype, max_shard_bytes)
            _write_json(staging / DIGESTS_FILE, {"format": 1, "parameters": digests.stored})
    except OSError as error:
        raise RunDirectoryError(
            f"the snapshot {path} could not be written: {error}",
            rule="a snapshot appears under its name whole or not at all, and the disk must take it",
            remedy=f"{what_helps(error)}, and run the same command again: training resumes from its last step checkpoint",
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
    staging: Path,
    specs: Sequence[TensorSpec],
    parameters: Iterable[tuple[str, torch.Tensor]],
    wire_dtype: str,
    max_shard_bytes: int,
) -> SnapshotDigests:
    stored: dict[str, str] = {}
    wire: dict[str, str] = {}

    def tensors() -> Iterator[torch.Tensor]:
        for spec, (name, parameter) in zip(specs, parameters, strict=True):
            if name != spec.name:
                raise ValueError(f"{name} came where {spec.name} was announced")
            tensor = parameter.detach().cpu()
            if not is_finite(tensor):
                raise TrainingDivergedError(
                    f"{name} is not finite after the last step, though its loss and gradient were: no snapshot was written"
                )
            stored[name], wire[name] = tensor_digest(tensor), wire_digest(as_sent(tensor, wire_dtype))
            yield tensor

    shards, coming = list(cut(specs, stored_bytes, max_shard_bytes)), tensors()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_weight_file(staging / file, shard, islice(coming, len(shard)))
        weight_map.update((spec.name, file) for spec in shard)
    next(coming, None)  # raises where more came than were announced
    if len(shards) > 1:
        total_bytes = sum(map(stored_bytes, specs))
        _write_json(staging / _INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    return SnapshotDigests(stored, wire)


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
            with opened_weights(file) as tensors:
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
