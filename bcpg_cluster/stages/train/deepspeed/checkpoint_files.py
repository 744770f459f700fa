"""What DeepSpeed's step checkpoints are written and read with: every file digested, and nothing unpickled but plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bcpg_cluster.errors import BcpgError
from bcpg_cluster.stages.train.step_checkpoints.record import CheckpointFile
from bcpg_cluster.stages.train.step_checkpoints.writing import save_digested, unwritten

_OF_ONE_RANK = "zero_pp_rank_"  # in the names of files that only the rank that wrote them reads


class CheckedFiles:
    """Stands in the place of an engine's ``TorchCheckpointEngine``, which has all that is not said here.

    A rank that cannot write raises nothing before all ranks are through: DeepSpeed meets at barriers while it saves.
    """

    def __init__(self, rank: int, inner: Any) -> None:
        self._rank, self._inner = rank, inner
        self.begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def begin(self) -> None:
        """Before a checkpoint is saved."""
        self.files: dict[str, CheckpointFile] = {}
        self.problem: BcpgError | None = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make the directory of a checkpoint."""
        try:
            Path(path).mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            self.problem = unwritten(Path(path), error)

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file, unless one before it failed."""
        if self.problem is not None:
            return
        file = Path(path)
        try:
            digest = save_digested(state_dict, file)
        except BcpgError as error:
            self.problem = error
        else:
            self.files[file.name] = CheckpointFile(digest, self._rank if _OF_ONE_RANK in file.name else None)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file. Whoever altered it since it was checked can change values, but has no code run."""
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)
