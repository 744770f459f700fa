"""A process reward model on vLLM: P(step is right) of every step of a response, in one causal pass.

What the model is shown, and where its scores are, is a convention (``stages.judge.prm.conventions``); responses beyond its
context are shown in windows (``stages.judge.prm.windows``). vLLM's pooling runner serves

- ``Qwen2ForProcessRewardModel`` (convention ``qwen``) by its own architecture, and
- causal models (``math_shepherd``, ``rlhflow``) as a classifier made of two rows of the output head, so that a score is
  softmax over the logits of "+" and "-", all steps in one pass. (Next-token log-probs by ``logprob_token_ids`` would need
  a request a step, and change what other requests of the batch get.)

All other conventions are served by transformers: ``stages.judge.prm.make_scorer``.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.stages.generate.vllm_loop import EngineLoop
from bcpg_cluster.stages.generate.vllm_options import check_engine_args, with_workers
from bcpg_cluster.stages.judge.prm.detection import (
    CONTEXT_TOKENS,
    load_convention,
)
from bcpg_cluster.stages.judge.prm.layout import Convention
from bcpg_cluster.stages.judge.prm.windows import WindowInput, to_judgements, window_inputs
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged


class VllmStepScorer:
    """A :class:`~bcpg_cluster.stages.judge.protocol.Judge` that scores, on one vLLM engine.

    Args:
        engine_args: vLLM's own options (see :func:`~bcpg_cluster.stages.generate.vllm_options.check_engine_args`).
        model_version: names the weights in :attr:`version`; the model's name by default.
        separator: the step token of the model's vocabulary; ``None`` for what its family was trained with.
        system: the system message the model was trained with; empty for none, ``None`` as for ``separator``.
        convention: a name of ``conventions.CONVENTIONS``, or ``auto``.
        context_tokens: how much of a response a later window shows at least before the steps it scores.

    Raises:
        ConfigError: invalid engine_args, or a model or tokenizer that does not fit the convention.
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
        check_engine_args(model, engine_args)
        self.name = name
        self._model_version = model_version or model
        self._context_tokens = context_tokens
        self._tokenizer_lock = threading.Lock()
        self._convention, tokenizer, _ = load_convention(model, engine_args, convention, separator, system)
        if self._convention.head in ("value", "labels", "log_ratio"):
            raise ConfigError(
                f"the head of {model} is not read by vLLM here",
                rule="models with a value head (skywork), pairs of models (implicit) and token classifiers (trl) are served by "
                "transformers",
                remedy="set the judge's engine to transformers, or leave it to be chosen",
            )
        options = _engine_options(self._convention, tokenizer, engine_args)
        self._loop = EngineLoop(lambda: _build(model, options), name=f"vllm-{name}")
        self._max_prompt_tokens = self._loop.between_steps(_capacity)

    @property
    def version(self) -> str:
        """Model and input format: two scorers with the same version give the same scores."""
        return f"{self._model_version}/{self._convention.version}/{self._max_prompt_tokens}/{self._context_tokens}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """Scores of all steps of all cases. Steps that cannot be told apart in the input, or do not fit, are ``REFUSED``."""
        from vllm import PoolingParams

        with self._tokenizer_lock:
            inputs = window_inputs(self._convention, cases, self._max_prompt_tokens, self._context_tokens)
        params = PoolingParams(task="token_classify", use_activation=True)
        outputs = self._loop.submit([(part.rendered.token_ids, params) for part in inputs])
        scores = [
            _good_scores(output.outputs.data.tolist(), part, self._convention)
            for part, output in zip(inputs, outputs, strict=True)
        ]
        return Judged(to_judgements(cases, inputs, scores))

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        return self._loop.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        self._loop.wake_up()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._loop.close()
        gc.collect()


def _engine_options(convention: Convention, tokenizer: Any, engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine is built with: the user's options and what the convention needs."""
    from vllm.config import PoolerConfig

    options = dict(engine_args)
    if convention.separator_id is not None:
        # Only the separators' rows come back. The default step_tag_id is a token of the large models' vocabulary.
        pooler = PoolerConfig(task="token_classify", tok_pooling_type="STEP", step_tag_id=convention.separator_id)
    else:
        pooler = PoolerConfig(task="token_classify", tok_pooling_type="ALL")
        options.setdefault("enable_prefix_caching", False)  # a cached prefix has no rows to give
    if convention.pair is not None:
        pieces = tokenizer.convert_ids_to_tokens(list(convention.pair))
        if tokenizer.convert_tokens_to_ids(pieces) != list(convention.pair):  # vLLM goes back from the pieces to ids
            raise ConfigError(
                f"the tokens {pieces} do not lead back to their ids {list(convention.pair)}",
                rule="vLLM finds the rows of the output head by the tokens' names",
                remedy="set the judge's engine to transformers",
            )
        options["convert"] = "classify"
        options["hf_overrides"] = {
            **(options.get("hf_overrides") or {}), "classifier_from_token": pieces, "method": "no_post_processing"
        }  # fmt: skip
    return options | {"runner": "pooling", "pooler_config": pooler}


def _build(model: str, options: Mapping[str, Any]) -> Any:
    from vllm import LLM

    return LLM(model, **with_workers(options))


def _capacity(llm: Any) -> int:
    """The most tokens of one prompt. Without chunked prefill (STEP pooling turns it off) it must fit one engine step."""
    scheduler, longest = llm.llm_engine.vllm_config.scheduler_config, int(llm.model_config.max_model_len)
    return longest if scheduler.enable_chunked_prefill else min(longest, int(scheduler.max_num_batched_tokens))


def _good_scores(rows: Sequence[Sequence[float]], part: WindowInput, convention: Convention) -> list[float]:
    """P(good) at the window's positions; a row that is no distribution gives NaN, which no status takes for a score.

    Raises:
        EngineError: not one row for every position asked for.
    """
    positions = part.rendered.positions
    num_rows = len(part.rendered.token_ids) if convention.separator_id is None else len(positions)
    if len(rows) != num_rows:
        raise EngineError(f"the process reward model gave {len(rows)} scores for {num_rows} places")
    chosen = [rows[place] for place in positions] if convention.separator_id is None else rows
    good = 1 if convention.head == "two_way" else 0
    return [row[good] if len(row) == 2 and abs(sum(row) - 1) < 1e-2 else float("nan") for row in chosen]
