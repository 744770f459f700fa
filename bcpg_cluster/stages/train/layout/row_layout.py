"""How the sequences of one forward become tensors: a padded rectangle, or one long packed row.

Either way the log-probs come back as a rectangle [Q, T] of Q sequences and T response tokens after padding, so
nothing after the forward depends on the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.layout.cutting import Packing

TokenPair = tuple[tuple[int, ...], tuple[int, ...]]
"""One sequence: prompt ids and response ids."""

_STAND_IN: TokenPair = ((0,), (0,))


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """Q sequences as tensors: S tokens per row of the forward, N response tokens in all.

    Attributes:
        input_ids: padded [Q, S] with the padding on the right, or packed [1, S].
        position_ids: [1, S], starting at 0 with every sequence; ``None`` when padded (positions are then plain).
        mask: [Q, T] bool, true on response tokens.
        sources: [N], flat position in ``input_ids`` of the token before each response token.
        targets: [N], the response tokens, sequence after sequence.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    mask: Tensor
    sources: Tensor
    targets: Tensor

    def scatter(self, values: Tensor) -> Tensor:
        """[N] values, sequence after sequence, as [Q, T] with zeros in the padding; differentiable."""
        zeros = values.new_zeros(self.mask.shape)
        return zeros.masked_scatter(self.mask, values)


def lay_out(sequences: Sequence[TokenPair], packing: Packing, device: torch.device) -> SequenceLayout:
    """The tensors of a forward over ``sequences``. None of them give one stand-in token, for a forward that only keeps
    step with other ranks.

    Raises:
        DataError: a sequence has no prompt token.
    """
    sequences = sequences or [_STAND_IN]
    if any(not prompt for prompt, _ in sequences):
        raise DataError(
            "a row without a prompt token",
            rule="the first response token needs a state before it",
            remedy="check the chat template",
        )
    lengths = [len(prompt) + len(response) for prompt, response in sequences]
    if packing == "packed":
        starts = [0, *accumulate(lengths)][:-1]
        input_ids = torch.tensor([[token for pair in sequences for part in pair for token in part]])
        # Positions that restart are also what tells the model's attention where one sequence ends: transformers masks
        # across them when it gets neither an attention mask nor a cache (`find_packed_sequence_indices`).
        position_ids = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    else:
        longest = max(lengths)
        starts = [index * longest for index in range(len(lengths))]
        input_ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        for index, (prompt, response) in enumerate(sequences):
            input_ids[index, : lengths[index]] = torch.tensor((*prompt, *response))
        position_ids = None
    mask = torch.zeros(len(sequences), max(len(response) for _, response in sequences), dtype=torch.bool)
    sources: list[int] = []
    for index, (prompt, response) in enumerate(sequences):
        mask[index, : len(response)] = True
        first = starts[index] + len(prompt) - 1
        sources.extend(range(first, first + len(response)))
    targets = [token for _, response in sequences for token in response]
    return SequenceLayout(
        input_ids.to(device),
        position_ids,
        mask.to(device),
        torch.tensor(sources, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
    )
