"""The proof that packed sequences do not see each other, by the very model in use.

Whether an attention obeys position ids that restart is the model's own affair: code of a checkpoint, layers with a running state
and attention kernels may pass on what came before, and nothing is raised. The gradient would be wrong by nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.layout.cutting import Packing

if TYPE_CHECKING:
    from bcpg_cluster.stages.train.layout.row_layout import TokenPair

_NUM_TOKENS = 48  # of a sequence at most
_TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 0.05}  # mean of a sequence; a leak moves it by nats


class Score(Protocol):
    """Log-probs in nats of every response, by one forward in that layout."""

    def __call__(self, sequences: Sequence[TokenPair], packing: Packing, /) -> Sequence[tuple[float, ...]]:
        """See the class."""
        ...


def prove_packing(score: Score, rows: Sequence[TokenPair], dtype: str) -> None:
    """Compare packed with padded log-probs of a few short sequences.

    The first row comes twice, with another between: what leaks through lets the model copy, which moves the log-probs most.

    Args:
        rows: of the training; the first two are used. None at all prove nothing, and nothing will be trained.
        dtype: of the forward, a key of ``forward.DTYPES``.

    Raises:
        ConfigError: a sequence's log-probs depend on what is packed with it.
    """
    if not rows:
        return
    first, second = _cut(rows[0]), _cut(rows[-1] if len(rows) < 2 else rows[1])
    trial = [first, second, first]
    off = max(map(_mean_difference, score(trial, "packed"), score(trial, "padded")))
    tolerance = _TOLERANCE_NATS[dtype]
    if not off <= tolerance:  # NaN is no proof either
        raise ConfigError(
            f"train.packing: packed, but with this model a token's log-prob moves by {off:.2g} nats on average when other "
            "sequences are packed with it",
            rule=f"packed and padded log-probs are equal but for rounding: at most {tolerance:g} nats in {dtype}",
            remedy="set train.packing: padded (bcpg-cluster stage train --set train.packing=padded), or another train.attention",
        )


def _cut(row: TokenPair) -> TokenPair:
    """The row's beginning with its first token as prompt, so that nearly every token is compared."""
    tokens = (*row[0], *row[1])[:_NUM_TOKENS]
    return tokens[:1], tokens[1:]


def _mean_difference(packed: Sequence[float], padded: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(packed, padded, strict=True)) / max(len(padded), 1)
