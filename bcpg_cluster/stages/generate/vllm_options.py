"""vLLM's engine options: which are ours to set, and vLLM's own check of the rest."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from bcpg_cluster.errors import ConfigError

ACTOR_ENVIRONMENT: Final[Mapping[str, str]] = {
    # The engine core stays in the actor's own process: one process an engine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Two engines on one machine must not pin themselves to the same cores. (CPU backend; ignored elsewhere)
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
EAGER_ON_CPUS: Final[Mapping[str, str]] = {
    # An eager engine compiles one small function all the same, at its first log-prob: ten seconds of CPU time for nothing.
    "TORCHDYNAMO_DISABLE": "1",
}


# What the rest of this file relies on; a configuration may not say otherwise.
RESERVED: Final[Mapping[str, str]] = {
    "model": "it is a setting of its own",
    "runner": "it follows from the engine's role",
    "pooler_config": "it follows from the engine's role",
    "logprobs_mode": "records hold raw log-probs at temperature 1",
    "weight_transfer_config": "it follows from the push backend",
    "worker_extension_cls": "weight pushes need their own",
    "skip_tokenizer_init": "prompts are rendered and responses cut into texts by the model's tokenizer",
}


def engine_environment(engine_args: Mapping[str, Any], num_gpus: float) -> dict[str, str]:
    """What an actor with an engine of these options sets before anything imports torch or vllm."""
    is_eager_on_cpus = not num_gpus and engine_args.get("enforce_eager") is True
    return {**ACTOR_ENVIRONMENT, **(EAGER_ON_CPUS if is_eager_on_cpus else {})}


def check_engine_args(model: str, engine_args: Mapping[str, Any]) -> None:
    """Check vendor options with vLLM's own parser, without starting an engine.

    Raises:
        ConfigError: an option vLLM does not know, one that is not free, or a value vLLM's parser refuses.
    """
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name in engine_args:
        if name in RESERVED:
            raise ConfigError(
                f"engine_args: {name!r} cannot be set here",
                rule=f"bcpg-cluster sets it itself: {RESERVED[name]}",
                remedy=f"remove {name!r} from engine_args",
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(
                f"engine_args: vLLM has no option {name!r}",
                rule="engine_args are the fields of vllm.EngineArgs, passed through untouched",
                remedy=f"did you mean {' or '.join(near)}?" if near else "see `vllm serve --help=all` (dashes: _)",
            )
    # vLLM looks a model up while it parses. One that is not on this disk must not be fetched, or missed, for a check.
    present = model if Path(model).exists() else os.curdir
    try:
        EngineArgs(model=present, **engine_args)
    except Exception as error:  # vLLM raises ValueError, TypeError, pydantic errors and its own
        raise ConfigError(
            f"engine_args: vLLM refuses {dict(engine_args)!r}: {error}",
            rule="vLLM's own parser checks the options",
            remedy="correct the option named in the message",
        ) from error


def with_workers(engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """Options with vLLM's workers as child processes of this one, unless they say otherwise: an engine of several GPUs finds
    them all in its own process. Inside a Ray placement group vLLM would take Ray's workers by itself.
    """
    parts = engine_args.get("tensor_parallel_size", 1) * engine_args.get("pipeline_parallel_size", 1)
    return {**({"distributed_executor_backend": "mp"} if parts > 1 else {}), **engine_args}
