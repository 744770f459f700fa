"""From a process reward model's name and convention to the scorer that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.generate.engine_start import refusing_starts
from bcpg_cluster.stages.judge.prm.detection import detect_convention, model_config_of
from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer
from bcpg_cluster.stages.judge.protocol import Judge


def make_step_scorer(
    model: str, name: str, *, engine: str = "auto", defaults: Mapping[str, Any] | None = None, **options: Any
) -> Judge:
    """The scorer for a model: on vLLM, or on transformers where vLLM does not know the architecture.

    Args:
        engine: ``vllm``, ``transformers``, or ``auto``: transformers for the conventions ``skywork`` and ``trl``.
        defaults: of ``engine_args``, as vLLM takes them; transformers gets those that it knows.
        options: as :class:`VllmStepScorer` takes them.

    Raises:
        ConfigError: as the scorer itself, or an unknown engine.
    """
    from bcpg_cluster.stages.judge.prm.transformers_scorer import OPTIONS, TransformersStepScorer

    if engine not in ("auto", "vllm", "transformers"):
        raise ConfigError(
            f"unknown engine {engine!r} for process reward models",
            rule="auto, vllm or transformers",
            remedy="correct the name",
        )
    if engine == "auto":
        convention = options.get("convention", "auto")
        if convention == "auto":
            convention = detect_convention(model, model_config_of(model, options.get("engine_args", {})))
        engine = "transformers" if convention in ("skywork", "trl") else "vllm"
    known = {name: value for name, value in (defaults or {}).items() if engine == "vllm" or name in OPTIONS}
    options["engine_args"] = {**known, **options.get("engine_args", {})}
    with refusing_starts(model):
        return (TransformersStepScorer if engine == "transformers" else VllmStepScorer)(model, name, **options)
