"""Process reward models by a plain transformers forward: for heads vLLM does not know (Skywork, TRL's), or where it is not there.

Slower than vLLM on GPUs (no continuous batching), with the same conventions, windows and statuses. The model's own
code is never run: the backbone is a transformers class, and the head's tensors are read from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.prm.detection import CONTEXT_TOKENS, load_convention
from bcpg_cluster.stages.judge.prm.layout import Convention, Rendered
from bcpg_cluster.stages.judge.prm.transformers_model import (
    HeldModels,
    batch_tokens_of,
    capacity_of,
    check_options,
    checkpoint_tensors,
    hidden_states,
    load_model,
    pair_rows,
)
from bcpg_cluster.stages.judge.prm.windows import to_judgements, window_inputs
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged

_HEAD_PREFIXES = {"two_way": "score.", "value": "v_head.summary.", "labels": "score."}


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
        check_options(engine_args)
        self.name = name
        self._model_version = model_version or model
        self._context_tokens = context_tokens
        self._convention, self._tokenizer, config = load_convention(model, engine_args, convention, separator, system)
        self._capacity = capacity_of(engine_args, config)
        self._max_batch_tokens = batch_tokens_of(engine_args, self._capacity)
        self._held = HeldModels(*_load(model, engine_args, self._convention))

    @property
    def version(self) -> str:
        """Model and input format: two scorers with the same version give the same scores."""
        return f"{self._model_version}/{self._convention.version}/{self._capacity}/{self._context_tokens}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Scores of all steps of all cases. Steps that cannot be told apart in the input, or do not fit, are ``REFUSED``.

        Raises:
            EngineError: the scorer was closed, or the forward failed.
        """
        with self._held.in_use() as (backbone, head):
            inputs = window_inputs(self._convention, cases, self._capacity, self._context_tokens)
            scores = self._score(backbone, head, [part.rendered for part in inputs])
        return Judged(to_judgements(cases, inputs, scores))

    def close(self) -> None:
        """Free the model."""
        self._held.free()

    def _score(self, backbone: Any, head: Mapping[str, Any], inputs: Sequence[Rendered]) -> list[list[float]]:
        """P(good) at the positions of every input, in order."""
        import torch

        scores: list[list[float]] = [[] for _ in inputs]
        for index, hidden in hidden_states(backbone, [part.token_ids for part in inputs], self._max_batch_tokens):
            places = torch.tensor(inputs[index].positions, device=hidden.device)
            scores[index] = _apply_head(self._convention, head, hidden[places].float()).tolist()
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


def _load(model: str, engine_args: Mapping[str, Any], convention: Convention) -> tuple[Any, dict[str, Any]]:
    """The backbone without its output head, and the head's tensors in fp32."""
    backbone = load_model(model, engine_args)
    if convention.pair is not None:
        return backbone, {"weight": pair_rows(backbone, model, engine_args, convention.pair)}
    prefix = _HEAD_PREFIXES[convention.head]
    head = {
        name.removeprefix(prefix): tensor for name, tensor in checkpoint_tensors(model, engine_args, prefix).items()
    }
    needed = {
        "two_way": {"0.weight", "0.bias", "2.weight", "2.bias"},
        "value": {"weight", "bias"},
        "labels": {"weight", "bias"},
    }
    missing = sorted(prefix + name for name in needed[convention.head] - head.keys())
    if missing:
        raise ConfigError(
            f"the checkpoint of {model} has no {', '.join(missing)}",
            rule=f"the convention {convention.name!r} reads the model's scores through this head",
            remedy="use the whole checkpoint, or set the model's own convention",
        )
    device = next(backbone.parameters()).device
    return backbone, {name: tensor.float().to(device) for name, tensor in head.items()}
