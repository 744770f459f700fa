"""What a run keeps of a round and of a push: records that console, trackers, metrics, comparisons and JSON all read.

They are stored as JSON in the manifest and in ``rounds/NNNN/report.json``. A field that was never set is absent there, and stays
absent when the record is written again; keys of newer programs are kept.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A frozen record that is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """The record of stored JSON. Raises :class:`ValueError` for content of another shape."""
        return cls.model_validate(content)

    def plain(self) -> dict[str, Any]:
        """The fields that were set, as JSON has them."""
        return self.model_dump(mode="json", exclude_unset=True)


class Estimate(Stored):
    """A mean with its standard error; ``stderr`` is ``None`` where one value was all there was."""

    mean: float
    stderr: float | None = None


class PromptDigest(Stored):
    """A set of problems as a run began with it.

    Attributes:
        source: as the config names it.
        sha256: hex, over ids, questions and answers in their order.
        skipped: rows that could not be used and were left out because the person allowed it, by what was wrong with them.
    """

    source: str
    num_prompts: int
    sha256: str
    skipped: dict[str, int] = {}


class AccuracyReport(Stored):
    """One test set's accuracy. What could not be computed is absent.

    Attributes:
        unverified: samples without a reward; they are left out.
        accuracy: avg@n over the sampled responses, with ``stderr`` over problems and ``sampling_stderr`` over draws.
        samples_per_problem: n, the smallest over the problems.
        pass_at_k: by k.
        accuracy_greedy: over one greedy response a problem.
        per_problem: by prompt id: the share of right samples, and the greedy reward.
    """

    num_problems: int = 0
    unverified: int = 0
    accuracy: float | None = None
    stderr: float | None = None
    sampling_stderr: float | None = None
    samples_per_problem: int | None = None
    pass_at_k: dict[str, Estimate] = {}
    accuracy_greedy: float | None = None
    stderr_greedy: float | None = None
    per_problem: dict[str, tuple[float, float | None]] = {}


class SampleAccount(Stored):
    """Where a round's samples went: asked = kept + dropped, by reason."""

    asked: int
    kept: int
    dropped: dict[str, int]


class UnitQuality(Stored):
    """A judge against a measure, counted in one unit. ``None``: nothing to divide by.

    Attributes:
        true_share: of all units, those the measure calls right.
        count: units the measure labelled.
    """

    precision: float | None
    recall: float | None
    true_share: float | None
    count: float


class JudgeQuality(Stored):
    """A judge against a measure, by tokens and by steps."""

    tokens: UnitQuality
    steps: UnitQuality


class Agreement(Stored):
    """How far two judges agree: share of steps, and Cohen's kappa; steps on which one abstained are left out."""

    agreement: float | None
    kappa: float | None
    steps: float


class JudgesReport(Stored):
    """What is known of a round's judges.

    Attributes:
        quality: by judge (and ``consensus``), then by measure.
        agreement: by ``first+second``.
        abstained: steps without a verdict, by ``judge.status``.
    """

    quality: dict[str, dict[str, JudgeQuality]]
    agreement: dict[str, Agreement]
    abstained: dict[str, int]


class RightSteps(Stored):
    """The right steps of a round's wrong answers, by one source of labels. ``None``: nothing to divide by.

    Attributes:
        uncertain_share: of the tokens of right steps, those the policy gave a probability below 0.9 when it drew them.
        answers_share: of wrong answers, those with at least one right step.
        prefix_share: mean over wrong answers of the share of tokens before the first step not labelled right; the last
            step, which states the answer, counts as wrong.
    """

    uncertain_share: float | None
    answers_share: float | None
    prefix_share: float | None


class PushFacts(Stored):
    """How new weights reached the rollout engines, and how that was proven.

    Attributes:
        method: ``gloo``, ``nccl`` or ``disk``.
        why: why not over the wire, or not to all engines; empty where it was.
        carried: what went over the wire: ``weights``, whole ones, or ``adapters`` alone.
        seconds: of the whole, the proof included.
        worst_nats, separation_nats, cached_prefix_nats, canaries: see :class:`bcpg_cluster.stages.push.canaries.CanaryProof`.
        proof_s: seconds of the proof alone.
    """

    method: str
    why: str
    seconds: float
    num_members: int
    worst_nats: float
    separation_nats: float
    cached_prefix_nats: float | None
    canaries: str
    proof_s: float
    carried: str = "weights"


class TrainingSummary(Stored):
    """A round's training. All but ``steps`` are absent when no step was made; drifts and shares also where they mean nothing.

    Attributes:
        steps, steps_planned, stopped_early: optimiser steps made and planned, and 1 where training stopped by its rule.
        tokens, sequences: trained on, over all steps.
        delta_per_token_*_last: mean drift from the reference in nats per token, in the last step.
        open_s, reference_s, train_s, snapshot_s: seconds of the parts; of the reference pass what it took the trainers, wherever
            in the round (in runs made before it could overlap, the time until it was done).
        reference_wait_s: seconds in which the run waited for reference log-probs and nothing else.
    """

    steps: float = 0.0
    steps_planned: float | None = None
    stopped_early: float | None = None
    tokens: float | None = None
    sequences: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    grad_norm_first: float | None = None
    grad_norm_last: float | None = None
    grad_norm_max: float | None = None
    delta_per_token_right_last: float | None = None
    delta_per_token_wrong_last: float | None = None
    delta_per_token_mined_last: float | None = None
    delta_per_token_unmined_last: float | None = None
    entropy_first: float | None = None
    entropy_last: float | None = None
    clipped_up_last: float | None = None
    clipped_down_last: float | None = None
    positive_mass_last: float | None = None
    open_s: float | None = None
    reference_s: float | None = None
    reference_wait_s: float | None = None
    train_s: float | None = None
    snapshot_s: float | None = None


class FaultReport(Stored):
    """What went wrong in a round and was dealt with (``store.faults``).

    Attributes:
        counts: by kind, the worst kind first.
        worst: the first of the worst kind, in words.
        quarantined: samples that were left out since they ended their workers, by name and stage.
    """

    counts: dict[str, int]
    worst: str
    quarantined: list[str] = []


class RoundBound(Stored):
    """The least a round could take with the same pieces of work on separate pools: ``max(D, R) + T + P``.

    Attributes:
        took_s: from the round's beginning to that of the next, or to its report where that came first.
        data_s: D, the data half at least: the longest pool's work spread evenly, or the longest way of one shard.
        longest: the pool whose work that is, or ``one shard``.
        reference_s: R, in which the reference pass was under way.
        train_s: T, optimiser steps and snapshot.
        push_s: P, the push and its proof.
    """

    bound_s: float
    took_s: float
    data_s: float
    longest: str
    reference_s: float
    train_s: float
    push_s: float

    @property
    def ratio(self) -> float | None:
        """What the round took over its bound; ``None`` where the bound is 0."""
        return self.took_s / self.bound_s if self.bound_s else None


class RoundReport(AccuracyReport):
    """A complete round. Round 0 is the base policy's evaluation and has none of the learning half's fields.

    Attributes:
        more_tests: the further test sets' accuracy, by name.
        truncated_share, mean_tokens: of the evaluation's responses.
        mined_share: of the tokens of wrong responses; ``None`` where there were none.
        mined_gradient_share: of their gradient mass, the sum of 1 - p over their tokens; ``None`` where there was none, or the
            policy's log-probs are unknown.
        uncertain_right_share: :attr:`RightSteps.uncertain_share` by the labels of the consensus; ``None`` likewise.
        right_steps: by whose labels: ``consensus``, then each judge with role ``measure``. Empty in rounds weighed before
            these were counted, as the two above are ``None``.
        generate, outcomes, segment, verdicts: sums of the receipts' metrics (``verdicts`` by stage), see ``counts.py`` of each
            stage (of ``segment``: ``stages.segment.llm.llm_segmenter``).
        train: ``None`` in round 0.
        faults: ``None`` where there were none, and in rounds before these were noted.
        bound: ``None`` in round 0, in a round without optimiser steps, in one of which another process or run did a part, and in
            rounds before this was noted.
        busy: by pool, the share of the work it could have done in the round's time that it did; empty for the last two reasons.
        tokens_per_s, seconds: by stage; wall time from a stage's first lease to its last receipt.
        hidden: of ``reference`` (the reference pass) and ``evaluate``, the share of their seconds during which the run did
            something that it had to do anyway. Absent in round 0, and in rounds made before either could overlap.
        change, change_from_base: paired differences of ``accuracy`` and ``accuracy_greedy``, where both rounds have them.
    """

    round: int
    more_tests: dict[str, AccuracyReport] = {}
    truncated_share: float | None = None
    mean_tokens: float | None = None
    evaluation_tokens_per_s: float | None = None
    samples: SampleAccount | None = None
    mined_share: float | None = None
    mined_gradient_share: float | None = None
    uncertain_right_share: float | None = None
    right_steps: dict[str, RightSteps] = {}
    judges: JudgesReport | None = None
    generate: dict[str, float] = {}
    outcomes: dict[str, float] = {}
    segment: dict[str, float] = {}
    verdicts: dict[str, dict[str, float]] = {}
    train: TrainingSummary | None = None
    push: PushFacts | None = None
    bound: RoundBound | None = None
    busy: dict[str, float] = {}
    tokens_per_s: dict[str, float] = {}
    seconds: dict[str, float] = {}
    hidden: dict[str, float] = {}
    faults: FaultReport | None = None
    change: dict[str, Estimate] = {}
    change_from_base: dict[str, Estimate] = {}

    @property
    def round_seconds(self) -> float:
        """Wall seconds of the whole round in the process that ended it."""
        return self.seconds["round"]
