"""A sample as the page shows it, token by token and step by step: frozen records. ``None`` is what is not known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerdictView:
    """What one judge said of one step.

    Attributes:
        label: 1 right, 0 wrong, after the judge's threshold; ``None`` where it gave no verdict (``status`` says why).
        score: P(step is right), raw; ``None`` for a judge that labels.
        error_type: as the judge names it; ``None`` where it names none.
        reason: its own words about this step; empty where it gave none.
        raw: the whole answer, which the steps of one call share; ``None`` where it was left out.
        latency_s: mean seconds an answer of its shard took this judge; ``None`` where the shard does not say.
        threshold: lambda, for a judge that scores.
    """

    judge: str
    role: str
    status: str
    label: int | None
    score: float | None
    error_type: str | None
    reason: str
    raw: str | None
    latency_s: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person said of a step: 1 right, 0 wrong, and why, in the person's words (may be empty)."""

    label: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of a wrong response.

    Attributes:
        start, end: its tokens, ``start..end-1`` of the response.
        is_mined: some of its tokens are.
        consensus: 1 right, 0 not; ``None`` before all voters have judged.
        rule: in one sentence, which rule decided.
        dispute: how far the judges are apart, 0 to 1.
        weight, weight_x_advantage: of its tokens; ``None`` where they differ or the sample is not trained on.
        truth: by judge that measures, its label.
        letter: as in ``SampleSummary.strip``.
        hand: a person's label.
        note: what the person wrote to it; empty without one.
    """

    index: int
    start: int
    end: int
    text: str
    is_last: bool
    mined: bool
    consensus: int | None
    rule: str
    dispute: float
    weight: float | None
    weight_x_advantage: float | None
    verdicts: tuple[VerdictView, ...]
    truth: dict[str, int | None]
    letter: str
    hand: int | None
    note: str


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """One value a token.

    Attributes:
        p: probability the sampler gave the token; ``None`` where it is unknown.
        mass: 1 - p, its share of the gradient's size.
        weight, weight_x_advantage: in training; ``None`` for a sample that is not trained on.
        drift: the trainer's own log-prob before training minus the sampler's, in nats.
        p_after: after training; not stored by runs, so always ``None``.
    """

    text: tuple[str, ...]
    p: tuple[float | None, ...]
    mass: tuple[float | None, ...]
    weight: tuple[float | None, ...]
    weight_x_advantage: tuple[float | None, ...]
    drift: tuple[float | None, ...]
    p_after: None = None


@dataclass(frozen=True, slots=True)
class SampleView:
    """A sample with all that the run stored of it.

    Attributes:
        found: the answer read in the response.
        status, why: of the outcome; ``waiting`` before it was verified.
        drop: why it is not trained on; ``None`` when it is kept.
        tokens: ``None`` where they were left out.
        not_stored: in sentences, what the page cannot show.
    """

    round: int
    prompt_id: str
    sample: int
    question: str
    gold: str
    found: str | None
    status: str
    why: str
    reward: float | None
    stop_reason: str
    drop: str | None
    advantage: float | None
    group_mean: float | None
    group_size: int | None
    policy_version: int
    seed: int | None
    num_tokens: int
    text: str
    steps: tuple[StepView, ...]
    tokens: TokenColumns | None
    not_stored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AfterTraining:
    """What the weights that the round trained (``version``) make of a response: ``p`` of each of its tokens."""

    round: int
    prompt_id: str
    sample: int
    version: int
    p: tuple[float | None, ...]
