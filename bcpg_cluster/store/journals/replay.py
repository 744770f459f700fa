"""Reading a journal's lines in order, as far as they can be believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.store.journals.lines import Chain, Damage, DamagedLineError, DamageKind, describe


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a journal can be believed.

    Attributes:
        good: bytes up to there; a torn last line does not belong to them.
        num_lines: lines up to there.
        chain: where the next line goes on from.
        damages: what follows. Behind the first only what shows in a line by itself is looked for, no seals.
    """

    good: int
    num_lines: int
    chain: Chain
    damages: tuple[Damage, ...]


def replay(lines: Iterable[bytes], take: Callable[[dict[str, Any]], None]) -> Replay:
    """Give each event to ``take``, until a line cannot be believed.

    Args:
        take: raises :class:`DamagedLineError` (or what reading a dict of another shape raises) for an event that does not fit.
    """
    good, num_lines, chain, iterator = 0, 0, Chain(), iter(lines)
    for number, line in enumerate(iterator, start=1):
        try:
            _take(chain.read(line), take)
        except DamagedLineError as error:
            rest = list(iterator)
            if not rest and _is_torn(line, chain, error):
                break
            further = _further_damages(chain.after(line), number, rest)
            return Replay(good, num_lines, chain, (Damage(number, error.kind, error.what), *further))
        good, num_lines, chain = good + len(line), number, chain.after(line)
    return Replay(good, num_lines, chain, ())


def _is_torn(last: bytes, chain: Chain, error: DamagedLineError) -> bool:
    """Whether a crash left it. In journals without checksums a last line with its end that is no event counts as that, as ever."""
    return not last.endswith(b"\n") or (error.kind is DamageKind.NOT_AN_EVENT and not chain.is_begun)


def _take(event: dict[str, Any], take: Callable[[dict[str, Any]], None]) -> None:
    try:
        take(event)
    except DamagedLineError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        what = f"not an event that can be read: {describe(event)} lacks something, or has something else in its place"
        raise DamagedLineError(DamageKind.NOT_AN_EVENT, what) from None


def _further_damages(chain: Chain, number: int, rest: Sequence[bytes]) -> Iterator[Damage]:
    for later, line in enumerate(rest, start=number + 1):
        try:
            chain.read(line)
        except DamagedLineError as error:
            if line.endswith(b"\n"):
                yield Damage(later, error.kind, error.what)
        chain = chain.after(line)
