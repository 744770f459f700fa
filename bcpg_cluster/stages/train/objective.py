"""Which objective a round trains with, and its options: plain frozen records, chosen by ``name`` in a config.

Each record says which rows its objective trains on (:attr:`rows`), so that `weigh` can lay out the sealed table and the
trainer needs to know nothing else; the losses themselves are in ``objectives/``, one file each. Defaults are
the vetted recipe of each source; where a source leaves something open, docs/method.md says what was chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

Length = Literal["sequence", "token", "constant"]
"""How a sequence's sum is scaled: by 1/abs(y_i) (the paper), by one over the response tokens of the whole step, or by one
over a constant number of tokens (Dr. GRPO, arXiv 2503.20783)."""

Rows = Literal["all", "right", "wrong", "pairs", "mismatched"]
"""What a row of the training table is: a kept sample; a right or a wrong one only; a pair of a right and a wrong response
to one prompt; a kept sample with, beside it, another prompt's response (for KTO's estimate of the drift)."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What every objective's options share."""

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Options that runs were made without: left out of a run's identity while they have their default."""
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # read by pydantic when a config is parsed

    @property
    def rows(self) -> Rows:
        """What a row of the training table is for this objective."""
        return "all"

    @property
    def sequences_per_row(self) -> int:
        """Responses that get a gradient in one row; ``train.batch_sequences`` counts these."""
        return 2 if self.rows == "pairs" else 1

    @property
    def divides_by_tokens(self) -> bool:
        """Whether the step's loss is a mean over response tokens instead of over rows."""
        return getattr(self, "length", None) == "token"


@dataclass(frozen=True, kw_only=True)
class _ScaledOptions(_Options):
    """The options of objectives that scale a response's sum over tokens.

    Attributes:
        length: what a response's sum over tokens is scaled by: ``sequence``, one over its own length (the paper); ``token``,
            one over the response tokens of the whole step; ``constant``, one over ``constant_tokens``.
        constant_tokens: for ``length: constant``, and needed there: the number of tokens to divide by, at least 1, for
            instance ``generate.max_tokens``.
    """

    length: Length = "sequence"
    constant_tokens: int = 0

    def __post_init__(self) -> None:
        if self.length == "constant" and self.constant_tokens < 1:
            raise ValueError(
                f"length 'constant' needs constant_tokens >= 1 (e.g. generate.max_tokens), got {self.constant_tokens}"
            )


@dataclass(frozen=True, kw_only=True)
class Bcpg(_ScaledOptions):
    """BCPG, and BCPG-NSA where the table's token weights are not 1 (arXiv 2505.14403, Eq. 6).

    Attributes:
        tau: strength of the behaviour constraint, at least 0.
        tau_scale: ``absolute`` is the paper's; ``per_token`` anchors the mean drift per token instead of the sum
            (tau_i = tau / abs(y_i)), so that one value serves responses of any length.
        baseline: ``mean`` is r - rbar; ``log_z`` is r - tau log mean exp(r / tau) (Kimi k1.5, arXiv 2501.12599),
            an ablation.
    """

    name: Literal["bcpg"] = "bcpg"
    tau: float = 1e-3
    tau_scale: Literal["absolute", "per_token"] = "absolute"
    baseline: Literal["mean", "log_z"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, "tau", 0.0)
        if self.baseline == "log_z" and not self.tau > 0:
            raise ValueError("baseline 'log_z' divides by tau: tau must be above 0")


@dataclass(frozen=True, kw_only=True)
class Rft(_Options):
    """Rejection fine-tuning (arXiv 2308.01825): maximum likelihood of the right responses of the same offline set.

    Attributes:
        on: which responses to learn: ``right`` is RFT; ``wrong`` alone is an experiment of the paper (Table 1); ``all`` is a
            control: what training on one's own samples does whatever they are worth.
        length: ``token`` is the mean over the step's tokens; ``sequence`` is the mean over its responses of their means.
    """

    name: Literal["rft"] = "rft"
    on: Literal["right", "wrong", "all"] = "right"
    length: Literal["token", "sequence"] = "token"

    @property
    def rows(self) -> Rows:
        """The right responses, the wrong ones, or both."""
        return self.on


@dataclass(frozen=True, kw_only=True)
class Dpo(_Options):
    """Direct preference optimisation (arXiv 2305.18290) on right against wrong responses to one prompt.

    Attributes:
        beta: strength of the tie to the reference (beta_DPO), above 0; 0.5 in the BCPG-NSA paper.
        pairing: ``one_to_one`` shuffles both sides and pairs them off, each response at most once; ``all_sampled``
            draws from all right x wrong pairs.
        max_pairs: most pairs from one prompt, at least 1.
        nll_weight: weight of -log pi(y+) / abs(y+) beside the preference (Iterative RPO, arXiv 2404.19733); 0 is plain DPO.
    """

    name: Literal["dpo"] = "dpo"
    beta: float = 0.5
    pairing: Literal["one_to_one", "all_sampled"] = "one_to_one"
    max_pairs: int = 8
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        _above(self, "beta", 0.0)
        _at_least(self, "nll_weight", 0.0)
        _at_least(self, "max_pairs", 1)

    @property
    def rows(self) -> Rows:
        """Pairs."""
        return "pairs"


@dataclass(frozen=True, kw_only=True)
class Topr(_ScaledOptions):
    """Tapered off-policy REINFORCE (arXiv 2503.14286).

    Attributes:
        reward: ``pm1`` is the source's +1 and -1 without a baseline; ``group_centered`` is r - rbar.
        ratio: how pi is compared with the reference: by the whole ``sequence``'s ratio (the source), or by that ratio's
            geometric mean over tokens (``length_normalised``).
    """

    name: Literal["topr"] = "topr"
    reward: Literal["pm1", "group_centered"] = "pm1"
    ratio: Literal["sequence", "length_normalised"] = "sequence"


@dataclass(frozen=True, kw_only=True)
class Grpo(_ScaledOptions):
    """GRPO on a fixed data set (arXiv 2402.03300): the old policy is the reference, and stays it.

    Attributes:
        epsilon_low: the ratio is clipped from below at 1 minus this; above 0, at most 1.
        epsilon_high: the ratio is clipped from above at 1 plus this; above 0.
        kl_weight: weight of Schulman's k3 estimate of the KL divergence per token; 0 leaves it out.
        divide_by_std: divide advantages by the group's (population) standard deviation plus 1e-6.
    """

    name: Literal["grpo"] = "grpo"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    kl_weight: float = 0.0
    divide_by_std: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _above(self, "epsilon_low", 0.0)
        _above(self, "epsilon_high", 0.0)
        _at_least(self, "kl_weight", 0.0)
        if self.epsilon_low > 1:
            raise ValueError(f"epsilon_low is at most 1 (a ratio is not negative), got {self.epsilon_low}")


@dataclass(frozen=True, kw_only=True)
class AsymRe(_ScaledOptions):
    """Asymmetric REINFORCE (arXiv 2506.20520): r - (rbar + offset), no ratio, no anchor. An extension.

    Attributes:
        offset: added to the baseline, in [-1, 0]: below the mean reward, improvement is guaranteed off-policy.
    """

    name: Literal["asymre"] = "asymre"
    offset: float = -0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1.0 <= self.offset <= 0.0:
            raise ValueError(f"offset lowers the baseline: it is in [-1, 0], got {self.offset}")


@dataclass(frozen=True, kw_only=True)
class Kto(_Options):
    """Kahneman-Tversky optimisation (arXiv 2402.01306). An extension.

    Attributes:
        beta: slope of the sigmoid, above 0.
        right_weight: weight of right responses, at least 0.
        wrong_weight: weight of wrong responses, at least 0.
    """

    name: Literal["kto"] = "kto"
    beta: float = 0.1
    right_weight: float = 1.0
    wrong_weight: float = 1.0

    def __post_init__(self) -> None:
        _above(self, "beta", 0.0)
        _at_least(self, "right_weight", 0.0)
        _at_least(self, "wrong_weight", 0.0)

    @property
    def rows(self) -> Rows:
        """Samples, each with another prompt's response beside it."""
        return "mismatched"


@dataclass(frozen=True, kw_only=True)
class Nft(_ScaledOptions):
    """Negative-aware fine-tuning (arXiv 2505.18116). An extension.

    Attributes:
        prompt_weight: weight of a prompt (omega(q)): 1 - rbar (``one_minus_mean``), (1 - rbar) / rbar (``odds``) or 1
            (``uniform``).
        epsilon: floor of the implicit negative policy's ratio, above 0.
    """

    name: Literal["nft"] = "nft"
    prompt_weight: Literal["one_minus_mean", "odds", "uniform"] = "one_minus_mean"
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _above(self, "epsilon", 0.0)


@dataclass(frozen=True, kw_only=True)
class WeightedReinforce(_ScaledOptions):
    """W-REINFORCE (arXiv 2506.01347) offline: a small positive weight, -1 on wrong responses, and an anchor. An extension.

    Attributes:
        positive_weight: advantage of right responses (lambda_w), at least 0.
        tau: strength of BCPG's anchor, at least 0; the on-policy source needs none.
    """

    name: Literal["weighted_reinforce"] = "weighted_reinforce"
    positive_weight: float = 0.1
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, "positive_weight", 0.0)
        _at_least(self, "tau", 0.0)


Objective = Bcpg | Rft | Dpo | Topr | Grpo | AsymRe | Kto | Nft | WeightedReinforce

OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in get_args(Objective)}
"""Every objective's options by name."""


def _above(options: _Options, field: str, bound: float) -> None:
    value = getattr(options, field)
    if not (math.isfinite(value) and value > bound):
        raise ValueError(f"{field} is above {bound:g}, got {value}")


def _at_least(options: _Options, field: str, bound: float) -> None:
    value = getattr(options, field)
    if not (math.isfinite(value) and value >= bound):
        raise ValueError(f"{field} is at least {bound:g}, got {value}")
