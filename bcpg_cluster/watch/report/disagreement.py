"""Where a run's judges disagree: which steps of which samples, how strongly, and what each judge said.

Read from a round's tables, without asking any judge. The page made from it is ``watch/report/disagreement_page.py``.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from bcpg_cluster.errors import RunDirectoryError, StoreError
from bcpg_cluster.records import SampleId, Step, Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import vote_label
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import Row, outcomes_from, prompts_from, steps_from, verdicts_from
from bcpg_cluster.store.shards import shard_by_shard
from bcpg_cluster.watch.report.judge_quality import pair_quality, truth_quality


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one judge said of one step.

    Attributes:
        label: 1 right, 0 wrong, ``None`` when it abstained.
        certainty: P(step is right) as the judge has it: its score, or its label; ``None`` when it abstained.
        words: how it is shown: ``right``, ``wrong (error type)``, a score, or the status of an abstention.
        is_asked: false where judges before it had decided the step (``judges.*.after``): that is no abstention.
    """

    label: int | None
    certainty: float | None
    words: str
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """A step with every judge's opinion.

    Attributes:
        opinions: of the judges that are compared.
        truths: of those that know (role ``measure``).
        is_last: the last step is never mined, so nothing of it is counted.
    """

    index: int
    text: str
    opinions: dict[str, Opinion]
    truths: dict[str, Opinion]
    is_last: bool

    @property
    def dispute(self) -> float:
        """How far the judges are apart, 0 to 1; see :func:`dispute`. 0 for the last step."""
        return 0.0 if self.is_last else dispute(list(self.opinions.values()))


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """A wrong response with its steps, and the raw answers by judge (each once)."""

    id: SampleId
    question: str
    gold: str
    found: str | None
    policy_version: int
    steps: tuple[JudgedStep, ...]
    raw: dict[str, tuple[str, ...]]

    @property
    def dispute(self) -> float:
        """The sum over its steps: long disagreements before sharp ones."""
        return math.fsum(step.dispute for step in self.steps)

    @property
    def num_disputed(self) -> int:
        """Steps that some judge calls right and another wrong."""
        return sum(step.dispute > 0.0 for step in self.steps)


def dispute(opinions: Sequence[Opinion]) -> float:
    """Mean over all pairs of judges that answered of the distance of their certainties, 0 for a pair of equal labels.

    So two judges with labels are at 0 or 1; a score of 0.51 against "wrong" is a smaller disagreement than one of 0.99. 0 where
    fewer than two judges answered.
    """
    pairs = [
        abs(a.certainty - b.certainty) if a.label != b.label else 0.0
        for a, b in combinations(opinions, 2)
        if a.certainty is not None and b.certainty is not None
    ]
    return math.fsum(pairs) / len(pairs) if pairs else 0.0


def opinion(verdict: Verdict | None, threshold: float | None) -> Opinion:
    """A verdict as it is compared and shown; ``None`` (this judge has not come to the sample) is shown as such."""
    if verdict is None:
        return Opinion(None, None, "not judged")
    label = vote_label(verdict, threshold)
    if label is None:
        return Opinion(None, None, str(verdict.status), verdict.status is not VerdictStatus.NOT_ASKED)
    if verdict.score is not None:
        return Opinion(label, verdict.score, f"{verdict.score:.2f} {'right' if label else 'wrong'}")
    has_kind = not label and verdict.error_type is not None
    return Opinion(label, float(label), f"wrong ({verdict.error_type})" if has_kind else "right" if label else "wrong")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A round's judges beside one another.

    Attributes:
        facts: how much they disagree, last steps left out: ``num_samples``, ``num_steps``, ``num_disputed``,
            ``num_disputed_samples``; ``pairs`` by two judges (``judge_quality.pair_quality``, over the steps both answered for);
            ``truth`` by measure and judge (``judge_quality.truth_quality``, over the steps the judge was asked about);
            ``num_not_asked`` by judge.
        samples: the most disputed ones, the fiercest first; none that is undisputed.
        steps: the most disputed steps of all samples, likewise.
    """

    facts: dict[str, Any]
    samples: list[JudgedSample]
    steps: list[tuple[JudgedSample, JudgedStep]]


def compare_judges(shards: Iterable[Sequence[JudgedSample]], num_samples: int, num_steps: int) -> Disagreement:
    """Count all samples, and keep the ``num_samples`` and ``num_steps`` most disputed: no more than a shard is held beside them."""
    counts = _Counts()
    samples: list[JudgedSample] = []
    steps: list[tuple[JudgedSample, JudgedStep]] = []
    for of_shard in shards:
        for sample in of_shard:
            counts.add(sample)
        disputed = [sample for sample in of_shard if sample.num_disputed]
        samples = heapq.nsmallest(num_samples, [*samples, *disputed], key=lambda sample: (-sample.dispute, sample.id))
        further = [(sample, step) for sample in disputed for step in sample.steps if step.dispute > 0.0]
        steps = heapq.nsmallest(
            num_steps, [*steps, *further], key=lambda pair: (-pair[1].dispute, pair[0].id, pair[1].index)
        )
    return Disagreement(counts.facts(), samples, steps)


@dataclass
class _Counts:
    """Steps by what every judge and measure said of them, and of which they were asked."""

    judges: list[str] = field(default_factory=list)
    measures: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_disputed_samples: int = 0
    num_disputed: int = 0
    patterns: Counter[bytes] = field(default_factory=Counter)  # a code for each judge, then for each measure

    def add(self, sample: JudgedSample) -> None:
        if not self.judges and sample.steps:
            self.judges, self.measures = list(sample.steps[0].opinions), list(sample.steps[0].truths)
        self.num_samples += 1
        self.num_disputed_samples += sample.num_disputed > 0
        self.num_disputed += sample.num_disputed
        for step in sample.steps:
            if not step.is_last:
                self.patterns[bytes(map(_code, (*step.opinions.values(), *step.truths.values())))] += 1

    def facts(self) -> dict[str, Any]:
        counts = list(self.patterns.values())
        codes = {name: [said[place] for said in self.patterns] for place, name in enumerate(self.judges)}
        labels = {name: [_label(code) for code in of_judge] for name, of_judge in codes.items()}
        asked = {
            name: [number * (code != _NOT_ASKED) for code, number in zip(of_judge, counts, strict=True)]
            for name, of_judge in codes.items()
        }
        truths = {
            name: [_label(said[len(self.judges) + place]) for said in self.patterns]
            for place, name in enumerate(self.measures)
        }
        return {
            "num_samples": self.num_samples,
            "num_steps": sum(counts),
            "num_disputed": self.num_disputed,
            "num_disputed_samples": self.num_disputed_samples,
            "pairs": pair_quality(labels, counts),
            "truth": {
                measure: {judge: truth_quality(labels[judge], truth, asked[judge]) for judge in self.judges}
                for measure, truth in truths.items()
            },
            "num_not_asked": {judge: sum(counts) - sum(of_judge) for judge, of_judge in asked.items()},
        }


_NO_LABEL, _NOT_ASKED = 2, 3  # codes beside the labels 0 and 1


def _code(said: Opinion) -> int:
    if not said.is_asked:
        return _NOT_ASKED
    return _NO_LABEL if said.label is None else said.label


def _label(code: int) -> int | None:
    return code if code < _NO_LABEL else None


def judged_shards(
    run_dir: RunPath,
    state: ManifestState,
    round_: int,
    judges: Sequence[str],
    measures: Sequence[str],
    thresholds: Mapping[str, float],
) -> Iterator[list[JudgedSample]]:
    """The judged samples of a round, shard by shard.

    Args:
        state: the run's manifest.
        judges: those to compare; the ones that have judged nothing of the round are left out.
        measures: those whose labels are shown as the truth.
        thresholds: lambda by judge, for those that score.

    Raises:
        RunDirectoryError: fewer than two of the judges have judged something.
        StoreError: a table that does not fit the others.
    """
    present = [name for name in judges if state.receipts(round_, f"verdicts.{name}")]
    if len(present) < 2:
        raise RunDirectoryError(
            f"round {round_} of {run_dir} has verdicts of {len(present)} judges ({', '.join(present) or 'none'})",
            rule="a disagreement takes two judges",
            remedy="wait for the round, choose another --round, or add a judge (role: spare) and run its stage",
        )
    tables = ("prompts", "rollouts", "outcomes", "steps", *(f"verdicts.{name}" for name in (*present, *measures)))
    receipts = {table: state.receipts(round_, table) for table in tables}
    columns = {"rollouts": ("prompt_id", "sample", "policy_version")}  # texts and log-probs are most of it
    return (_judged(of_shard, present, measures, thresholds) for of_shard in shard_by_shard(run_dir, receipts, columns))


def _judged(
    tables: Mapping[str, list[Row]], judges: Sequence[str], measures: Sequence[str], thresholds: Mapping[str, float]
) -> list[JudgedSample]:
    """The samples of one shard, the most disputed first."""
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])}
    versions = {(row["prompt_id"], row["sample"]): row["policy_version"] for row in tables["rollouts"]}
    outcomes = outcomes_from(tables["outcomes"])
    verdicts = {name: verdicts_from(tables[f"verdicts.{name}"]) for name in (*judges, *measures)}
    samples = []
    for id_, steps in steps_from(tables["steps"]).items():
        said = {name: of_judge.get(id_) for name, of_judge in verdicts.items()}
        by_judge = {name: _opinions(id_, name, steps, of, thresholds.get(name)) for name, of in said.items()}
        judged = tuple(
            JudgedStep(
                index,
                step.text,
                {name: by_judge[name][index] for name in judges},
                {name: by_judge[name][index] for name in measures},
                index == len(steps) - 1,
            )
            for index, step in enumerate(steps)
        )
        raw = {name: tuple(dict.fromkeys(v.raw for v in said[name] or () if v.raw)) for name in judges}
        prompt = prompts[id_.prompt_id]
        version = versions[id_.prompt_id, id_.sample]
        samples.append(JudgedSample(id_, prompt.question, prompt.answer, outcomes[id_].extracted, version, judged, raw))
    return sorted(samples, key=lambda sample: (-sample.dispute, sample.id))


def _opinions(
    id_: SampleId, judge: str, steps: Sequence[Step], said: Sequence[Verdict] | None, threshold: float | None
) -> list[Opinion]:
    """One judge on all steps of a sample; ``said`` is ``None`` where it has not come to it."""
    if said is None:
        return [opinion(None, threshold)] * len(steps)
    if len(said) != len(steps):
        raise StoreError(f"{id_} has {len(steps)} steps and {len(said)} verdicts of {judge!r}")
    return [opinion(verdict, threshold) for verdict in said]


def truth_title(name: str) -> str:
    """Heads the column of a judge that knows the truth."""
    return name if name == "truth" else f"{name} (truth)"
