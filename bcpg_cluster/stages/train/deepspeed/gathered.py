"""The weights of a DeepSpeed engine, whole and in fp32, one at a time: what ZeRO cut up, with adapters merged in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.stages.push.adapters.merge import merged
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.protocol import TensorSpec
from bcpg_cluster.stages.push.wire import specs_of
from bcpg_cluster.stages.train.deepspeed.group import TrainerGroup
from bcpg_cluster.stages.train.forward import policy_dtype
from bcpg_cluster.stages.train.loading.policy import Policy
from bcpg_cluster.stages.train.loading.weight_files import FINER, WeightFiles
from bcpg_cluster.stages.train.lora import adapter_matrices
from bcpg_cluster.stages.train.protocol import TrainSettings

NamedTensors = Iterator[tuple[str, torch.Tensor]]


class GatheredWeights:
    """An engine's weights. Every rank asks for all of them, in the same order, and holds one at a time.

    Args:
        policy: what the engine was built around.
        model_path: the checkpoint it started from.
        group: of the engine's ranks.
        progress: told of each weight.
    """

    def __init__(
        self, policy: Policy, model_path: str, settings: TrainSettings, group: TrainerGroup, progress: ProgressReporter
    ) -> None:
        self._policy, self._settings, self._group, self._progress = policy, settings, group, progress
        # A model loaded in bfloat16 has lost the rest: of float32 the lower halves, which is where a round's small updates are, of
        # float16 the last three of ten bits. Master weights have to come from the files (docs/method.md), and so does what
        # adapters are merged into: engines read it there.
        self._precise = WeightFiles(model_path, FINER) if policy_dtype(settings) is torch.bfloat16 else None

    def restore_masters(self) -> None:
        """Give the fp32 master weights, which DeepSpeed made of bf16 ones, what loading in bf16 cut off."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self._precise is None:
            return
        for name, parameter in self._policy.checkpoint_parameters():
            if not parameter.requires_grad or name not in self._precise.shapes:
                continue
            self._progress.begin("restoring a weight", name)
            if self._settings.zero_stage == 3:
                cut_up: Any = parameter
                length = cut_up.partition_numel()
                piece = self._precise.piece(name, cut_up.ds_zero_partition_rank * length, length)
                safe_set_local_fp32_param(parameter, piece.to(self._group.device))
            else:
                whole = self._precise.get(name)
                assert whole is not None
                safe_set_full_fp32_param(parameter, whole.float().to(self._group.device))

    def specs(self, carried: Carried, dtype: str) -> list[TensorSpec]:
        """What :meth:`each` gives, in order, where matrices are sent in ``dtype``; nothing is gathered.

        Adapters travel in float32 whatever ``dtype`` says: engines merge them before they round.
        """
        if carried == "adapters":
            return specs_of(adapter_matrices(self._policy.adapters), "float32")
        return specs_of(self._policy.checkpoint_parameters(), dtype)

    @contextmanager
    def each(self, carried: Carried = "weights") -> Iterator[NamedTensors]:
        """All weights with adapters merged in, or the adapters' matrices alone; each is valid until the next is asked for.

        They are gathered to the end even if this rank fails in the middle, at giving or at taking one.
        """
        tensors = self._adapters() if carried == "adapters" else self._weights()
        try:
            yield tensors
        finally:
            for _ in tensors:
                pass

    def _weights(self) -> NamedTensors:
        problem: Exception | None = None
        for name, parameter in self._policy.checkpoint_parameters():
            self._progress.begin("parameter", name)
            adapter = self._policy.adapters.get(name)
            with self._whole(parameter) as weight:
                if adapter is None and parameter.requires_grad:
                    yield name, weight
                    continue
                try:
                    weight = self._frozen(name, weight) if problem is None else weight
                except (BcpgError, OSError) as error:
                    problem = error  # raised when the others have had their part: no consumer takes it for the end
                if adapter is None:
                    yield name, weight
                    continue
                with self._whole(adapter.down) as down, self._whole(adapter.up) as up:
                    yield name, merged(weight, down, up, adapter.scaling)
        if problem is not None:
            raise problem

    def _frozen(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What a frozen weight was when the round began, at the precision it had then, where the weights are taken: on rank 0."""
        precise = self._precise.get(name) if self._precise and self._group.rank == 0 else None
        return weight if precise is None else precise.float().to(self._group.device)

    def _adapters(self) -> NamedTensors:
        for name, matrix in adapter_matrices(self._policy.adapters):
            self._progress.begin("parameter", name)
            with self._whole(matrix) as gathered:
                yield name, gathered

    @contextmanager
    def _whole(self, parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
        """A parameter in fp32 on every rank, every rank in lockstep; valid inside only."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.dtype is not torch.float32 and parameter.requires_grad:
            # The master weights: small updates are not visible in bf16 (docs/method.md).
            yield safe_get_full_fp32_param(parameter)
        elif self._settings.zero_stage == 3:
            with GatheredParameters([parameter]):
                yield parameter.data.float()  # not the Parameter: it is emptied when the gather ends
        else:
            yield parameter.data.float()
