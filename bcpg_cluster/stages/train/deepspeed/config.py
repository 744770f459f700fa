"""DeepSpeed's config: what this trainer owns, what users pass through, and DeepSpeed's own check of both."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.forward import policy_dtype
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings

_ACCUMULATION = "micro-batches are cut by tokens and their number varies from step to step"


_OWNED = {
    "train_batch_size": ("the step plan decides what a step holds", "set train.batch_sequences"),
    "train_micro_batch_size_per_gpu": (_ACCUMULATION, "set train.micro_batch_tokens"),
    "gradient_accumulation_steps": (_ACCUMULATION, "set train.micro_batch_tokens"),
    "managed_gradient_accumulation": (_ACCUMULATION, "leave it out"),
    "gradient_allreduce_op": ("the trainer undoes DeepSpeed's averaging itself", "leave it out"),
    "gradient_clipping": ("one clip norm for every trainer", "set train.grad_clip"),
    "optimizer": ("the optimiser is AdamW, the same for every trainer",
                  "set train.learning_rate, train.adam_betas and train.weight_decay"),
    "scheduler": ("the schedule is a pure function of the step",
                  "set train.min_learning_rate and train.warmup_ratio"),
    "checkpoint.writer": ("step checkpoints are written with a digest of every file", "leave it out"),
    "datastates_ckpt": ("step checkpoints are written with a digest of every file", "leave it out"),
    "zero_optimization.stage": ("one place for the stage", "set train.zero_stage"),
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "amp", "torch_autocast"),
                    ("one compute dtype for every trainer", "set train.dtype")),
}  # fmt: skip


def prepare_environment() -> None:
    """What must hold before ``deepspeed`` is first imported in a process."""
    # DeepSpeed 0.19 calls collectives that torch 2.13 renamed; one warning a call drowns everything else.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Unset, ZeRO-3 on CPU asks for the device count before every reduction, by starting numactl as a process.
        os.environ.setdefault("LOCAL_SIZE", "1")
    # DeepSpeed finds ninja by PATH only, and an interpreter started by its full path does not put its bin there.
    bin_dir = str(Path(sys.executable).parent)
    if bin_dir not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = bin_dir + os.pathsep + os.environ.get("PATH", "")


def has_gpu() -> bool:
    """Whether DeepSpeed will use a GPU here."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def deepspeed_config(settings: TrainSettings) -> dict[str, Any]:
    """DeepSpeed's config: ours, with the user's merged in untouched.

    Raises:
        ConfigError: the user sets a key that the trainer owns.
    """
    user = copy.deepcopy(settings.deepspeed or {})
    for key, (why, remedy) in _OWNED.items():
        section: Any = user
        *path, last = key.split(".")
        for part in path:
            section = section.get(part, {}) if isinstance(section, Mapping) else {}
        if isinstance(section, Mapping) and last in section:
            raise ConfigError(
                f"train.deepspeed sets {key}",
                rule=f"the trainer sets it: {why}",
                remedy=remedy,
            )
    is_bf16 = policy_dtype(settings) is torch.bfloat16
    if settings.zero_stage not in (0, 1, 2, 3) or (is_bf16 and settings.zero_stage == 0):
        raise ConfigError(
            f"train.zero_stage is {settings.zero_stage} with train.dtype {settings.dtype}",
            rule="0, 1, 2 or 3; bfloat16 needs at least 1, since only ZeRO keeps fp32 master weights and gradients",
            remedy="set train.zero_stage to 2",
        )
    zero = user.pop("zero_optimization", {})
    data_types = user.pop("data_types", {})
    adam: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": list(settings.adam_betas),
        "eps": 1e-8,
        "weight_decay": settings.weight_decay,
        # torch's AdamW needs no compiler; with the optimiser offloaded on a GPU machine DeepSpeed's own is worth one.
        "torch_adam": not has_gpu() or not (isinstance(zero, Mapping) and zero.get("offload_optimizer")),
    }
    return {
        # Placeholders. The loss is divided by the step's own divisor and backward() is told not to scale, so
        # neither enters the gradient.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.grad_clip,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {**zero, "stage": settings.zero_stage} if isinstance(zero, Mapping) else zero,
        **({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32", **data_types}} if is_bf16 else
           {"data_types": data_types} if data_types else {}),
        **user,
    }  # fmt: skip


class _WatchedKeys(dict[str, Any]):
    """A dictionary that knows which of its keys were ever asked for; copies share that knowledge."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[object] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __copy__(self) -> _WatchedKeys:
        twin = _WatchedKeys(self)
        twin.asked = self.asked
        return twin


def check_deepspeed_config(deepspeed: dict[str, Any] | None, zero_stage: int = 2, dtype: str = "float32") -> None:
    """Let DeepSpeed's own parser read ``train.deepspeed``; nothing is loaded and no group is joined.

    Raises:
        ConfigError: a key the trainer owns is set, DeepSpeed refuses the config, or it never reads a key.
    """
    settings = TrainSettings(
        objective=Bcpg(),
        learning_rate=1e-6,
        min_learning_rate=1e-6,
        zero_stage=zero_stage,
        dtype=dtype,
        deepspeed=deepspeed,
    )
    config = _WatchedKeys(deepspeed_config(settings))
    prepare_environment()
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except Exception as error:
        raise ConfigError(
            f"train.deepspeed: {error}",
            rule="the dictionary is passed to DeepSpeed untouched, and DeepSpeed's parser refuses it",
            remedy="see https://www.deepspeed.ai/docs/config-json/",
        ) from error
    # At the top level DeepSpeed ignores what it does not know, so a misspelt key would silently do nothing.
    if unknown := sorted(set(deepspeed or {}) - config.asked):
        raise ConfigError(
            f"train.deepspeed sets {', '.join(unknown)}",
            rule="DeepSpeed's parser never reads it",
            remedy="correct the spelling, or leave it out; see https://www.deepspeed.ai/docs/config-json/",
        )
