"""What the run page shows, as frozen records. They become JSON as they are (:func:`as_json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bcpg_cluster.store.reports import RoundReport, Stored


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of "Start here": what to look at first, and the page's link to it (what follows the ``#``)."""

    title: str
    text: str
    link: str


@dataclass(frozen=True, slots=True)
class PoolWork:
    """When a pool had a stage's work in hand, in seconds since its round began; overlapping pieces are one span."""

    pool: str
    stage: str
    spans: tuple[tuple[float, float], ...]
    num_pieces: int


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened: ``kind`` is retry, push, import, prompts or note; ``time`` in seconds since the epoch."""

    time: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """A key of the run's configuration, and whether it differs from the default of a config that does not name it."""

    key: str
    value: str
    is_changed: bool


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round, finished or under way.

    Attributes:
        report: ``None`` until the round is complete.
        shards: numbers of the shards that have responses.
        progress: by table, its shards so far and whether it is sealed; only of a round without a report.
        work: by pool and stage.
    """

    round: int
    report: RoundReport | None
    shards: tuple[int, ...]
    progress: Mapping[str, str]
    work: tuple[PoolWork, ...]


@dataclass(frozen=True, slots=True)
class JudgeView:
    """A judge of the run; ``threshold`` is lambda of Eq. 4, which only a judge that scores has use for."""

    name: str
    kind: str
    role: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The page's first view; made from the manifest alone, no shard is read for it.

    Attributes:
        state: whether the run is running, how it ended, or that it died.
        rule: the consensus rule in words.
        not_recorded: what a reader may look for and the run does not keep.
    """

    name: str
    place: str
    program: str
    state: str
    rule: str
    judges: tuple[JudgeView, ...]
    findings: tuple[Finding, ...]
    rounds: tuple[RoundView, ...]
    events: tuple[RunEvent, ...]
    config: tuple[ConfigLine, ...]
    not_recorded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """A line of the list of samples.

    Attributes:
        index: the place of its prompt in the shard.
        status: of the outcome; ``waiting`` before it was verified.
        reward: ``None`` where there is none (yet).
        drop: why it is not trained on; ``None`` when it is kept, ``waiting`` before weighing.
        num_mined, num_sure_mined: mined tokens, and those of them the policy gave more than 0.95 when it drew them.
        mass, mined_mass: sums of 1 - p; ``None`` where log-probs are unknown.
        strip: one letter a step: ``m`` mined, ``d`` disputed, ``x`` wrong, ``?`` a verdict is missing, ``e`` the last step,
            ``.`` not judged yet.
        dispute: sum over the steps of how far the judges are apart (``watch.report.disagreement.dispute``).
        num_missing: verdicts that should be there and are not usable (unparsable, refused, timeout, engine lost).
        num_spared: mined steps; ``num_spared_wrong`` of them called wrong by a judge that measures.
    """

    prompt_id: str
    sample: int
    index: int
    status: str
    stop_reason: str
    reward: float | None
    found: str | None
    drop: str | None
    advantage: float | None
    num_tokens: int
    num_mined: int
    num_sure_mined: int
    mass: float | None
    mined_mass: float | None
    strip: str
    num_disputed: int
    dispute: float
    num_missing: int
    num_unparsable: int
    num_spared: int
    num_spared_wrong: int


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """The samples of one shard, with their questions by index. ``waiting_for``: tables that this shard still lacks."""

    round: int
    shard: int
    prompts: tuple[tuple[str, str, str], ...]
    waiting_for: tuple[str, ...]
    samples: tuple[SampleSummary, ...]


@dataclass(frozen=True, slots=True)
class VerdictView:
    """One judge on one step.

    Attributes:
        label: 1 right, 0 wrong; ``None``: there is no verdict, and ``status`` says why (``not judged``: not yet).
        score: P(right) of a judge that scores.
        reason: the kind of error it names; empty where it names none.
    """

    judge: str
    status: str
    label: int | None
    score: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of a wrong response.

    Attributes:
        why: which rule decided, in words.
        consensus: 1 right, 0 not; ``None`` while a judge has not come to it.
        dispute: how far the judges that vote are apart, 0 to 1.
        weights: the different token weights in it.
    """

    index: int
    start: int
    end: int
    text: str
    verdicts: tuple[VerdictView, ...]
    consensus: int | None
    why: str
    dispute: float
    num_mined: int
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SampleView:
    """A response in full.

    Attributes:
        p: the sampler's probability of each token; ``None`` where unknown.
        drift: log-prob by the trainer's reference pass less the sampler's, nats a token; ``None`` where there was no such pass.
        mined: by token; ``None`` before weighing.
        raw: by judge, its answers as they came, each once.
        omitted: what a bundle left out of this sample to stay small.
    """

    summary: SampleSummary
    policy_version: int
    seed: int | None
    token_texts: tuple[str, ...]
    p: tuple[float, ...] | None
    drift: tuple[float, ...] | None
    mined: tuple[bool, ...] | None
    steps: tuple[StepView, ...]
    raw: Mapping[str, tuple[str, ...]]
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupView:
    """All responses to a prompt. ``judge_seconds``: by judge, the seconds its worker took for this shard's steps."""

    round: int
    shard: int
    index: int
    prompt_id: str
    question: str
    gold: str
    samples: tuple[SampleView, ...]
    judge_seconds: Mapping[str, tuple[float, int]]


def as_json(record: Any) -> str:
    """The record, a mapping or a sequence of such as JSON."""
    return json.dumps(_plain(record), separators=(",", ":"), allow_nan=False, default=_stored)


def _plain(record: Any) -> Any:
    return record if isinstance(record, dict | list | tuple) else asdict(record)


def _stored(record: Any) -> Any:
    if isinstance(record, Stored):
        return {key: value for key, value in record.plain().items() if key != "per_problem"}
    raise TypeError(f"{type(record).__name__} has no JSON")
