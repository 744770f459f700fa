"""A checkpoint read as transformers reads it: whole, into this process."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.push.digest import is_finite
from bcpg_cluster.stages.train.loading.policy import Policy, policy_of
from bcpg_cluster.stages.train.protocol import TrainSettings


def load_policy(model_path: str, settings: TrainSettings, dtype: torch.dtype) -> Policy:
    """Read a checkpoint directory for training: dropout off, gradient checkpointing and adapters as set."""
    return policy_of(load_whole(model_path, settings, dtype), settings)


def model_config(model_path: str, settings: TrainSettings) -> PreTrainedConfig:
    """The model's config with dropout off."""
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=settings.trust_remote_code)
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)  # reference and policy must be the same function (docs/method.md)
    return config


def attention_of(settings: TrainSettings) -> str | None:
    """What transformers is told of the attention; ``None`` leaves it the choice."""
    return None if settings.attention == "auto" else settings.attention


def load_whole(model_path: str, settings: TrainSettings, dtype: torch.dtype) -> PreTrainedModel:
    """Read a checkpoint directory in ``dtype``.

    Raises:
        DataError: a weight is not finite.
    """
    disable_progress_bar()  # in the log of an actor, or of a page's server, it is only noise
    causal_lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_path,
        config=model_config(model_path, settings),
        dtype=dtype,
        attn_implementation=attention_of(settings),
        trust_remote_code=settings.trust_remote_code,
    )
    for name, parameter in causal_lm.named_parameters():
        check_weight(model_path, name, parameter)
    return causal_lm


def check_weight(model_path: str, name: str, weight: torch.Tensor) -> None:
    """Raises :class:`DataError` unless a weight that was read is finite."""
    if not is_finite(weight):
        raise DataError(
            f"{model_path} has values that are not finite in {name}",
            rule="weights are finite numbers",
            remedy="give a checkpoint from before its training diverged, or copy it again",
        )
