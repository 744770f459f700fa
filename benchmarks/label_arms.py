"""The arms of ``label_quality.py``: what labels they train with, what came of them, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.records import StepRule
from bcpg_cluster.store.whole_files import write_whole

BETAS = (-0.5, 0.5)
NUM_JUDGES = 3
START = "start"

Rule = Literal["single", "all", "majority", "any"]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is drawn, trained on and measured.

    Attributes:
        prompts, samples: of the offline set.
        test_problems, test_samples: of the accuracy; greedy takes each problem once.
        step_rule: which labels are true, and so which errors there can be.
    """

    prompts: int = 64
    samples: int = 8
    epochs: int = 3
    learning_rate: float = 2e-4
    batch_sequences: int = 32
    test_problems: int = 200
    test_samples: int = 2
    step_rule: StepRule = "propagated"


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels an arm trains with: of one judge (``single``), or of three of the same quality by a rule.

    Attributes:
        precision, recall: of each judge, for "this step is right", in (0, 1].
        beta: of mined tokens; 1 mines nothing, whatever the labels.
        correlation: of the judges' latents (``stages.fakes.judge.FakeJudge``).
    """

    precision: float
    recall: float
    beta: float
    rule: Rule = "single"
    correlation: float = 0.0

    @property
    def name(self) -> str:
        """Unlike that of all other arms."""
        shared = "" if self.rule == "single" else f"-rho{self.correlation:g}"
        return f"{self.rule}{shared}-p{self.precision:g}-r{self.recall:g}-beta{self.beta:g}"


@dataclass(frozen=True, slots=True)
class Achieved:
    """What labels turned out to be, on the wrong answers that are trained on. Steps leave each answer's last one out.

    Attributes:
        precision, recall: of the consensus, by steps; ``None`` where it calls nothing right.
        false_right, false_wrong: steps wrongly called right and wrongly called wrong, among all steps.
        kappa: mean over the pairs of judges; ``None`` for one judge, and where all of them call every step alike right or wrong.
        mined, mined_mass: shares of the tokens and of the gradient mass of wrong answers.
        mined_wrong: wrong tokens called right, among all tokens.
    """

    precision: float | None
    recall: float | None
    false_right: float
    false_wrong: float
    kappa: float | None
    mined: float | None
    mined_mass: float | None
    mined_wrong: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares in [0, 1] of the test problems that were solved, and the mean number of tokens of sampled responses."""

    sampled: float
    greedy: float
    mean_tokens: float


LEVELS = (0.9, 0.8, 0.7)
NOTHING = Labels(1.0, 1.0, 1.0)
"""No token is mined: plain BCPG."""


@dataclass(frozen=True, slots=True)
class Done:
    """An arm of a seed. ``labels`` and ``achieved`` are ``None`` for the start, ``accuracy`` where nothing was trained."""

    arm: str
    seed: int
    accuracy: Accuracy | None
    labels: Labels | None = None
    achieved: Achieved | None = None
    cpu_s: float = 0.0


def singles(*qualities: tuple[float, float]) -> list[Labels]:
    """One judge of each (precision, recall), at each beta."""
    return [Labels(precision, recall, beta) for precision, recall in qualities for beta in BETAS]


def ensembles(quality: tuple[float, float], correlation: float) -> list[Labels]:
    """Three judges of one quality by each rule, at each beta, their errors independent and correlated."""
    rules = ("all", "majority", "any")
    return [Labels(*quality, beta, rule, rho) for rule in rules for rho in (0.0, correlation) for beta in BETAS]


BLOCKS: dict[str, list[Labels]] = {
    "errors": [NOTHING, *singles((1.0, 1.0), (0.7, 1.0), (1.0, 0.7))],
    "rules": [*singles((0.8, 0.8)), *ensembles((0.8, 0.8), 0.5)],
    "between": singles((0.9, 1.0), (1.0, 0.9), (0.8, 1.0), (1.0, 0.8)),
    "both": singles(*((p, r) for p in LEVELS for r in LEVELS if (p, r) != (0.8, 0.8))),
}
"""What is asked, the most telling first: which error hurts; which rule; the steps between; both errors at once."""


class Journal:
    """The lines of ``arms.jsonl``: what it was made with, then an arm a line."""

    def __init__(self, path: Path, made_with: dict[str, Any]) -> None:
        """Raises :class:`RunDirectoryError` where the file is of other sizes. A line cut off by a crash is left out."""
        self.path = path
        self.done: dict[tuple[str, int], Done] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if whole and whole[0] != made_with:
            raise RunDirectoryError(
                f"{path} was made with {whole[0]}, and {made_with} is asked for",
                rule="arms are compared at one size and step rule",
                remedy="give another --out",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(line) + "\n" for line in whole or [made_with]).encode())
        for line in whole[1:]:
            if "arm" in line:
                self._take(_done_from(line))

    def add(self, done: Done) -> None:
        """Write a line."""
        self._write(asdict(done))
        self._take(done)

    def note(self, **machine: Any) -> None:
        """On which machine, at which commit, the lines that follow were made."""
        self._write(machine)

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _take(self, done: Done) -> None:
        self.done[done.arm, done.seed] = done


def _done_from(line: dict[str, Any]) -> Done:
    labels = None if line["labels"] is None else Labels(**line["labels"])
    achieved = None if line["achieved"] is None else Achieved(**line["achieved"])
    return Done(line["arm"], line["seed"], Accuracy(**line["accuracy"]), labels, achieved, line["cpu_s"])
