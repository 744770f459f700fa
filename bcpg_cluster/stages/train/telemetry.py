"""What one optimiser step says of itself, as sums that can be added over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpg_cluster.stages.train.objectives.batch import LossBatch, RowLosses
from bcpg_cluster.stages.train.protocol import StepReport

_CLASSES = ("right", "mined", "unmined")
_SUMS = (
    "loss",
    *(f"delta_{name}" for name in _CLASSES),
    *(f"tokens_{name}" for name in _CLASSES),
    *("clipped_up", "may_clip_up", "clipped_down", "may_clip_down"),
    *("entropy", "push_up", "push_size"),
)


@dataclass(frozen=True, slots=True)
class TokenClasses:
    """Which of a micro-batch's response tokens are what, [B, T] bool; a right response has neither of the others."""

    right: Tensor
    mined: Tensor
    unmined: Tensor

    @classmethod
    def of(cls, mask: Tensor, right: Tensor, mined: Tensor) -> TokenClasses:
        """From response tokens [B, T], rows with a right answer [B], and tokens of mined steps [B, T]."""
        wrong = mask & ~right[:, None]
        return cls(mask & right[:, None], wrong & mined, wrong & ~mined)


class StepSums:
    """Additive telemetry of one optimiser step.

    Args:
        part_names: of the loss's summands; the same on every rank, whatever rows it has.

    Attributes:
        values: the sums, one tensor, so that one all-reduce adds them over ranks.
    """

    def __init__(self, part_names: Sequence[str], device: torch.device) -> None:
        self._part_names = tuple(part_names)
        self._index = {name: index for index, name in enumerate((*_SUMS, *(f"part_{name}" for name in part_names)))}
        self.values = torch.zeros(len(self._index), dtype=torch.float64, device=device)

    @property
    def loss(self) -> float:
        """Sum of the row losses."""
        return float(self.values[self._index["loss"]])

    def add(self, batch: LossBatch, losses: RowLosses, classes: TokenClasses, entropy: Tensor) -> None:
        """Add a micro-batch.

        Args:
            batch, losses: what the objective got and gave. A rival with a gradient counts as a wrong response.
            classes: of the rows' own response tokens.
            entropy: one value in nats for each token with a gradient, in any order.
        """
        with torch.no_grad():
            self._add("loss", losses.loss)
            for name in self._part_names:
                self._add(f"part_{name}", losses.parts[name])
            change = batch.logprobs - batch.reference  # [B, T]
            for name in _CLASSES:
                chosen: Tensor = getattr(classes, name)
                self._add(f"delta_{name}", change[chosen])
                self._add(f"tokens_{name}", chosen)
            self._add_pushes(losses, batch.mask)
            self._add("entropy", entropy)
            if batch.rival_mask is not None:
                self._add_rivals(batch, losses, batch.rival_mask)

    def _add_pushes(self, losses: RowLosses, mask: Tensor) -> None:
        push = losses.push[mask]  # [N]
        self._add("push_up", push.clamp(min=0))
        self._add("push_size", push.abs())
        if losses.clipped is not None:
            clipped = losses.clipped[mask]
            for name, pushed in (("up", push > 0), ("down", push < 0)):
                self._add(f"clipped_{name}", clipped & pushed)
                self._add(f"may_clip_{name}", pushed)

    def _add_rivals(self, batch: LossBatch, losses: RowLosses, mask: Tensor) -> None:
        """The wrong responses of pairs: each of their tokens is pushed down as hard as the row's own are pushed up."""
        if batch.rival_logprobs is None or batch.rival_reference is None:
            raise ValueError("rivals without log-probs")
        self._add("delta_unmined", (batch.rival_logprobs - batch.rival_reference)[mask])
        self._add("tokens_unmined", mask)
        self._add("push_size", losses.push[:, :1].abs() * mask)

    def _add(self, name: str, values: Tensor) -> None:
        self.values[self._index[name]] += values.double().sum()

    def report(
        self, *, step: int, num_steps: int, num_sequences: int, divisor: int, grad_norm: float, rate: float
    ) -> StepReport:
        """The step's report; call it on sums over all ranks. ``divisor`` is the loss's (see ``StepPlan``)."""
        sums = dict(zip(self._index, self.values.tolist(), strict=True))

        def share(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        wrong = [sums[f"{kind}_mined"] + sums[f"{kind}_unmined"] for kind in ("delta", "tokens")]
        num_tokens = wrong[1] + sums["tokens_right"]
        return StepReport(
            step=step,
            num_steps=num_steps,
            loss=sums["loss"] / divisor,
            loss_parts={name: sums[f"part_{name}"] / divisor for name in self._part_names},
            grad_norm=grad_norm,
            learning_rate=rate,
            delta_per_token_right=share(sums["delta_right"], sums["tokens_right"]),
            delta_per_token_wrong=share(*wrong),
            delta_per_token_mined=share(sums["delta_mined"], sums["tokens_mined"]),
            delta_per_token_unmined=share(sums["delta_unmined"], sums["tokens_unmined"]),
            clipped_up=share(sums["clipped_up"], sums["may_clip_up"]),
            clipped_down=share(sums["clipped_down"], sums["may_clip_down"]),
            entropy=sums["entropy"] / num_tokens,
            positive_mass=share(sums["push_up"], sums["push_size"]),
            num_sequences=num_sequences,
            num_tokens=int(num_tokens),
        )
