"""A trained policy as a Hugging Face directory that ``transformers`` and ``vllm serve`` load.

The weights are read back from the copy, parameter by parameter, and held against the digests that the manifest noted when
the snapshot was made: what is exported is what was trained, pushed and measured.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, RunDirectoryError, StoreError
from bcpg_cluster.exchange.dataset_directory import CARD
from bcpg_cluster.exchange.new_directory import new_directory
from bcpg_cluster.exchange.policy.model_card import CardFacts, render_model_card
from bcpg_cluster.stages.push.canaries import CANARIES
from bcpg_cluster.store.fetched import local_copy
from bcpg_cluster.store.manifest import ManifestState, SnapshotRecord, read_manifest
from bcpg_cluster.store.path import RunPath

BASE_CARD = "README.base.md"  # the card that came with the base model
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_GENERATION = "generation_config.json"
_FOR_GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class ExportedPolicy:
    """What was written. ``dtypes`` counts parameter values by dtype; ``has_chat_template`` is what chatting needs."""

    directory: Path
    version: int
    num_parameters: int
    dtypes: dict[str, int]
    has_chat_template: bool


def export_policy(
    run_dir: RunPath, out: Path, config: Config, *, version: int | None = None, licence: str | None = None
) -> ExportedPolicy:
    """Write the policy of a round (the newest, unless chosen) and its card to a new directory, whole or not at all.

    Args:
        config: the run's, for the card.
        licence: for the card, as the hub names licences; without it the base model's, where its card says one.

    Raises:
        RunDirectoryError: no round has trained yet, there is no such version, or its files were deleted.
        DataError: the snapshot is not a model (fakes have none), or ``out`` is not empty.
        StoreError: the weights are not those the manifest noted.
    """
    from bcpg_cluster.stages.push.snapshot import read_digests, read_parameters

    state = read_manifest(run_dir)
    record = _record(run_dir, state, version)
    source = Path(local_copy(run_dir / record.path))
    _check_is_a_model(source)
    with new_directory(out) as staging:
        _copy(source, staging)
        if read_digests(str(staging)) != record.digests:
            raise StoreError(f"snapshot {source}: its digests are not those the manifest holds for v{record.version}")
        dtypes: Counter[str] = Counter()
        for _, tensor in read_parameters(str(staging)):  # each is checked against its digest
            dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        _complete_generation_config(staging)
        has_template = _has_chat_template(staging)
        facts = CardFacts(record.version, dtypes, has_template, _base_head(staging), licence)
        (staging / CARD).write_text(render_model_card(config, state, facts), encoding="utf-8")
    return ExportedPolicy(out, record.version, sum(dtypes.values()), dict(dtypes), has_template)


def _record(run_dir: RunPath, state: ManifestState, version: int | None) -> SnapshotRecord:
    """The snapshot to export; one that has files."""
    newest = max(state.snapshots, default=0)
    wanted = newest if version is None else version
    record = state.snapshots.get(wanted)
    if record is None or not record.path:
        raise RunDirectoryError(
            f"version {wanted} of {run_dir} has no weights of its own",
            rule="version n is made by the training of round n; version 0 is the base model itself",
            remedy=f"versions with weights: {', '.join(str(v) for v, r in state.snapshots.items() if r.path) or 'none'}",
        )
    if not (run_dir / record.path).is_dir():
        there = [v for v, r in sorted(state.snapshots.items()) if r.path and (run_dir / r.path).is_dir()]
        raise RunDirectoryError(
            f"snapshot v{wanted} is no longer there",
            rule="of a run's snapshots the best and the newest are kept (snapshots.keep_last)",
            remedy=f"there are still: {', '.join(f'v{v}' for v in there) or 'none'}",
        )
    return record


def _check_is_a_model(source: Path) -> None:
    missing = [] if (source / "config.json").is_file() else ["config.json"]
    missing += [] if any(source.glob("*.safetensors")) else ["safetensors"]
    missing += [] if any((source / name).is_file() for name in TOKENIZER_FILES) else ["a tokenizer"]
    if missing:
        raise DataError(
            f"snapshot {source} lacks {' and '.join(missing)}",
            rule="a policy is exported from a Hugging Face checkpoint; fakes (policy.kind fake) have none",
            remedy="export a run whose policy is a real model",
        )


def _copy(source: Path, staging: Path) -> None:
    """Copy everything but the proofs of the push; the base's own card steps aside."""
    for entry in sorted(source.iterdir()):
        if entry.name == CANARIES:
            continue
        name = BASE_CARD if entry.name == CARD else entry.name
        if entry.is_dir():
            shutil.copytree(entry, staging / name)
        else:
            shutil.copyfile(entry, staging / name)


def _complete_generation_config(staging: Path) -> None:
    """Where the base brought no generation config, write one with the end token: without it no reader knows where to stop."""
    if (staging / _GENERATION).is_file():
        return
    config = json.loads((staging / "config.json").read_text(encoding="utf-8"))
    content = {key: config[key] for key in _FOR_GENERATION if config.get(key) is not None}
    (staging / _GENERATION).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _has_chat_template(staging: Path) -> bool:
    if (staging / "chat_template.jinja").is_file() or (staging / "chat_template.json").is_file():
        return True
    file = staging / "tokenizer_config.json"
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("chat_template"))


def _base_head(staging: Path) -> dict[str, Any]:
    """The YAML head of the base model's own card, which now stands beside the policy's."""
    base_card = staging / BASE_CARD
    return read_front_matter(base_card.read_text(encoding="utf-8")) if base_card.is_file() else {}


def read_front_matter(text: str) -> dict[str, Any]:
    """The YAML head of a Markdown page; empty where none can be read."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, flags=re.DOTALL)
    if found is None:
        return {}
    try:
        content = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}
