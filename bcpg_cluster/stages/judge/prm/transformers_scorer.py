"""Process reward models by a plain transformers forward: for heads vLLM does not know (Skywork, TRL's), or where it is not there.

Slower than vLLM on GPUs (no continuous batching), with the same conventions, windows and statuses. The model's own
code is never run: the backbone is a transformers class, and the head's tensors are read from the checkpoint.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.liveness.progress import present_work
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.stages.judge.prm.conventions import Convention
from bcpg_cluster.stages.judge.prm.detection import CONTEXT_TOKENS, load_convention
from bcpg_cluster.stages.judge.prm.windows import to_judgements, window_inputs
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged

# vLLM's names, so that one configuration serves either engine.
OPTIONS = ("dtype", "max_model_len", "max_num_batched_tokens", "revision", "tokenizer", "trust_remote_code")
_HEAD_PREFIXES = {"two_way": "score.", "value": "v_head.summary.", "token_pair": "lm_head.", "labels": "score."}


class TransformersStepScorer:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that scores, on one transformers model (a GPU if there is one).

    Args:
        engine_args: ``dtype`` (``auto`` by default), ``max_model_len`` (the model's by default), ``max_num_batched_tokens``
            (padded tokens of one forward), ``tokenizer``, ``revision``. Options of vLLM's engine that mean nothing here
            are refused.

    The other arguments are those of :class:`~bcpg_cluster.stages.judge.prm.vllm_scorer.VllmStepScorer`.

    Raises:
        ConfigError: an unknown option, a checkpoint without the head, or a tokenizer that does not fit.
    """

    def __init__(
        self,
        model: str,
        name: str,
        *,
        engine_args: Mapping[str, Any],
        model_version: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        convention: str = "auto",
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        unknown = sorted(set(engine_args) - set(OPTIONS))
        if unknown:
            raise ConfigError(
                f"engine_args {unknown} mean nothing to a process reward model served by transformers",
                rule=f"known: {', '.join(OPTIONS)}",
                remedy="remove them",
            )
        self.name = name
        self._model_version = model_version or model
        self._context_tokens = context_tokens
        self._convention, self._tokenizer, config = load_convention(model, engine_args, convention, separator, system)
        self._capacity = min(
            int(engine_args.get("max_model_len") or config["max_position_embeddings"]),
            int(config["max_position_embeddings"]),
        )
        self._max_batch_tokens = max(int(engine_args.get("max_num_batched_tokens") or 16384), self._capacity)
        self._lock = threading.Lock()
        self._backbone: Any
        self._backbone, self._head = _load(model, engine_args, self._convention)

    @property
    def version(self) -> str:
        """Model and input format: two scorers with the same version give the same scores."""
        return f"{self._model_version}/{self._convention.version}/{self._capacity}/{self._context_tokens}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Scores of all steps of all cases. Steps that cannot be told apart in the input, or do not fit, are ``REFUSED``.

        Raises:
            EngineError: the scorer was closed, or the forward failed.
        """
        with self._lock:
            if self._backbone is None:
                raise EngineError("the engine is closed")
            inputs = window_inputs(self._convention, cases, self._capacity, self._context_tokens)
            try:
                scores = self._score([(part.rendered.token_ids, part.rendered.positions) for part in inputs])
            except RuntimeError as error:  # torch's, out of memory among them
                raise EngineError(f"the forward of the process reward model failed: {error}") from error
        return Judged(to_judgements(cases, inputs, scores))

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._backbone, self._head = None, {}
        gc.collect()

    def _score(self, inputs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[float]]:
        """P(good) at the positions of every input, in order; like lengths share a forward."""
        import torch

        scores: list[list[float]] = [[] for _ in inputs]
        device = next(self._backbone.parameters()).device
        for batch in _batches([len(token_ids) for token_ids, _ in inputs], self._max_batch_tokens):
            longest = max(len(inputs[index][0]) for index in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)  # [B, T]; padding is on the right, behind the mask
            mask = torch.zeros_like(ids)
            for row, index in enumerate(batch):
                length = len(inputs[index][0])
                ids[row, :length] = torch.tensor(inputs[index][0])
                mask[row, :length] = 1
            with torch.no_grad():
                hidden = self._backbone(
                    input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
                ).last_hidden_state  # [B, T, H]
                for row, index in enumerate(batch):
                    places = torch.tensor(inputs[index][1], device=device)
                    scores[index] = _apply_head(self._convention, self._head, hidden[row, places].float()).tolist()
            present_work().mark()
        return scores


def _apply_head(convention: Convention, head: Mapping[str, Any], hidden: Any) -> Any:
    """P(good), ``[N]``, of hidden states ``[N, H]`` in fp32."""
    if convention.head == "two_way":
        inner = (hidden @ head["0.weight"].T + head["0.bias"]).relu()
        return (inner @ head["2.weight"].T + head["2.bias"]).softmax(-1)[:, 1]
    if convention.head == "value":
        return (hidden @ head["weight"].T + head["bias"]).sigmoid()[:, 0]
    if convention.head == "labels":
        return (hidden @ head["weight"].T + head["bias"]).softmax(-1)[:, 1]
    return (hidden @ head["weight"].T).softmax(-1)[:, 0]


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices by length, in batches of at most ``max_tokens`` with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(model: str, engine_args: Mapping[str, Any], convention: Convention) -> tuple[Any, dict[str, Any]]:
    """The backbone without its output head, and the head's tensors in fp32."""
    import torch
    from transformers import AutoModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = AutoModel.from_pretrained(
        model,
        dtype=engine_args.get("dtype", "auto"),
        revision=engine_args.get("revision"),
        trust_remote_code=engine_args.get("trust_remote_code", False),
    )
    prefix = _HEAD_PREFIXES[convention.head]
    head = {name.removeprefix(prefix): tensor for name, tensor in _tensors(model, engine_args, prefix).items()}
    if convention.pair is not None:
        # Tied models have no lm_head in their files: the embedding is it.
        rows = head["weight"] if "weight" in head else backbone.get_input_embeddings().weight.detach()
        head = {"weight": rows[list(convention.pair)]}
    needed = {
        "two_way": {"0.weight", "0.bias", "2.weight", "2.bias"},
        "value": {"weight", "bias"},
        "labels": {"weight", "bias"},
    }
    missing = sorted(prefix + name for name in needed.get(convention.head, set()) - head.keys())
    if missing:
        raise ConfigError(
            f"the checkpoint of {model} has no {', '.join(missing)}",
            rule=f"the convention {convention.name!r} reads the model's scores through this head",
            remedy="use the whole checkpoint, or set the model's own convention",
        )
    return backbone.eval().to(device), {name: tensor.float().to(device) for name, tensor in head.items()}


def _tensors(model: str, engine_args: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The checkpoint's tensors whose names start with ``prefix`` (safetensors or PyTorch files, in shards or not)."""
    import torch
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in _weight_files(model, engine_args, prefix):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
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
