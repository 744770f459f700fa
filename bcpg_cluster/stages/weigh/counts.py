"""What a weigh receipt counts, and what its metrics are called. Names are made and read in this file alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bcpg_cluster.stages.weigh.right_steps import RightStepCounts

Said = Literal["right", "wrong", "none"]
Unit = Literal["tokens", "steps"]

CONSENSUS = "consensus"  # counted beside the judges, under this name

_PLAIN = {
    "asked": "asked",
    "kept": "kept",
    "groups": "groups",
    "groups_kept": "groups_kept",
    "wrong_samples": "samples.wrong",
    "wrong_tokens": "tokens.wrong",
    "mined_tokens": "tokens.mined",
    "wrong_steps": "steps.wrong",
    "mined_steps": "steps.mined",
    "undecided_steps": "steps.undecided",
    "rows": "rows",
    "right_rows": "rows.right",
    "wrong_rows": "rows.wrong",
}
_MASS = {"wrong_mass": "mass.wrong", "mined_mass": "mass.mined"}
_RIGHT_STEPS = {
    "answers": "answers",
    "answers_with_right": "with_right",
    "prefix_shares": "prefix_shares",
    "tokens": "tokens",
    "uncertain_tokens": "uncertain",
}


@dataclass(frozen=True, slots=True)
class PairCell:
    """What two voters said of one step."""

    first: str
    second: str
    first_said: Said
    second_said: Said


@dataclass(frozen=True, slots=True)
class QualityCell:
    """What a judge (or the consensus) said of something that a measure labelled ``truth``, counted in ``unit``."""

    judge: str
    measure: str
    truth: Said
    said: Said
    unit: Unit


@dataclass
class WeighCounts:
    """A shard's account, or a round's. What is counted of steps and tokens covers wrong responses of groups that can be trained on.

    Attributes:
        dropped: samples by reason; with ``kept`` they make ``asked``.
        abstained: steps without a usable verdict, by judge and status.
        wrong_mass, mined_mass: gradient mass (``stages.weigh.right_steps``) of all tokens and of the mined ones, where the
            policy's log-probs are known.
        right_steps: by whose labels say which steps are right: ``CONSENSUS``, and each measure.
    """

    asked: int = 0
    kept: int = 0
    groups: int = 0
    groups_kept: int = 0
    wrong_samples: int = 0
    wrong_tokens: int = 0
    mined_tokens: int = 0
    wrong_steps: int = 0
    mined_steps: int = 0
    undecided_steps: int = 0
    rows: int = 0
    right_rows: int = 0
    wrong_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    abstained: Counter[tuple[str, str]] = field(default_factory=Counter)
    pairs: Counter[PairCell] = field(default_factory=Counter)
    quality: Counter[QualityCell] = field(default_factory=Counter)
    wrong_mass: float = 0.0
    mined_mass: float = 0.0
    right_steps: dict[str, RightStepCounts] = field(default_factory=dict)

    @property
    def mined_share(self) -> float | None:
        """Of the tokens of wrong responses; ``None`` where there are none."""
        return self.mined_tokens / self.wrong_tokens if self.wrong_tokens else None

    @property
    def mined_gradient_share(self) -> float | None:
        """Of the gradient mass of wrong responses; ``None`` where there is none, or log-probs are unknown."""
        return self.mined_mass / self.wrong_mass if self.wrong_mass else None

    @property
    def uncertain_right_share(self) -> float | None:
        """Of the tokens of right steps by the consensus, those the policy was not sure of; ``None`` where nothing is known."""
        by_consensus = self.right_steps.get(CONSENSUS)
        return None if by_consensus is None else by_consensus.uncertain_share

    def metrics(self) -> dict[str, float]:
        """As a receipt carries them."""
        counted = {name: float(getattr(self, attribute)) for attribute, name in (_PLAIN | _MASS).items()}
        counted |= {f"dropped.{reason}": float(number) for reason, number in self.dropped.items()}
        counted |= {f"abstained.{judge}.{status}": float(n) for (judge, status), n in self.abstained.items()}
        for pair, number in self.pairs.items():
            name = f"pair.{pair.first}+{pair.second}.{pair.first_said}.{pair.second_said}"
            counted[name] = float(number)
        for cell, number in self.quality.items():
            counted[f"quality.{cell.judge}.{cell.measure}.{cell.truth}.{cell.said}.{cell.unit}"] = float(number)
        for labels, right in self.right_steps.items():
            counted |= {
                f"right_steps.{labels}.{name}": float(getattr(right, key)) for key, name in _RIGHT_STEPS.items()
            }
        return counted

    @classmethod
    def read(cls, metrics: Mapping[str, float]) -> WeighCounts:
        """From a receipt's metrics, or their sums. Names of other programs' metrics are passed over."""
        counts = cls()
        for attribute, name in _PLAIN.items():
            setattr(counts, attribute, int(metrics.get(name, 0)))
        counts.wrong_mass, counts.mined_mass = (metrics.get(name, 0.0) for name in _MASS.values())
        for name, value in metrics.items():
            kind, _, rest = name.partition(".")
            match kind, rest.split("."):
                case "dropped", [reason]:
                    counts.dropped[reason] += int(value)
                case "abstained", [judge, status]:
                    counts.abstained[judge, status] += int(value)
                case "pair", [pair, ("right" | "wrong" | "none") as one, ("right" | "wrong" | "none") as other]:
                    first, _, second = pair.partition("+")
                    counts.pairs[PairCell(first, second, one, other)] += int(value)
                case "quality", [
                    judge,
                    measure,
                    ("right" | "wrong" | "none") as truth,
                    ("right" | "wrong" | "none") as said,
                    ("tokens" | "steps") as unit,
                ]:
                    counts.quality[QualityCell(judge, measure, truth, said, unit)] += int(value)
                case "right_steps", [labels, "answers"]:
                    counts.right_steps[labels] = _read_right_steps(labels, metrics)
        return counts


def _read_right_steps(labels: str, metrics: Mapping[str, float]) -> RightStepCounts:
    found = {key: metrics.get(f"right_steps.{labels}.{name}", 0.0) for key, name in _RIGHT_STEPS.items()}
    return RightStepCounts(
        answers=int(found["answers"]),
        answers_with_right=int(found["answers_with_right"]),
        prefix_shares=found["prefix_shares"],
        tokens=int(found["tokens"]),
        uncertain_tokens=int(found["uncertain_tokens"]),
    )
