"""Canaries: responses whose log-probs tell new weights from old ones and so prove a push."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from bcpg_cluster.errors import PushError
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import write_whole

CANARIES = "canaries.json"  # in a snapshot's directory


@dataclass(frozen=True, slots=True)
class Canary:
    """A response with the trainer's log-probs under the weights before and after a round, one per token, nats."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


def write_canaries(snapshot_dir: RunPath, canaries: Sequence[Canary]) -> str:
    """Keep the canaries beside the weights they prove; sha256 of the file."""
    content = json.dumps([asdict(canary) for canary in canaries]).encode()
    write_whole(snapshot_dir / CANARIES, content)
    return hashlib.sha256(content).hexdigest()


def read_canaries(snapshot_dir: RunPath) -> list[Canary]:
    """The canaries of a snapshot; none for one that was not trained here."""
    path = snapshot_dir / CANARIES
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    return [Canary(**{key: tuple(value) for key, value in entry.items()}) for entry in content]


def fitting_canaries(canaries: Sequence[Canary], max_model_len: int | None) -> list[Canary]:
    """What an engine can score of canaries: it takes one token less than its context, since it draws one more.

    A response is cut to what fits: a token's log-prob does not depend on later ones. A canary whose prompt leaves no room is
    left out. ``None`` is an engine without a limit.
    """
    if max_model_len is None:
        return [*canaries]
    kept = []
    for canary in canaries:
        room = max_model_len - 1 - len(canary.prompt_token_ids)
        if room > 0:
            cut = (canary.token_ids[:room], canary.before[:room], canary.after[:room])
            kept.append(Canary(canary.prompt_token_ids, *cut))
    return kept


@dataclass(frozen=True, slots=True)
class CanaryProof:
    """How well engines agree with the trainer on the new weights.

    Attributes:
        worst_nats: the largest difference per token between an engine's and the trainer's new log-prob.
        separation_nats: the largest difference per token between the trainer's old and new log-probs.
        cached_prefix_nats: the same as ``worst_nats`` for the token decoded through a prefix that was cached before the push;
            ``None`` when no canary is long enough.
        verdict: ``passed``; ``not discriminating`` when old and new weights cannot be told apart by these canaries.
    """

    worst_nats: float
    separation_nats: float
    cached_prefix_nats: float | None
    verdict: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A token after a long prefix, with the trainer's new log-prob: decoded through the prefix cache."""

    prefix: tuple[int, ...]
    token: int
    after: float


def choose_probe(canaries: Sequence[Canary], min_prefix_tokens: int = 33) -> Probe | None:
    """The canary token, late enough for its prefix to fill a cache block, whose log-prob the round changed most."""
    best: tuple[float, Probe] | None = None
    for canary in canaries:
        whole = canary.prompt_token_ids + canary.token_ids
        for index, token in enumerate(canary.token_ids):
            prefix = whole[: len(canary.prompt_token_ids) + index]
            change = abs(canary.after[index] - canary.before[index])
            if len(prefix) >= min_prefix_tokens and (best is None or change > best[0]):
                best = change, Probe(prefix, token, canary.after[index])
    return None if best is None else best[1]


def judge_canaries(
    canaries: Sequence[Canary],
    scored: Sequence[Sequence[tuple[float, ...]]],
    cached_prefix: Sequence[float] | None,
    tolerance_nats: float,
    *,
    seconds: float = 0.0,
) -> CanaryProof:
    """Decide whether the engines hold the new weights.

    Args:
        scored: per member, per canary, the engine's log-probs.
        cached_prefix: per member, how far the token decoded through a once-cached prefix is off.

    Raises:
        PushError: a difference above the tolerance.
    """
    if not canaries:
        return CanaryProof(0.0, 0.0, None, "not discriminating", seconds)
    worst = _largest(
        abs(value - expected)
        for of_member in scored
        for canary, values in zip(canaries, of_member, strict=True)
        for value, expected in zip(values, canary.after, strict=True)
    )
    separation = _largest(
        abs(new - old) for canary in canaries for new, old in zip(canary.after, canary.before, strict=True)
    )
    through_cache = _largest(cached_prefix) if cached_prefix else None
    # `not <=` rather than `>`: a NaN must fail
    if not worst <= tolerance_nats or (through_cache is not None and not through_cache <= tolerance_nats):
        raise PushError(
            f"the engines do not hold the weights that were sent: canary log-probs are off by {worst:.2e} nats"
            + ("" if through_cache is None else f", through a cached prefix by {through_cache:.2e}")
            + f" (tolerance {tolerance_nats:.0e}; old and new weights differ by {separation:.2e}). Engines that compute in another "
            "data type than the trainer are off too (policy.engine_args.dtype, train.dtype, push.tolerance_nats)"
        )
    verdict = "passed" if separation > tolerance_nats else "not discriminating"
    return CanaryProof(worst, separation, through_cache, verdict, seconds)


def _largest(differences: Iterable[float]) -> float:
    """The largest, 0 of none; NaN if there is one (``max`` alone loses a NaN that does not come first)."""
    values = list(differences)
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)
