"""Ending a layer-wise reload of a vLLM model, finished or given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def finish_reload(model: torch.nn.Module, model_config: Any) -> None:
    """VLLM's ``finalize_layerwise_reload``, and then the tied head.

    A head tied to the embedding gets the new values with it, but on the CPU backend it multiplies with a copy that was
    prepacked from the old ones: log-probs are off by nats and nothing is raised. Packing it again fixes that.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    finalize: Callable[..., None] = finalize_layerwise_reload
    finalize(model, model_config)
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and isinstance(module.quant_method, UnquantizedEmbeddingMethod):
            module.quant_method.process_weights_after_loading(module)


def abandon_reload(model: torch.nn.Module) -> None:
    """Leave loading state after a failure, with whatever weights each layer holds: only a whole reload is of use then.

    Without this, the next reload would first replay what the failed one had left in a layer's queue.
    """
    from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info

    place: Callable[..., None] = _place_kernel_tensors
    for layer in model.modules():
        info = get_layerwise_info(layer)
        if info.can_load():
            if info.kernel_tensors is not None:
                place(layer, info)
            info.reset()
