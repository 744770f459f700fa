"""The lines of a list of samples, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass


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
