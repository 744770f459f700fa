"""The model as it is trained: a causal LM whose forward gives the log-probs of chosen tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.logprobs import token_logprobs
from bcpg_cluster.stages.train.lora import Adapter, add_adapters, plain_name
from bcpg_cluster.stages.train.protocol import TrainSettings

# Models that change their logits after the head: a head of our own would silently compute something else.
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class LogprobHead(nn.Linear):
    """An output head that answers with the log-probs of given tokens instead of logits.

    A module in the head's place and under its name, so that whatever hooks modules (ZeRO-3 gathers a module's weights
    around its forward and backward) treats it as the head it replaces.
    """

    @classmethod
    def of(cls, head: nn.Linear) -> LogprobHead:
        """A head with the very parameters of ``head``: a tied weight stays tied."""
        new = cls(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        new.weight, new.bias = head.weight, head.bias
        return new

    def forward(  # type: ignore[override]
        self, hidden: Tensor, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] of ``targets`` [N] after states ``hidden`` [N, H], and entropies [N], in nats; see
        :func:`token_logprobs`.
        """
        return token_logprobs(hidden, self.weight, self.bias, targets, chunk_tokens=chunk_tokens)


class Policy(nn.Module):
    """A causal LM whose forward gives the log-probs of chosen tokens. Parameters keep their checkpoint names.

    Attributes:
        adapters: by the checkpoint name of the weight each of them changes; none when whole weights are trained.
    """

    def __init__(self, causal_lm: PreTrainedModel, adapters: Mapping[str, Adapter] | None = None) -> None:
        super().__init__()
        self.adapters = adapters or {}
        changes = [name for name in _LOGIT_CHANGES if getattr(causal_lm.config, name, None) not in (None, 1, 1.0)]
        head = causal_lm.get_output_embeddings()
        if changes or not isinstance(head, nn.Linear):
            raise DataError(
                f"{type(causal_lm).__name__} computes its logits as "
                f"{', '.join(changes) if changes else type(head).__name__}",
                rule="the trainer supports models whose logits are a plain linear head",
                remedy="use a Qwen2, Qwen3, Llama, Mistral or similar model",
            )
        causal_lm.set_output_embeddings(LogprobHead.of(head))
        self.causal_lm = causal_lm
        self._dropouts = [module for module in causal_lm.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        for layer in self._dropouts:
            layer.eval()

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None, sources: Tensor, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] of ``targets`` [N] after the flat positions ``sources`` [N] of ``input_ids`` [Q, S], and the
        entropies [N] of the distributions they are drawn from (detached), in nats. ``position_ids`` [1, S] say that
        the one row holds several sequences (see ``row_layout``).
        """
        # No attention mask: padding is on the right, so under causal attention no real token ever sees it, and
        # without a mask the fast causal kernels serve every batch. No cache: only then are packed sequences found.
        hidden = self.causal_lm.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state  # [Q, S, H]
        # Only the states that predict response tokens meet the vocabulary: prompts and padding cost nothing there.
        chosen = hidden.flatten(0, 1).index_select(0, sources)  # [N, H]
        found: tuple[Tensor, Tensor] = self.causal_lm.get_output_embeddings()(chosen, targets, chunk_tokens)
        return found

    def checkpoint_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every distinct parameter with its checkpoint name, in model order; a tied head is listed once, adapters are not."""
        own = {id(matrix) for adapter in self.adapters.values() for matrix in (adapter.down, adapter.up)}
        named = self.causal_lm.named_parameters()
        return [(plain_name(name, self.adapters), parameter) for name, parameter in named if id(parameter) not in own]

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser is given: the adapters, or everything."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """The adapters' dropout acts inside, drawn from ``seed``. Elsewhere it is off: scores are those of the policy."""
        if self._dropouts:
            torch.manual_seed(seed)
        for layer in self._dropouts:
            layer.train()
        try:
            yield
        finally:
            for layer in self._dropouts:
                layer.eval()


def policy_of(causal_lm: PreTrainedModel, settings: TrainSettings) -> Policy:
    """A model ready to be trained: adapters and gradient checkpointing as set. Its weights may be cut up already (ZeRO-3)."""
    adapters = add_adapters(causal_lm, settings.lora, settings.seed) if settings.lora else {}
    causal_lm.train()  # gradient checkpointing acts in training mode only
    if settings.gradient_checkpointing:
        # Reentrant: ZeRO-3 frees weights after the forward, and the non-reentrant kind compares what it finds in the
        # recomputation with what was there before.
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        if adapters:
            # The embedding is frozen, and a reentrant block gives no gradients unless its input wants one.
            causal_lm.enable_input_require_grads()
    return Policy(causal_lm, adapters)
