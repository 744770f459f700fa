"""The objectives: one small pure file each, over one batch type (``batch.py``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.objectives.asymre import asymre
from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses, sequence_drift
from bcpg_cluster.stages.train.objectives.bcpg import bcpg
from bcpg_cluster.stages.train.objectives.dpo import dpo
from bcpg_cluster.stages.train.objectives.grpo import grpo
from bcpg_cluster.stages.train.objectives.kto import kto
from bcpg_cluster.stages.train.objectives.likelihood import rft
from bcpg_cluster.stages.train.objectives.nft import nft
from bcpg_cluster.stages.train.objectives.topr import topr
from bcpg_cluster.stages.train.objectives.weighted_reinforce import weighted_reinforce

__all__ = ["LOSSES", "LossBatch", "RowLosses", "objective_loss", "sequence_drift"]

# Any: each takes its own options; that the names agree with ``stages.train.objective.OBJECTIVES`` is tested.
LOSSES: dict[str, Callable[[LossBatch, Any], RowLosses]] = {
    "bcpg": bcpg,
    "rft": rft,
    "dpo": dpo,
    "topr": topr,
    "grpo": grpo,
    "asymre": asymre,
    "kto": kto,
    "nft": nft,
    "weighted_reinforce": weighted_reinforce,
}
"""Every objective by the name its options have."""


def objective_loss(batch: LossBatch, options: Objective) -> RowLosses:
    """The losses of a batch's rows under the objective that ``options`` belong to.

    Raises:
        ValueError: the objective needs rivals and the batch has none.
    """
    return LOSSES[options.name](batch, options)
