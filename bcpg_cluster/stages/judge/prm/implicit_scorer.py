"""Implicit process reward models on transformers: two language models read every response once, the policy and the reference.

What a score is: ``stages.judge.prm.implicit``. Both models stay in memory; the vocabulary's log-probs exist for a few hundred
tokens at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.prm.detection import CONTEXT_TOKENS, load_convention, load_tokenizer, model_config_of
from bcpg_cluster.stages.judge.prm.implicit import Reference
from bcpg_cluster.stages.judge.prm.layout import Convention, Rendered
from bcpg_cluster.stages.judge.prm.transformers_model import (
    HeldModels,
    batch_tokens_of,
    capacity_of,
    check_options,
    hidden_states,
    load_model,
)
from bcpg_cluster.stages.judge.prm.windows import to_judgements, window_inputs
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged

CHUNK_TOKENS: Final = 256
_PROBE = ("What is 12+7?", ("First, 12+7=19.", "So the answer is \\boxed{19}, 答案是十九."))


class ImplicitStepScorer:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` whose score of a step is the sigmoid of its log-ratio.

    Args:
        reference: what the model is compared with.

    The other arguments are those of :class:`~bcpg_cluster.stages.judge.prm.transformers_scorer.TransformersStepScorer`.

    Raises:
        ConfigError: an unknown option, models of two vocabularies, or one whose logits are no plain linear head.
    """

    def __init__(
        self,
        model: str,
        name: str,
        *,
        engine_args: Mapping[str, Any],
        reference: Reference,
        model_version: str | None = None,
        separator: str | None = None,
        system: str | None = None,
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        check_options(engine_args)
        self.name = name
        self._version = f"{model_version or model}/against:{reference.version}/beta:{reference.beta:g}"
        self._beta, self._context_tokens = reference.beta, context_tokens
        self._convention, _, config = load_convention(model, engine_args, "implicit", separator, system)
        reference_config = check_reference(self._convention, model, reference.model, engine_args)
        self._capacity = min(capacity_of(engine_args, config), capacity_of(engine_args, reference_config))
        self._max_batch_tokens = batch_tokens_of(engine_args, self._capacity)
        others = {option: value for option, value in engine_args.items() if option != "revision"}
        self._held = HeldModels(_load(model, engine_args), _load(reference.model, others))

    @property
    def version(self) -> str:
        """Both models, beta and input format: two scorers with the same version give the same scores."""
        return f"{self._version}/{self._convention.version}/{self._capacity}/{self._context_tokens}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Scores of all steps of all cases. Steps that cannot be told apart in the input, or do not fit, are ``REFUSED``.

        Raises:
            EngineError: the scorer was closed, or a forward failed.
        """
        with self._held.in_use() as models:
            inputs = window_inputs(self._convention, cases, self._capacity, self._context_tokens)
            own, reference = (self._step_logprobs(model, [part.rendered for part in inputs]) for model in models)
        scores = [
            [sigmoid(self._beta * (of_model - of_reference)) for of_model, of_reference in zip(*steps, strict=True)]
            for steps in zip(own, reference, strict=True)
        ]
        return Judged(to_judgements(cases, inputs, scores))

    def close(self) -> None:
        """Free both models."""
        self._held.free()

    def _step_logprobs(self, model: Any, inputs: Sequence[Rendered]) -> list[list[float]]:
        """Of every input, the sum of log p over each step's tokens, in nats."""
        import torch

        from bcpg_cluster.stages.train.logprobs import token_logprobs

        head, found = model.get_output_embeddings(), [[0.0]] * len(inputs)
        all_ids = [rendered.token_ids for rendered in inputs]
        for index, hidden in hidden_states(model.base_model, all_ids, self._max_batch_tokens):
            part = inputs[index]
            end = part.positions[-1] + 1
            targets = torch.tensor(part.token_ids[part.start : end], device=hidden.device)
            with torch.no_grad():
                states = hidden[part.start - 1 : end - 1]  # [N, H]: a token's log-prob is read one place before it
                logprobs, _ = token_logprobs(states, head.weight, head.bias, targets, chunk_tokens=CHUNK_TOKENS)
            found[index] = step_sums(logprobs.double().tolist(), part)
        return found


def step_sums(logprobs: Sequence[float], rendered: Rendered) -> list[float]:
    """Sums of the log-probs of tokens ``start..positions[-1]`` by step; a step ends at its position."""
    ends = [position + 1 - rendered.start for position in rendered.positions]
    return [math.fsum(logprobs[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def sigmoid(reward: float) -> float:
    """1 / (1 + exp(-reward)); NaN stays NaN, which no status takes for a score."""
    return 0.5 * (1.0 + math.tanh(0.5 * reward))


def check_reference(
    convention: Convention, model: str, reference_model: str, engine_args: Mapping[str, Any]
) -> dict[str, Any]:
    """The reference's ``config.json``, once it is clear that it reads the model's token ids as the model does.

    Raises:
        ConfigError: it does not: its tokenizer cuts a plain case otherwise, or its vocabulary is too small.
    """
    config = model_config_of(reference_model, {})
    options = {"trust_remote_code": engine_args.get("trust_remote_code", False)}
    tried = convention.render(*_PROBE)
    assert tried is not None  # the convention was tried on a case like it when it was made
    text = load_tokenizer(model, engine_args).decode(list(tried.token_ids))
    ids = load_tokenizer(reference_model, options).encode(text, add_special_tokens=False)
    size = int(config.get("vocab_size") or 0)
    if tuple(ids) != tried.token_ids or max(tried.token_ids) >= size > 0:
        raise ConfigError(
            f"{reference_model} does not share the vocabulary of {model}",
            rule="an implicit process reward model and its reference give probabilities to the same tokens",
            remedy="set reference_model to the model it was trained from (EurusPRM's is Qwen/Qwen2.5-Math-7B-Instruct)",
        )
    return config


def _load(model: str, engine_args: Mapping[str, Any]) -> Any:
    """A causal model whose logits are its head's alone: what changes them after the head would be left out here."""
    loaded = load_model(model, engine_args, is_causal=True)
    changes = [name for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
               if getattr(loaded.config, name, None) not in (None, 1, 1.0)]  # fmt: skip
    if changes:
        raise ConfigError(
            f"{model} changes its logits by {', '.join(changes)}",
            rule="an implicit process reward model and its reference have plain linear heads here",
            remedy="use models of the Qwen2, Qwen3, Llama or Mistral families",
        )
    return loaded
