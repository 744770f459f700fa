"""From a process reward model's name and convention to the scorer that serves it."""

from __future__ import annotations

from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.generate.engine_start import refusing_starts
from bcpg_cluster.stages.judge.prm.detection import detect_convention, model_config_of
from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer
from bcpg_cluster.stages.judge.protocol import Judge


def make_step_scorer(model: str, name: str, *, engine: str = "auto", **options: Any) -> Judge:
    """The scorer for a model: on vLLM, or on transformers where vLLM does not know the architecture.

    Args:
        engine: ``vllm``, ``transformers``, or ``auto``: transformers for the convention ``skywork`` alone.
        options: as :class:`VllmStepScorer` takes them.

    Raises:
        ConfigError: as the scorer itself, or an unknown engine.
    """
    from bcpg_cluster.stages.judge.prm.transformers_scorer import TransformersStepScorer

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
        engine = "transformers" if convention == "skywork" else "vllm"
    with refusing_starts(model):
        return (TransformersStepScorer if engine == "transformers" else VllmStepScorer)(model, name, **options)
