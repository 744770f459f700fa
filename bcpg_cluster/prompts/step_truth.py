"""What is known of a solution's steps: the truth of each, and the first wrong one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

NO_ERROR = -1


def first_error(labels: Sequence[int | None]) -> int | None:
    """The first step labelled wrong, or :data:`NO_ERROR`; of a judge that scores, the first not above its threshold (Eq. 4).

    ``None`` when that cannot be said, because a step before it has no label. What follows the first 0 does not matter.

    Raises:
        ValueError: labels other than 0, 1 and ``None``.
    """
    for index, label in enumerate(labels):
        if label is None:
            return None
        if label not in (0, 1):
            raise ValueError(f"a label is 0, 1 or None, got {label}")
        if label == 0:
            return index
    return NO_ERROR


def known_truth(first_wrong: int, num_steps: int) -> tuple[int | None, ...]:
    """What a first wrong step says of all steps: those before it are right, it is wrong, of later ones nothing is known.

    Raises:
        ValueError: it is neither a step nor :data:`NO_ERROR`.
    """
    if not NO_ERROR <= first_wrong < num_steps:
        raise ValueError(f"the first wrong step of {num_steps} is 0..{num_steps - 1} or {NO_ERROR}, got {first_wrong}")
    if first_wrong == NO_ERROR:
        return (1,) * num_steps
    return (*(1,) * first_wrong, 0, *(None,) * (num_steps - first_wrong - 1))
