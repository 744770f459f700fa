"""A process reward model on vLLM: P(step is right) of every step of a response, in one causal pass.

The convention is that of Qwen2.5-Math-PRM: the response is the assistant's turn, every step is followed by a separator
token, the last one too, and the model's two-way head is read at the separators (docs/method.md).
"""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.engines.protocols import JudgeCase, Judgement
from bcpg_cluster.engines.vllm_loop import EngineLoop
from bcpg_cluster.engines.vllm_rollout import check_engine_args
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import VerdictStatus

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
GOOD = 1  # column of the softmax that is P(step is right)


class VllmStepScorer:
    """A :class:`~bcpg_cluster.engines.protocols.Judge` that scores: Qwen2ForProcessRewardModel on one vLLM engine.

    Args:
        engine_args: vLLM's own options (see :func:`~bcpg_cluster.engines.vllm_rollout.check_engine_args`).
        model_version: names the weights in :attr:`version`; the model's name by default.
        separator: the step token of the model's vocabulary.
        system: the system message the model was trained with; empty for none.

    Raises:
        ConfigError: engine_args that do not hold, or a separator that is not one token of the vocabulary.
    """

    def __init__(
        self,
        model: str,
        name: str,
        *,
        engine_args: Mapping[str, Any],
        model_version: str | None = None,
        separator: str = "<extra_0>",
        system: str = QWEN_SYSTEM,
    ) -> None:
        check_engine_args(model, engine_args)
        self.name = name
        self._model_version = model_version or model
        self._separator = separator
        self._system = system
        self._tokenizer_lock = threading.Lock()
        self._tokenizer, self._separator_id = _load_tokenizer(model, engine_args, separator)
        step_tag_id = self._separator_id
        self._loop = EngineLoop(lambda: _build(model, engine_args, step_tag_id), name=f"vllm-{name}")
        # Token pooling needs the whole prompt in one step: vLLM turns chunked prefill off for it.
        self._max_prompt_tokens = self._loop.between_steps(
            lambda llm: min(
                llm.model_config.max_model_len, llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
            )
        )

    @property
    def version(self) -> str:
        """Model and input format: two scorers with the same version give the same scores."""
        return f"{self._model_version}/qwen-prm/{self._separator}/{self._max_prompt_tokens}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """Scores of all steps of all cases. A case with a separator in its text, or too long, is ``REFUSED``."""
        from vllm import PoolingParams

        judgements: list[tuple[Judgement, ...]] = [(Judgement(VerdictStatus.REFUSED),) * len(c.steps) for c in cases]
        prompts = {index: ids for index, case in enumerate(cases) if (ids := self._render(case)) is not None}
        params = PoolingParams(task="token_classify", use_activation=True)
        outputs = self._loop.submit([(token_ids, params) for token_ids in prompts.values()])
        for index, output in zip(prompts, outputs, strict=True):
            rows = output.outputs.data.tolist()
            num_steps = len(cases[index].steps)
            if len(rows) != num_steps:
                raise EngineError(f"the process reward model gave {len(rows)} scores for {num_steps} steps")
            judgements[index] = tuple(_judgement(row[GOOD]) for row in rows)
        return judgements

    def health(self) -> dict[str, float]:
        """Requests running and waiting, busy seconds."""
        return self._loop.health()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._loop.close()
        gc.collect()

    def _render(self, case: JudgeCase) -> tuple[int, ...] | None:
        """The prompt's token ids; ``None`` when it cannot be scored."""
        if not case.steps or any(self._separator in text for text in (case.problem, *case.steps)):
            return None
        messages = [{"role": "system", "content": self._system}] if self._system else []
        response = "".join(step.strip("\n") + self._separator for step in case.steps)
        messages += [{"role": "user", "content": case.problem}, {"role": "assistant", "content": response}]
        with self._tokenizer_lock:
            token_ids = tuple(
                self._tokenizer.apply_chat_template(messages, add_generation_prompt=False, return_dict=False)
            )
        # Counted again in ids: some other spelling of the token in the text would shift every score after it.
        fits = len(token_ids) <= self._max_prompt_tokens and token_ids.count(self._separator_id) == len(case.steps)
        return token_ids if fits else None


def _judgement(score: float) -> Judgement:
    if math.isfinite(score) and 0.0 <= score <= 1.0:
        return Judgement(VerdictStatus.JUDGED, score=score)
    return Judgement(VerdictStatus.UNPARSABLE, raw=str(score))


def _load_tokenizer(model: str, engine_args: Mapping[str, Any], separator: str) -> tuple[Any, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        engine_args.get("tokenizer") or model, trust_remote_code=engine_args.get("trust_remote_code", False)
    )
    token_id = tokenizer.get_vocab().get(separator)
    if token_id is None:
        raise ConfigError(
            f"{separator!r} is not a token of {model}",
            rule="the step separator is one token of the process reward model's vocabulary",
            remedy="set the separator the model was trained with",
        )
    return tokenizer, token_id


def _build(model: str, engine_args: Mapping[str, Any], step_tag_id: int) -> Any:
    from vllm import LLM
    from vllm.config import PoolerConfig

    pooler = PoolerConfig(task="token_classify", tok_pooling_type="STEP", step_tag_id=step_tag_id)
    return LLM(model, runner="pooling", pooler_config=pooler, **engine_args)
