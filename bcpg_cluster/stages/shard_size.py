"""How much work a shard is beside the others of its stage, by receipts alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import StageSpec


def shard_size(stage: StageSpec, inputs: Mapping[str, Receipt], expected_tokens: float) -> float:
    """The response tokens that a stage works on, as the first of its inputs counts them that does.

    Args:
        inputs: the receipts of its shard, by table.
        expected_tokens: for a stage whose inputs are prompts: of the responses it will draw; 0 where nothing is known.
    """
    counted = (inputs[table].metrics.get("tokens") for table in stage.inputs)
    return next((tokens for tokens in counted if tokens is not None), expected_tokens)
