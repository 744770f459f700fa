"""What scorers on plain transformers share: their options, models in memory, a checkpoint's tensors, and hidden states in batches.

The model's own code is never run: models are transformers' classes, and a head that those do not know is read from the files.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.errors import ConfigError, EngineError

# vLLM's names, so that one configuration serves either engine.
OPTIONS = ("dtype", "max_model_len", "max_num_batched_tokens", "revision", "tokenizer", "trust_remote_code")


class HeldModels:
    """What a scorer has in memory, for one caller at a time, until it is freed."""

    def __init__(self, *models: Any) -> None:
        self._models, self._lock = models, threading.Lock()

    @contextmanager
    def in_use(self) -> Iterator[tuple[Any, ...]]:
        """The models as they were given.

        Raises:
            EngineError: they were freed, or torch failed (out of memory, say).
        """
        with self._lock:
            if not self._models:
                raise EngineError("the engine is closed")
            try:
                yield self._models
            except RuntimeError as error:
                raise EngineError(f"the forward of the process reward model failed: {error}") from error

    def free(self) -> None:
        """Let go of them, once no caller uses them."""
        with self._lock:
            self._models = ()
        gc.collect()


def check_options(engine_args: Mapping[str, Any]) -> None:
    """Raises :class:`ConfigError` for options of vLLM's engine that mean nothing here."""
    unknown = sorted(set(engine_args) - set(OPTIONS))
    if unknown:
        raise ConfigError(
            f"engine_args {unknown} mean nothing to a process reward model served by transformers",
            rule=f"known: {', '.join(OPTIONS)}",
            remedy="remove them",
        )


def capacity_of(engine_args: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The most tokens of one input: ``max_model_len``, at most what the model's ``config.json`` has."""
    longest = int(config["max_position_embeddings"])
    return min(int(engine_args.get("max_model_len") or longest), longest)


def batch_tokens_of(engine_args: Mapping[str, Any], capacity: int) -> int:
    """The most tokens of one forward, padding counted; one input always fits."""
    return max(int(engine_args.get("max_num_batched_tokens") or 16384), capacity)


def load_model(model: str, engine_args: Mapping[str, Any], *, is_causal: bool = False) -> Any:
    """The model in evaluation mode, on a GPU if there is one: its backbone alone, or with its language head."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    loaded = (AutoModelForCausalLM if is_causal else AutoModel).from_pretrained(
        model,
        dtype=engine_args.get("dtype", "auto"),
        revision=engine_args.get("revision"),
        trust_remote_code=engine_args.get("trust_remote_code", False),
    )
    return loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def hidden_states(backbone: Any, inputs: Sequence[Sequence[int]], max_tokens: int) -> Iterator[tuple[int, Any]]:
    """The last hidden states ``[T, H]`` of every input, with its index; like lengths share a forward."""
    import torch

    device = next(backbone.parameters()).device
    for batch in batches([len(token_ids) for token_ids in inputs], max_tokens):
        longest = max(len(inputs[index]) for index in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # [B, T]; padding is on the right, behind the mask
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : len(inputs[index])] = torch.tensor(inputs[index])
            mask[row, : len(inputs[index])] = 1
        with torch.no_grad():
            hidden = backbone(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).last_hidden_state  # [B, T, H]
        for row, index in enumerate(batch):
            yield index, hidden[row, : len(inputs[index])]
        present_work().mark()


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices by length, in batches of at most ``max_tokens`` with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pair_rows(backbone: Any, model: str, engine_args: Mapping[str, Any], pair: Sequence[int]) -> Any:
    """The output head's rows ``[2, H]`` of two tokens, in fp32."""
    head = checkpoint_tensors(model, engine_args, "lm_head.")
    # Tied models have no lm_head in their files: the embedding is it.
    rows = head.get("lm_head.weight")
    embedding = backbone.get_input_embeddings().weight
    return (embedding.detach() if rows is None else rows)[list(pair)].float().to(embedding.device)


def checkpoint_tensors(model: str, engine_args: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The checkpoint's tensors whose names start with ``prefix`` (safetensors or PyTorch files, in shards or not)."""
    import torch

    from bcpg_cluster.stages.push.weight_file import opened_weights

    found: dict[str, Any] = {}
    for path in _weight_files(model, engine_args, prefix):
        if path.suffix == ".safetensors":
            with opened_weights(path) as file:
                found |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found |= {name: tensor for name, tensor in loaded.items() if name.startswith(prefix)}
    return found


def _weight_files(model: str, engine_args: Mapping[str, Any], prefix: str) -> list[Path]:
    """The files that may hold such tensors, on this disk (fetched from the hub by transformers if need be)."""
    from transformers.utils import cached_file

    def fetch(name: str) -> Path | None:
        found = cached_file(
            model, name, revision=engine_args.get("revision"), _raise_exceptions_for_missing_entries=False
        )
        return None if found is None else Path(found)

    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = fetch(f"{whole}.index.json")
        if index is not None:
            names = {
                file for name, file in json.loads(index.read_text())["weight_map"].items() if name.startswith(prefix)
            }
            return [path for name in sorted(names) if (path := fetch(name)) is not None]
        single = fetch(whole)
        if single is not None:
            return [single]
    return []
