"""The overview's documents as frozen records. ``None`` is what is absent or unknown; times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA = 1
"""Of the documents that the page reads; raised when a field changes its meaning."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval over ``num`` problems; the ends are ``None`` where no error is known."""

    value: float
    low: float | None
    high: float | None
    num: int | None


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """A judge of the run; ``threshold`` is ``None`` for one that gives labels alone."""

    name: str
    role: str
    kind: str
    model: str | None
    rule: str
    threshold: float | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run as a whole.

    Attributes:
        made_with: program and machine, in a line; ``None`` where the run noted none.
        state: ``running``, ``done`` or ``stopped``; ``why`` says more where it was stopped.
        heartbeat: when its process was last heard of.
        method: what is trained on and how, in plain words.
    """

    name: str
    directory: str
    made_with: str | None
    state: str
    why: str | None
    started: float | None
    heartbeat: float | None
    objective: str
    method: str
    judges: tuple[JudgeFacts, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a newcomer's question, with the place on the page that shows it."""

    title: str
    text: str
    link: str


@dataclass(frozen=True, slots=True)
class StageCount:
    """``done`` of ``total`` pieces of a stage."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TestAccuracy:
    """A further test set."""

    name: str
    sampled: Interval | None
    greedy: Interval | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """On the test sets; ``pass_at_k`` by k."""

    sampled: Interval | None
    greedy: Interval | None
    pass_at_k: dict[str, Interval]
    tests: tuple[TestAccuracy, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Samples that are not trained on, for one reason; ``text`` says what it means."""

    reason: str
    num: int
    text: str


@dataclass(frozen=True, slots=True)
class JudgeRound:
    """A judge (or ``consensus``) in one round, by steps.

    Attributes:
        against: the judge that measures; ``None`` in a run without one.
        num_steps: steps whose truth is known.
        num_asked: steps it was asked about; ``None`` for the consensus.
        num_missing: of those, without a verdict, by status.
    """

    judge: str
    against: str | None
    precision: float | None
    recall: float | None
    f1: float | None
    num_steps: int
    num_asked: int | None
    num_missing: dict[str, int]


@dataclass(frozen=True, slots=True)
class AgreementRound:
    """Two judges in one round; steps on which one gave no verdict are left out."""

    judges: tuple[str, str]
    agreement: float | None
    kappa: float | None
    num_steps: int
    num_disputed: int | None


@dataclass(frozen=True, slots=True)
class DeltaPerToken:
    """Mean drift from the reference in nats a token, in the last optimiser step."""

    right: float | None
    wrong: float | None
    mined: float | None
    unmined: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the policy moved, and how training went.

    Attributes:
        reference_vs_sampler_mean, reference_vs_sampler_max: distance in nats between what the trainer and the sampler
            give the same tokens, of the shards that were looked at; ``None`` before one was.
    """

    reference_vs_sampler_mean: float | None
    reference_vs_sampler_max: float | None
    entropy_first: float | None
    entropy_last: float | None
    delta_per_token: DeltaPerToken
    loss_first: float | None
    loss_last: float | None
    grad_norm_max: float | None


@dataclass(frozen=True, slots=True)
class Push:
    """How new weights reached the engines."""

    method: str
    num_members: int
    worst_nats: float
    separation_nats: float
    canaries: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Wall seconds of a stage, from its first lease to its last receipt."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class JudgeCalls:
    """What a judge was asked in a round."""

    judge: str
    calls: int
    prompt_tokens: int
    answer_tokens: int
    retries: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a round took; ``money`` where an endpoint has prices."""

    seconds: tuple[StageSeconds, ...]
    round_s: float | None
    judge_calls: tuple[JudgeCalls, ...]
    generated_tokens: int | None
    money: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round; what it has not come to is ``None`` or empty.

    Attributes:
        state: ``base`` (round 0, an evaluation alone), ``done``, ``under way`` or ``stopped``.
        mined_token_share, mined_gradient_share, uncertain_right_share: see ``store.reports.RoundReport``.
        mined_weight: ``weigh.beta``; ``None`` where the objective takes no token weights.
    """

    round: int
    state: str
    stages: tuple[StageCount, ...]
    accuracy: Accuracy
    asked: int | None
    kept: int | None
    dropped: tuple[Dropped, ...]
    mined_token_share: float | None
    mined_gradient_share: float | None
    uncertain_right_share: float | None
    mined_weight: float | None
    judges: tuple[JudgeRound, ...]
    agreement: tuple[AgreementRound, ...]
    drift: Drift | None
    push: Push | None
    cost: Cost


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of work on a lane."""

    start: float
    end: float
    stage: str
    round: int
    text: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A pool's work."""

    pool: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The least a round could take beside what it took, ``None`` where figures lack. ``text`` says what was counted, ``busy`` by
    pool what share of the work it could have done in the round's time it did; empty where that is unknown.
    """

    round: int
    bound_s: float | None
    took_s: float
    text: str
    busy: dict[str, float]


@dataclass(frozen=True, slots=True)
class Gantt:
    """When which pool worked."""

    start: float
    lanes: tuple[Lane, ...]
    bounds: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something worth a line."""

    time: float
    round: int | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """A key of the configuration; ``default`` is ``None`` for a key that has none."""

    key: str
    value: str
    default: str | None
    differs: bool


@dataclass(frozen=True, slots=True)
class ShardLine:
    """A shard whose samples can be looked at."""

    round: int
    shard: int
    num_samples: int
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where hand labels go; ``None`` where they are only kept by the page."""

    labels: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of the first page. ``notices``: what could not be read, in clear words."""

    schema: int
    run: RunFacts
    notices: tuple[str, ...]
    start_here: tuple[Answer, ...]
    rounds: tuple[Round, ...]
    gantt: Gantt | None
    events: tuple[RunEvent, ...]
    config: tuple[ConfigLine, ...]
    shards: tuple[ShardLine, ...]
    files: Files
