"""Group advantages and token weights: what the trainer gets of everything before it (Eqs. 6-7, docs/method.md)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from bcpg_cluster.records import DropReason, Step

Truncated = Literal["negative", "mask", "drop"]
"""What becomes of a response that was cut off at the token limit: it is used like any other (its reward is 0 unless it
holds an answer), left out of training but counted in rbar, or left out of both."""

Mine = Literal["consensus", "prefix"]
"""Which right steps of a wrong response are mined: all that the consensus calls right (BCPG-NSA), or only those before the
first that it does not (VPPO, arXiv 2601.18984, is the nearest published method)."""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One sample of a group: kept with an advantage, or dropped for a reason."""

    advantage: float | None
    drop_reason: DropReason | None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The responses to one prompt.

    Attributes:
        members: one per sample asked for, in order.
        mean: rbar over the verified samples, without the truncated ones where those are dropped; ``None`` when there are none.
        num_verified: samples that ``mean`` is taken over.
    """

    members: tuple[GroupMember, ...]
    mean: float | None
    num_verified: int


def unasked_group(num_samples: int) -> GroupResult:
    """The group of a prompt that did not fit the context: nothing was drawn, and all of it is dropped for that."""
    return GroupResult((GroupMember(None, DropReason.PROMPT_TOO_LONG),) * num_samples, None, 0)


def group_advantages(
    rewards: Sequence[float | None],
    min_verified_share: float,
    num_tokens: Sequence[int] | None = None,
    *,
    truncated: Sequence[bool] | None = None,
    truncated_are: Truncated = "negative",
) -> GroupResult:
    """A_i = r_i - rbar within one group (Eq. 6), and who is dropped why.

    A sample without a reward is ``UNVERIFIED`` whatever else holds. If less than ``min_verified_share`` of the group
    has a reward, the rest is ``GROUP_UNVERIFIED``; if all rewards are the same, ``ALL_CORRECT`` or ``ALL_WRONG``. The share
    asks how well verification worked, so truncated samples count in it under every policy.

    Args:
        rewards: one per sample asked for; ``None`` where it could not be verified.
        min_verified_share: in [0, 1], of the samples asked for.
        num_tokens: response lengths; a sample of length 0 counts in rbar but is dropped as ``EMPTY``.
        truncated: which samples the token limit cut off; none by default.
        truncated_are: what becomes of those (:data:`Truncated`). Where they are left out they are ``TRUNCATED``, but a
            group that is dropped for a reason of its own comes before ``mask``.

    Raises:
        ValueError: a reward other than 0 or 1, a share outside of [0, 1], lengths or flags that do not fit, an unknown policy.
    """
    if not 0.0 <= min_verified_share <= 1.0:
        raise ValueError(f"min_verified_share is a share in [0, 1], got {min_verified_share}")
    lengths = [1] * len(rewards) if num_tokens is None else num_tokens
    cut_off = [False] * len(rewards) if truncated is None else truncated
    if not len(lengths) == len(cut_off) == len(rewards):
        raise ValueError(f"{len(lengths)} lengths and {len(cut_off)} truncation flags for {len(rewards)} rewards")
    if truncated_are not in ("negative", "mask", "drop"):
        raise ValueError(f"truncated responses are negative, mask or drop, got {truncated_are!r}")
    verified = [reward for reward in rewards if reward is not None]
    if any(reward not in (0.0, 1.0) for reward in verified):
        raise ValueError(f"rewards are 0, 1 or None, got {sorted(set(verified))}")
    dropped = [truncated_are == "drop" and is_cut_off for is_cut_off in cut_off]
    counted = [reward for reward, out in zip(rewards, dropped, strict=True) if reward is not None and not out]
    mean = sum(counted) / len(counted) if counted else None
    group_reason = _group_reason(mean, len(verified), len(rewards), min_verified_share)

    members = []
    for reward, length, is_cut_off, out in zip(rewards, lengths, cut_off, dropped, strict=True):
        if reward is None:
            members.append(GroupMember(None, DropReason.UNVERIFIED))
        elif out or mean is None:  # without a mean, all that are verified are out
            members.append(GroupMember(None, DropReason.TRUNCATED))
        elif group_reason is not None:
            members.append(GroupMember(None, group_reason))
        elif length == 0:
            members.append(GroupMember(None, DropReason.EMPTY))
        elif is_cut_off and truncated_are == "mask":
            members.append(GroupMember(None, DropReason.TRUNCATED))
        else:
            members.append(GroupMember(reward - mean, None))
    return GroupResult(tuple(members), mean, len(counted))


def _group_reason(
    mean: float | None, num_verified: int, num_asked: int, min_verified_share: float
) -> DropReason | None:
    """Why a group is dropped whole; ``None`` when it is not, or when nothing of it is left anyway."""
    if num_verified and num_verified / num_asked < min_verified_share:
        return DropReason.GROUP_UNVERIFIED
    if mean == 1.0:
        return DropReason.ALL_CORRECT
    return DropReason.ALL_WRONG if mean == 0.0 else None


def flip_labels(labels: Sequence[int], rate: float, seed: int | str) -> list[int]:
    """Step labels with each one turned over with probability ``rate``: judges of a chosen quality, for ablations.

    The last step is never mined and stays as it is. A step's draw depends on ``seed`` and its place alone, so a higher rate
    turns over all that a lower one does, and more.

    Args:
        labels: I_{i,k}, one per step.
        rate: in [0, 1]; 0 changes nothing, 1 turns all over.
        seed: of this response's draws.

    Raises:
        ValueError: a rate outside of [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"flip_rate is a share in [0, 1], got {rate}")
    draw = random.Random(seed)
    return [*(1 - label if draw.random() < rate else label for label in labels[:-1]), *labels[-1:]]


def mined_steps(labels: Sequence[int], mine: Mine) -> list[int]:
    """Which steps of a wrong response are mined, from the labels of the consensus: 1 for those that are.

    ``prefix`` mines no step at or after the first that the consensus does not call right. A step it could not decide (its
    rule fails closed: label 0) ends the prefix like a wrong one.

    Args:
        labels: I_{i,k}, one per step, after any flips.
        mine: see :data:`Mine`.

    Raises:
        ValueError: an unknown way to mine.
    """
    match mine:
        case "consensus":
            return [*labels]
        case "prefix":
            return [*accumulate(labels, min)]
    raise ValueError(f"mine is 'consensus' or 'prefix', got {mine!r}")


def mined_tokens(
    num_tokens: int, steps: Sequence[Step], mined: Sequence[int], *, eos_is_last: bool
) -> tuple[bool, ...]:
    """Which tokens of a wrong response are mined: the tokens of its right steps, less the edges (docs/method.md).

    Never mined: the last step, which states the final answer and is wrong with it; the end token; and a token shared
    with the next step unless that one is mined too.

    Args:
        num_tokens: length of the response.
        steps: its steps, which tile it; none for a right response.
        mined: I_{i,k}, one per step.
        eos_is_last: the last token is the end token.

    Raises:
        ValueError: the steps do not tile the response, or the labels do not fit the steps.
    """
    if len(mined) != len(steps):
        raise ValueError(f"{len(mined)} labels for {len(steps)} steps")
    if any(label not in (0, 1) for label in mined):
        raise ValueError(f"step labels are 0 or 1, got {list(mined)}")
    edges = [0, *(step.end for step in steps)]
    starts = [step.start for step in steps]
    if steps and (starts != edges[:-1] or edges[-1] != num_tokens or any(step.end <= step.start for step in steps)):
        raise ValueError(f"the steps do not tile {num_tokens} tokens: {[(step.start, step.end) for step in steps]}")
    mask = [False] * num_tokens
    labels = [*mined[:-1], 0]
    for index, step in enumerate(steps[:-1]):
        if labels[index]:
            mask[step.start : step.end] = [True] * (step.end - step.start)
            if step.shares_last_token and not labels[index + 1]:
                mask[step.end - 1] = False
    if eos_is_last and mask:
        mask[-1] = False
    return tuple(mask)


def token_weights(
    num_tokens: int, steps: Sequence[Step], mined: Sequence[int], beta: float, *, eos_is_last: bool
) -> tuple[float, ...]:
    """beta_{i,j} of Eq. 7: ``beta`` on the mined tokens of a wrong response (:func:`mined_tokens`), 1 elsewhere.

    A right response is not segmented: without steps every weight is 1.

    Raises:
        ValueError: beta outside of [-1, 1], or see :func:`mined_tokens`.
    """
    if not -1.0 <= beta <= 1.0:
        raise ValueError(f"beta is in [-1, 1] (Eq. 7), got {beta}")
    return tuple(
        float(beta) if is_mined else 1.0 for is_mined in mined_tokens(num_tokens, steps, mined, eos_is_last=eos_is_last)
    )
