"""The receiving side of a push inside vLLM's worker process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.config import set_current_vllm_config

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.vllm_reload import abandon_reload, finish_reload
from bcpg_cluster.stages.push.wire import wire_digest


@dataclass(slots=True)
class _Arrivals:
    """What a reload brought so far: digests by name, and the parameters nothing has come for."""

    model: Any
    digests: dict[str, str]
    missing: set[str]


class PushWorker:
    """What vLLM's worker learns from us (its ``worker_extension_cls``): one call for a whole push or reload.

    The three things vLLM does not do itself are here, for every backend: digests of what arrived, an error when a
    parameter is missing (vLLM only warns and keeps the old values), and leaving loading state after a failure,
    so that a later reload starts clean.
    """

    # Of vLLM's worker, which this class is mixed into.
    vllm_config: Any
    model_runner: Any
    weight_transfer_engine: Any
    start_weight_update: Callable[[], None]
    update_weights: Callable[[Mapping[str, Any]], None]
    finish_weight_update: Callable[[], None]
    _weight_update_active: bool

    def receive_push(self, update_info: Mapping[str, Any]) -> dict[str, str]:
        """One whole update through the configured transfer engine; wire digests of what arrived, by name."""
        with self._reloading(wire_digest) as arrivals:
            self._check_width(arrivals.model, update_info)
            self.start_weight_update()
            self.update_weights(update_info)
            self._check_complete(arrivals)
            self.finish_weight_update()
        return arrivals.digests

    def load_checkpoint(self, path: str) -> dict[str, str]:
        """Put a checkpoint directory's weights in force, by the same reload as a push; sha256 digests of what was read, by name."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        with self._reloading(tensor_digest) as arrivals:
            initialize_layerwise_reload(arrivals.model)
            arrivals.model.load_weights(read_checkpoint(path))
            self._check_complete(arrivals)
            finish_reload(arrivals.model, self.vllm_config.model_config)
        return arrivals.digests

    @contextlib.contextmanager
    def _reloading(self, digest_of: Callable[[torch.Tensor], str]) -> Iterator[_Arrivals]:
        """Watch everything the model loads, and clean up after a failure."""
        model = self.model_runner.get_model()
        # Shared parameters are listed once, under their first name: a tied head is not asked for.
        arrivals = _Arrivals(model, {}, {name for name, _ in model.named_parameters()})
        load = model.load_weights

        def watch(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            def tap() -> Iterator[tuple[str, torch.Tensor]]:
                for name, tensor in weights:
                    arrivals.digests[name] = digest_of(tensor)
                    yield name, tensor

            loaded = load(tap())
            arrivals.missing.difference_update(loaded or ())
            return loaded

        with set_current_vllm_config(self.vllm_config):
            model.load_weights = watch  # on the instance: hides the method for the length of the update
            try:
                yield arrivals
            except BaseException:
                abandon_reload(model)
                self._weight_update_active = False  # vLLM's; it would refuse the next push
                raise
            finally:
                del model.load_weights

    @staticmethod
    def _check_width(model: torch.nn.Module, update_info: Mapping[str, Any]) -> None:
        """Raise PushError where the engine keeps more of a matrix than what is sent: from disk it would get other weights."""
        sent = min((getattr(torch, name).itemsize for name in update_info["dtype_names"]), default=4)
        wider = sorted(
            name
            for name, held in model.named_parameters()
            if held.is_floating_point() and held.dim() > 1 and held.itemsize > sent
        )
        if wider:
            raise PushError(
                f"the engine keeps {len(wider)} matrices in a wider dtype than they are sent in, e.g. {', '.join(wider[:3])}: "
                "with policy.engine_args.dtype: auto they are sent in float32"
            )

    def _check_complete(self, arrivals: _Arrivals) -> None:
        """Raise PushError unless every parameter arrived whole, its fused parts (q, k and v of one layer) included.

        A quantised model keeps parameters that no checkpoint has; there vLLM cannot tell, and neither can we.
        """
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        if self.vllm_config.model_config.quantization is not None:
            return
        partial = {
            name
            for name, layer in arrivals.model.named_modules()
            if isinstance(layer, LinearBase) and get_layerwise_info(layer).load_numel > 0
        }  # a layer that is complete has been processed, and its counter reset
        absent = sorted(arrivals.missing | partial)
        if absent:
            raise PushError(f"{len(absent)} parameters did not arrive, or not whole, e.g. {', '.join(absent[:3])}")


def read_checkpoint(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a Hugging Face checkpoint directory (safetensors, one file or an index)."""
    from bcpg_cluster.stages.push.weight_file import opened_weights

    directory = Path(path)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
    else:
        files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise PushError(f"no safetensors in {path}")
    for file in files:
        with opened_weights(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                yield name, tensors.get_tensor(name)
