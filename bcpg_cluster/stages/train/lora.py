"""LoRA (Hu et al., arXiv 2106.09685): small trained matrices beside frozen weights. The only file that knows peft.

An adapted layer computes ``W x + (alpha / rank) B A x``, with W [out, in] frozen, A [rank, in] and B [out, rank] trained.
B starts at zero, so a fresh adapter changes nothing and the reference is the policy the round started from. A snapshot holds
the *merged* weight ``W + (alpha / rank) B A`` under W's own name, and the next round starts from it with fresh adapters. A push
carries merged weights too, or the adapters alone, which engines merge (``stages.push.adapters``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.push.adapters.versions import DOWN, UP
from bcpg_cluster.stages.push.weight_file import opened_weights
from bcpg_cluster.stages.train.protocol import LoraSettings

_EXACT = ("F32", "BF16", "F16")  # safetensors' names of dtypes that float32 holds
_NAME = "default"  # what peft calls the one adapter of a layer


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapted layer. The matrices are looked up at every use: engines may replace what a module holds."""

    layer: nn.Module

    @property
    def down(self) -> nn.Parameter:
        """A [rank, in]."""
        weight: nn.Parameter = self.layer.lora_A[_NAME].weight  # type: ignore[union-attr, index]
        return weight

    @property
    def up(self) -> nn.Parameter:
        """B [out, rank]."""
        weight: nn.Parameter = self.layer.lora_B[_NAME].weight  # type: ignore[union-attr, index]
        return weight

    @property
    def scaling(self) -> float:
        """The factor alpha / rank."""
        return float(self.layer.scaling[_NAME])  # type: ignore[union-attr, index]


def adapter_matrices(adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, nn.Parameter]]:
    """A and B of every adapter in model order, by the names under which they are pushed."""
    for name, adapter in adapters.items():
        stem = name.removesuffix(".weight")
        yield stem + DOWN, adapter.down
        yield stem + UP, adapter.up


def add_adapters(causal_lm: PreTrainedModel, lora: LoraSettings, seed: int) -> dict[str, Adapter]:
    """Freeze the model and put fresh adapters beside its linear layers, in place.

    Args:
        causal_lm: with its output head still a plain layer; the head is never adapted.
        lora: which layers, and how large.
        seed: of the matrices A. Every rank of a group, and a training resumed after a kill, draws the same ones.

    Returns:
        The adapters, by the checkpoint name of the weight they change.

    Raises:
        ConfigError: a layer that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = target_layers(causal_lm, lora)
    peft_config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(peft_config, causal_lm, adapter_name=_NAME)
    return {f"{name}.weight": Adapter(causal_lm.get_submodule(name)) for name in names}


def target_layers(causal_lm: PreTrainedModel, lora: LoraSettings) -> list[str]:
    """The full names of the layers that get adapters, in model order.

    Raises:
        ConfigError: a name that is no linear layer below the head, or a model without any.
    """
    head = causal_lm.get_output_embeddings()
    known = [name for name, module in causal_lm.named_modules() if isinstance(module, nn.Linear) and module is not head]
    if lora.target_modules is None:
        chosen, missing = known, [] if known else ["any linear layer"]
    else:
        found = {target: [name for name in known if _is_named(name, target)] for target in lora.target_modules}
        missing = [target for target, names in found.items() if not names]
        wanted = {name for names in found.values() for name in names}
        chosen = [name for name in known if name in wanted]
    if missing:
        ends = sorted({name.rpartition(".")[2] for name in known})
        raise ConfigError(
            f"train.lora.target_modules: {type(causal_lm).__name__} has no {', '.join(missing)}",
            rule="each names linear layers of the model, by their full names or by the last parts of them; the output head "
            "and embeddings take no adapter",
            remedy=f"this model has {', '.join(ends)}" if ends else "leave train.lora out: this model is trained whole",
        )
    return chosen


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def check_lora(
    model_path: str, lora: LoraSettings, *, trust_remote_code: bool = False, is_merged_by_engines: bool = False
) -> None:
    """Check for the layers in the model's structure, without its weights.

    Args:
        is_merged_by_engines: adapters are pushed alone, and engines merge them.

    Raises:
        ConfigError: like ``target_layers``; or engines cannot merge adapters into the model's files.
    """
    if not Path(model_path, "config.json").is_file():
        return  # a hub id, or a directory that another check names
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        names = target_layers(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code), lora)
    if is_merged_by_engines:
        _check_mergeable(Path(model_path), names)


def _check_mergeable(model: Path, layers: list[str]) -> None:
    """Raises :class:`ConfigError` unless the files hold every layer's weight as the trainer merges into it: in float32."""
    held: dict[str, str] = {}
    for file in model.glob("*.safetensors"):
        with opened_weights(file) as tensors:
            held.update((name, tensors.get_slice(name).get_dtype()) for name in tensors.keys())  # noqa: SIM118
    odd = [name for layer in layers if held.get(name := f"{layer}.weight") not in _EXACT]
    if odd:
        found = f"has {odd[0]} in {held[odd[0]]}" if odd[0] in held else f"has no {odd[0]} in safetensors"
        raise ConfigError(
            f"push.carries is 'adapters', but {model} {found} ({len(odd)} of {len(layers)} adapted layers)",
            rule="engines merge adapters into the model's own safetensors, by the trainer's names and at its precision, which is "
            f"float32: {', '.join(_EXACT)}",
            remedy="set push.carries to 'weights', or save the model anew with save_pretrained, in float32 or bfloat16",
        )


def plain_name(name: str, adapters: Mapping[str, Adapter]) -> str:
    """A parameter's name in the checkpoint: peft moves an adapted layer's own weights one level down."""
    return name.replace(".base_layer.", ".") if adapters else name
