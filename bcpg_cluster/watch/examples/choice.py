"""Which training rows show the method best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Step
from bcpg_cluster.store.rows import WeightedRow
from bcpg_cluster.watch.examples.samples import RoundSamples, join_samples, only_of
from bcpg_cluster.watch.examples.truth_words import truth_agreement

_SCREEN_TOKENS = 600


@dataclass(frozen=True, slots=True)
class Showing:
    """What a wrong response has to show.

    Attributes:
        is_mixed: some step before the last is mined and some is not.
        agreement: share of the steps before the last on which judges that measure agree with what was mined; 0 where none
            of them said anything.
        mined_mass: share of its gradient mass (the sum of 1 - p) on mined tokens; 0 where log-probs are unknown.
    """

    is_mixed: bool = False
    agreement: float = 0.0
    mined_mass: float = 0.0


def choose_rows(samples: RoundSamples, config: Config, prompt: str | None, sample: int | None) -> list[WeightedRow]:
    """The rows that hold such a sample, as their own response or as the wrong one of a pair; those that show most first.

    First come wrong responses with mined steps beside others, those that fit a screen, those on which the truth agrees with
    what was mined, and among these the ones whose mined tokens would have carried most of the gradient.
    """
    return sorted(
        (row for row in samples.weighted if _holds(row, prompt, sample)),
        key=rank(lambda row: _showing(row, samples, config)),
    )


def choose_of_round(
    shards: Iterable[RoundSamples], config: Config, prompt: str | None, sample: int | None, number: int
) -> tuple[list[WeightedRow], RoundSamples | None]:
    """The first ``number`` of what :func:`choose_rows` gives of a whole round, and all there is of them, one shard held at a time.

    Args:
        shards: of the round.

    Returns:
        ``None`` with no rows where there is no shard.
    """
    kept: RoundSamples | None = None
    for of_shard in shards:
        known = of_shard if kept is None else join_samples(kept, of_shard)
        kept = only_of(known, choose_rows(known, config, prompt, sample)[:number])
    return ([], None) if kept is None else ([*kept.weighted], kept)


def rank(showing: Callable[[WeightedRow], Showing]) -> Callable[[WeightedRow], tuple[object, ...]]:
    """A key that sorts rows that show most to the front."""

    def key(row: WeightedRow) -> tuple[object, ...]:
        shows = showing(row)
        return (
            not any(row.mined),
            not shows.is_mixed,
            row.reward > 0.0,
            len(row.token_ids) > _SCREEN_TOKENS,
            -shows.agreement,
            -shows.mined_mass,
            row.id,
            row.rival.id if row.rival else row.id,
        )

    return key


def _holds(row: WeightedRow, prompt: str | None, sample: int | None) -> bool:
    # Another prompt's response beside a sample is no sample of that row: it would be shown once too often.
    paired = row.rival is not None and row.rival.id.prompt_id == row.id.prompt_id
    ids = [row.id, row.rival.id] if paired and row.rival else [row.id]
    return any((prompt is None or id_.prompt_id == prompt) and (sample is None or id_.sample == sample) for id_ in ids)


def _showing(row: WeightedRow, samples: RoundSamples, config: Config) -> Showing:
    steps = samples.steps.get(row.id, ())[:-1]
    if not steps:
        return Showing()
    mined = mined_flags(row, steps)
    agreement = truth_agreement(mined, samples.said_of(row.id), config)
    return Showing(any(mined) and not all(mined), agreement or 0.0, mined_mass(row, samples) or 0.0)


def mined_flags(row: WeightedRow, steps: Sequence[Step]) -> list[bool]:
    """By step, whether some of its tokens are mined."""
    return [any(row.mined[step.start : step.end]) for step in steps]


def mined_mass(row: WeightedRow, samples: RoundSamples) -> float | None:
    """The share of the response's gradient mass (the sum of 1 - p) on mined tokens; ``None`` where there is none to divide."""
    mass = [-math.expm1(min(logprob, 0.0)) for logprob in samples.rollouts[row.id].sampler_logprobs]
    whole = math.fsum(mass)
    if not whole:
        return None
    return math.fsum(value for value, is_mined in zip(mass, row.mined, strict=False) if is_mined) / whole
