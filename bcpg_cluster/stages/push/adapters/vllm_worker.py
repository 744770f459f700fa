"""Adapters into a live vLLM engine: merged on the engine's side, through the layer-wise reload that whole weights take.

The engine serves merged weights, as after a push of whole ones, so answers, canaries and prefix cache need no second path, and
sampling costs what it did. The base stays on disk: a push reads the checkpoint that the engine began with and merges tensor by
tensor, so one tensor at a time is held beside the model, and the adapters of all rounds since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from vllm.config import set_current_vllm_config

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.adapters.merge import AdapterSet, merge_into
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.vllm_reload import finish_reload
from bcpg_cluster.stages.push.vllm_worker import PushWorker, read_checkpoint


class AdapterWorker(PushWorker):
    """A :class:`PushWorker` that also takes adapters alone. It keeps those merged since it last read a checkpoint."""

    _adapter_sets: tuple[AdapterSet, ...] = ()

    def receive_push(self, update_info: Mapping[str, Any]) -> dict[str, str]:
        """See :class:`PushWorker`."""
        self._adapter_sets = ()
        return super().receive_push(update_info)

    def load_checkpoint(self, path: str) -> dict[str, str]:
        """See :class:`PushWorker`."""
        self._adapter_sets = ()
        return super().load_checkpoint(path)

    def receive_adapters(self, update_info: Mapping[str, Any], start: str, scaling: float) -> dict[str, str]:
        """One round's adapters through the configured transfer engine, merged and put in force.

        Args:
            start: the checkpoint that this engine began with, or loaded last.

        Returns:
            sha256 digests of the matrices that arrived, by name.
        """
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        arrived = self._received(update_info)
        sets = (*self._adapter_sets, AdapterSet.of(arrived, scaling))
        with self._reloading(tensor_digest) as arrivals:
            initialize_layerwise_reload(arrivals.model)
            # The model's own method, behind the one that digests: nothing is noted that merged weights could be compared with.
            loaded = type(arrivals.model).load_weights(arrivals.model, merge_into(read_checkpoint(start), sets))
            arrivals.missing.difference_update(loaded or ())
            self._check_complete(arrivals)
            finish_reload(arrivals.model, self.vllm_config.model_config)
        self._adapter_sets = sets
        return {name: tensor_digest(tensor) for name, tensor in arrived.items()}

    def _received(self, update_info: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What the transfer engine brings, kept beside the model: until all of it is there no weight changes."""
        if self.weight_transfer_engine is None:
            raise PushError("this engine takes no pushes")
        model = self.model_runner.get_model()
        arrived: dict[str, torch.Tensor] = {}

        def keep(weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
            arrived.update((name, tensor.detach().to("cpu", copy=True)) for name, tensor in weights)
            return set(arrived)

        model.load_weights = keep  # on the instance: hides the method while adapters arrive
        try:
            with set_current_vllm_config(self.vllm_config):
                self.weight_transfer_engine.update_weights(update_info)
        finally:
            del model.load_weights
        return arrived
