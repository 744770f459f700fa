"""From a process reward model's name and convention to the scorer that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.generate.engine_start import refusing_starts
from bcpg_cluster.stages.judge.prm.detection import (
    ON_TRANSFORMERS,
    check_needs,
    detect_convention,
    model_config_of,
)
from bcpg_cluster.stages.judge.prm.implicit import Reference
from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer
from bcpg_cluster.stages.judge.protocol import Judge


def make_step_scorer(
    model: str,
    name: str,
    *,
    engine: str = "auto",
    convention: str = "auto",
    reference: Reference | None = None,
    defaults: Mapping[str, Any] | None = None,
    **options: Any,
) -> Judge:
    """The scorer for a model: on vLLM, or on transformers where vLLM does not serve the convention.

    Args:
        engine: ``vllm``, ``transformers``, or ``auto``.
        convention: a name of ``detection.NAMES``, or ``auto``.
        reference: for the convention ``implicit``, and only there.
        defaults: of ``engine_args``, as vLLM takes them; transformers gets those that it knows.
        options: as :class:`VllmStepScorer` takes them.

    Raises:
        ConfigError: as the scorer itself, an unknown engine, or one that does not serve the convention.
    """
    from bcpg_cluster.stages.judge.prm.transformers_model import OPTIONS

    if engine not in ("auto", "vllm", "transformers"):
        raise ConfigError(
            f"unknown engine {engine!r} for process reward models",
            rule="auto, vllm or transformers",
            remedy="correct the name",
        )
    if convention == "auto":
        convention = detect_convention(model, model_config_of(model, options.get("engine_args", {})))
    check_needs(model, convention, engine, has_reference=reference is not None)
    engine = "transformers" if engine == "auto" and convention in ON_TRANSFORMERS else engine
    known = {name: value for name, value in (defaults or {}).items() if engine != "transformers" or name in OPTIONS}
    options["engine_args"] = {**known, **options.get("engine_args", {})}
    with refusing_starts(model):
        return _scorer(model, name, convention, engine, reference, options)


def _scorer(
    model: str, name: str, convention: str, engine: str, reference: Reference | None, options: Mapping[str, Any]
) -> Judge:
    if reference is not None:
        from bcpg_cluster.stages.judge.prm.implicit_scorer import ImplicitStepScorer

        return ImplicitStepScorer(model, name, reference=reference, **options)
    if convention == "pathfinder":
        from bcpg_cluster.stages.judge.prm.two_pass_scorer import TwoPassStepScorer

        return TwoPassStepScorer(model, name, **options)
    if engine == "transformers":
        from bcpg_cluster.stages.judge.prm.transformers_scorer import TransformersStepScorer

        return TransformersStepScorer(model, name, convention=convention, **options)
    return VllmStepScorer(model, name, convention=convention, **options)
