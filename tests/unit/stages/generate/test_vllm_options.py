"""What an engine's process has in its environment."""

from __future__ import annotations

from typing import Any

import pytest

from bcpg_cluster.stages.generate.vllm_options import engine_environment


@pytest.mark.parametrize(
    ("engine_args", "num_gpus", "is_without"),
    [
        ({"enforce_eager": True}, 0, True),
        ({"enforce_eager": True}, 0.5, False),
        ({"enforce_eager": False}, 0, False),
        ({}, 0, False),
        ({}, 1, False),
    ],
)
def test_only_an_eager_engine_on_cpus_goes_without_the_compiler(
    engine_args: dict[str, Any], num_gpus: float, is_without: bool
) -> None:
    environment = engine_environment(engine_args, num_gpus)
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert ("TORCHDYNAMO_DISABLE" in environment) == is_without
