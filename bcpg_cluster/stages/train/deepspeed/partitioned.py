"""A rank's part of a model, loaded without the whole: under ZeRO-3 each weight is cut up as soon as it is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.stages.train.deepspeed.config import deepspeed_config
from bcpg_cluster.stages.train.deepspeed.group import TrainerGroup
from bcpg_cluster.stages.train.forward import policy_dtype
from bcpg_cluster.stages.train.loading.empty_model import empty_model, is_filled_by, places
from bcpg_cluster.stages.train.loading.policy import Policy, policy_of
from bcpg_cluster.stages.train.loading.weight_files import WeightFiles
from bcpg_cluster.stages.train.loading.whole_model import check_weight, load_policy
from bcpg_cluster.stages.train.protocol import TrainSettings


def load_rank_policy(
    model_path: str, settings: TrainSettings, group: TrainerGroup, progress: ProgressReporter
) -> Policy:
    """The policy of one rank, for DeepSpeed to build its engine around; every rank calls this at the same time.

    Under ZeRO-3 rank 0 reads the weights one at a time and each is cut up among the ranks before the next is read: no rank
    ever holds more than its part and one weight. Otherwise every rank holds the whole model, as below ZeRO-3. That is so for
    checkpoints without safetensors (``.bin``), with code of their own, quantised, or whose tensors transformers renames, merges or
    lacks: only transformers knows how to read those, and it holds all of one (docs/models.md).

    Raises:
        DataError: a file cannot be read, or a weight is not finite; on every rank.
    """
    dtype = policy_dtype(settings)
    model = empty_model(model_path, settings, dtype) if settings.zero_stage == 3 else None
    if model is not None:
        with group.collective("loading the start weights"):
            if (files := _agreed_files(model, model_path, group)) is not None:
                _fill(model, model_path, files, settings, group, progress)
                return policy_of(model, settings)
    return load_policy(model_path, settings, dtype)


def _agreed_files(model: nn.Module, model_path: str, group: TrainerGroup) -> WeightFiles | None:
    """The files of this rank if rank 0's fill the model: machines may hold different copies, but all ranks do alike."""
    files: WeightFiles | None = None
    problem: Exception | None = None
    try:
        files = WeightFiles(model_path)
    except (BcpgError, OSError) as error:
        problem = error
    group.raise_alike(problem)
    is_filled = files is not None and is_filled_by(model, files.shapes)
    return files if group.agree(is_filled) else None


def _fill(
    model: nn.Module,
    model_path: str,
    files: WeightFiles,
    settings: TrainSettings,
    group: TrainerGroup,
    progress: ProgressReporter,
) -> None:
    """Give the model its weights, each cut up at once. A rank 0 that cannot read one goes on without values, so that no rank is
    left waiting in a broadcast, and fails at the end.
    """
    problem: Exception | None = None
    cut_up = _CutUp(deepspeed_config(settings))
    for name, described, held_at in places(model):
        progress.begin("loading a weight", name)
        # Some models make single ones in float32 whatever is asked for (Zamba). DeepSpeed casts those of a whole model; of one that
        # is cut up it takes no two dtypes.
        dtype = policy_dtype(settings) if described.is_floating_point() else described.dtype
        weight = torch.empty(described.shape, dtype=dtype, device=group.device)
        if group.rank == 0 and problem is None:
            try:
                weight.copy_(files.get(name))  # type: ignore[arg-type]
                check_weight(model_path, name, weight)
            except (BcpgError, OSError) as error:
                problem = error
        parameter = nn.Parameter(weight, requires_grad=described.requires_grad)
        del weight
        for module, attribute in held_at:
            module.register_parameter(attribute, parameter)
        cut_up.add(parameter)
    group.raise_alike(problem)
    for module in model.modules():  # what DeepSpeed moves only of models that it finds whole
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else buffer.to(group.device)


class _CutUp:
    """Parameters that ZeRO-3 has cut up among the ranks, each from rank 0's values: what DeepSpeed does to a whole model when
    it builds an engine, one parameter at a time. Nothing of it is left in the process, unlike transformers' own ZeRO-3 mode.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._first: Any = None

    def add(self, parameter: nn.Parameter) -> None:
        """Cut it up; collective."""
        import deepspeed

        if self._first is None:
            self._first = parameter
            deepspeed.zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=self._config)
        else:
            self._first.convert_to_zero_parameters(param_list=[parameter])
