"""Group advantages and token weights: what the trainer gets of everything before it (Eqs. 6-7, docs/method.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bcpg_cluster.records import DropReason, Step


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
        mean: rbar over the verified samples; ``None`` when there are none.
        num_verified: samples with a reward.
    """

    members: tuple[GroupMember, ...]
    mean: float | None
    num_verified: int

    @property
    def num_kept(self) -> int:
        """Samples that go on to training."""
        return sum(member.drop_reason is None for member in self.members)

    @property
    def dropped(self) -> dict[DropReason, int]:
        """How many samples were dropped, by reason; with ``num_kept`` this is everything asked for."""
        return dict(Counter(m.drop_reason for m in self.members if m.drop_reason is not None))


def group_advantages(
    rewards: Sequence[float | None], min_verified_share: float, num_tokens: Sequence[int] | None = None
) -> GroupResult:
    """A_i = r_i - rbar within one group (Eq. 6), and who is dropped why.

    A sample without a reward is ``UNVERIFIED`` whatever else holds. If less than ``min_verified_share`` of the group
    has a reward, the rest is ``GROUP_UNVERIFIED``; if all rewards are the same, ``ALL_CORRECT`` or ``ALL_WRONG``.

    Args:
        rewards: one per sample asked for; ``None`` where it could not be verified.
        min_verified_share: in [0, 1], of the samples asked for.
        num_tokens: response lengths; a sample of length 0 counts in rbar but is dropped as ``EMPTY``.

    Raises:
        ValueError: a reward other than 0 or 1, a share outside of [0, 1], lengths that do not fit.
    """
    if not 0.0 <= min_verified_share <= 1.0:
        raise ValueError(f"min_verified_share is a share in [0, 1], got {min_verified_share}")
    if num_tokens is not None and len(num_tokens) != len(rewards):
        raise ValueError(f"{len(num_tokens)} lengths for {len(rewards)} rewards")
    verified = [reward for reward in rewards if reward is not None]
    if any(reward not in (0.0, 1.0) for reward in verified):
        raise ValueError(f"rewards are 0, 1 or None, got {sorted(set(verified))}")
    mean = sum(verified) / len(verified) if verified else None

    group_reason: DropReason | None = None
    if verified and len(verified) / len(rewards) < min_verified_share:
        group_reason = DropReason.GROUP_UNVERIFIED
    elif mean == 1.0:
        group_reason = DropReason.ALL_CORRECT
    elif mean == 0.0:
        group_reason = DropReason.ALL_WRONG

    members = []
    for index, reward in enumerate(rewards):
        if reward is None or mean is None:
            members.append(GroupMember(None, DropReason.UNVERIFIED))
        elif group_reason is not None:
            members.append(GroupMember(None, group_reason))
        elif num_tokens is not None and num_tokens[index] == 0:
            members.append(GroupMember(None, DropReason.EMPTY))
        else:
            members.append(GroupMember(reward - mean, None))
    return GroupResult(tuple(members), mean, len(verified))


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
