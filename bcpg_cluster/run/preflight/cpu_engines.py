"""Models that vLLM's CPU backend cannot serve, told before an engine dies of them."""

from __future__ import annotations

from typing import Final

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.engine_defaults import hosted_model
from bcpg_cluster.run.build.model_files import model_shape

CPU_HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Of vLLM 0.32, the supported release: its ``CPUAttentionBackend.get_supported_head_sizes``."""


def check_cpu_engines(config: Config) -> None:
    """Raises :class:`ConfigError` for a model with attention heads that vLLM has no kernel for without a GPU."""
    for pool in config.pool_names():
        model = hosted_model(config, pool)
        shape = None if model is None or config.pool(pool).num_gpus else model_shape(model)
        if shape is not None and shape.head_width not in CPU_HEAD_SIZES:
            raise ConfigError(
                f"pools.{pool} has no GPU, and {model} has attention heads of {shape.head_width} numbers",
                rule=f"without a GPU vLLM serves heads of {', '.join(map(str, CPU_HEAD_SIZES))}",
                remedy=f"take another model, or give the pool GPUs (pools.{pool}.num_gpus)",
            )
