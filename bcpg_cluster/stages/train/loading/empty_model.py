"""A model without its weights, to be filled one at a time: parameters are only described, everything else is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from bcpg_cluster.stages.train.loading.whole_model import attention_of, model_config
from bcpg_cluster.stages.train.protocol import TrainSettings


def empty_model(model_path: str, settings: TrainSettings, dtype: torch.dtype) -> PreTrainedModel | None:
    """The model of a checkpoint with parameters on the meta device, tied ones tied; buffers are computed as ever.

    ``None`` where the model cannot be filled from files by the names of its parameters, as far as its config tells: its code
    comes with the checkpoint (what its ``__init__`` does with weights is unknown), or its weights are quantised.
    """
    config = model_config(model_path, settings)
    is_own_code = settings.trust_remote_code and bool(getattr(config, "auto_map", None))
    if is_own_code or getattr(config, "quantization_config", None) is not None:
        return None
    with _parameters_described():
        causal_lm: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention_of(settings)
        )
    return causal_lm


@contextmanager
def _parameters_described() -> Iterator[None]:
    """A parameter that a module gets inside loses its values at once; one that was described already stays the same object, so
    ties hold.

    Not all under ``torch.device("meta")``: that would leave out buffers which no checkpoint has (rotary frequencies).
    """
    register = nn.Module.register_parameter

    def describe(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = describe  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def is_filled_by(causal_lm: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors of these names and shapes are all that the model needs, as they are.

    Not so where transformers would rename or merge them, where one is missing, where the second name of a tied weight has a
    tensor too (which may be another), or where there are buffers to be read.
    """
    needed = {name: tuple(parameter.shape) for name, parameter in causal_lm.named_parameters()}
    others = causal_lm.state_dict().keys() - needed.keys()
    buffers = {name for name, _ in causal_lm.named_buffers()}
    return needed == {name: shapes.get(name) for name in needed} and others.isdisjoint(buffers | shapes.keys())


Place = tuple[nn.Module, str]
"""A module and the name under which it holds a parameter."""


def places(causal_lm: nn.Module) -> list[tuple[str, nn.Parameter, list[Place]]]:
    """Every distinct parameter in model order: its first name, itself, and wherever it is held (a tied one in several)."""
    held: dict[int, list[Place]] = {}
    for module in causal_lm.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                held.setdefault(id(parameter), []).append((module, name))
    return [(name, parameter, held[id(parameter)]) for name, parameter in causal_lm.named_parameters()]
