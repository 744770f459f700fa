"""The form of a manifest line: a JSON object whose last key, ``crc``, vouches for the line and its place.

The checksum is the CRC-32 of the line's bytes up to that key, begun with the checksum of the line before. So each covers all
before it: a changed byte fails at its own line, and a line that was removed, repeated, moved, or comes from another copy of the
journal fails where the lines no longer follow each other. A running number would miss the last of these, and would need a
checksum beside it. Programs that know no checksums read such lines as ever, since they skip unknown keys.

Lines of runs made before have none. The first checksum behind such lines is begun with the CRC-32 of their bytes, so from then
on they are vouched for too; and from then on every line needs one.

A later form of lines must keep this one for the line that makes a run (``created``), so that this program can say "newer".
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_CRC = re.compile(rb', "crc": "([0-9a-f]{8})"\}\n\Z')


class DamageKind(StrEnum):
    """What is wrong with a line of a manifest."""

    NOT_AN_EVENT = "not an event"
    CHANGED = "changed"
    NO_CHECKSUM = "no checksum"
    SEAL = "seal"
    UNTOLD = "untold"  # it, or one of those before it, all without a checksum of their own: which one cannot be told


@dataclass(frozen=True, slots=True)
class Damage:
    """A line of a manifest that is not what was written.

    Attributes:
        line: its number, from 1; in an object store counted over the segments as far as they count.
        what: for people: which event it is, where that can still be read, and what does not fit.
    """

    line: int
    kind: DamageKind
    what: str


class DamagedLineError(ValueError):
    """A line that cannot be believed."""

    def __init__(self, kind: DamageKind, what: str) -> None:
        super().__init__(what)
        self.kind, self.what = kind, what


@dataclass(frozen=True, slots=True)
class Chain:
    """How far a journal was read or written.

    Attributes:
        crc: what the checksum of the next line is begun with.
        is_begun: a line with a checksum was seen, so all later ones need one.
    """

    crc: int = 0
    is_begun: bool = False

    def signed(self, event: Mapping[str, Any]) -> bytes:
        """The line of an event."""
        content = json.dumps(event).encode()[:-1]
        return b'%b, "crc": "%08x"}\n' % (content, zlib.crc32(content, self.crc))

    def after(self, line: bytes) -> Chain:
        """Behind a line, taken at its word."""
        found = _CRC.search(line)
        return Chain(zlib.crc32(line, self.crc), self.is_begun) if found is None else Chain(int(found[1], 16), True)

    def read(self, line: bytes) -> dict[str, Any]:
        """The event of a line, without its checksum.

        Raises:
            DamagedLineError: it is not JSON, its checksum does not fit, or it has none and needs one.
        """
        event = _parsed(line)
        found = _CRC.search(line)
        if found is None:
            if self.is_begun:
                raise DamagedLineError(
                    DamageKind.NO_CHECKSUM,
                    f"{describe(event)} has no checksum, though lines before it have one: it was changed, or written by "
                    "something else (an older version, an editor)",
                )
            return event
        content = line[: found.start()]
        if zlib.crc32(content, self.crc) != int(found[1], 16):
            if not self.is_begun and self.crc:
                raise DamagedLineError(
                    DamageKind.UNTOLD,
                    f"{describe(event)} has the first checksum, and fails it: it, or one of the lines before it, was changed, "
                    "removed, repeated or moved",
                )
            raise DamagedLineError(
                DamageKind.CHANGED,
                f"{describe(event)} fails its checksum: it was changed, or a line before it was changed, removed, repeated "
                "or moved",
            )
        del event["crc"]
        return event


def signed_lines(chain: Chain, events: Iterable[Mapping[str, Any]]) -> tuple[bytes, Chain]:
    """The lines of several events, and where they end."""
    lines = []
    for event in events:
        lines.append(chain.signed(event))
        chain = chain.after(lines[-1])
    return b"".join(lines), chain


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        if not line.endswith(b"\n"):
            raise ValueError("no line end")
        event = json.loads(line)
        if not isinstance(event["event"], str):
            raise TypeError("no kind")
    except (ValueError, KeyError, TypeError):
        raise DamagedLineError(
            DamageKind.NOT_AN_EVENT, "not an event; the file was changed by something else"
        ) from None
    return dict(event)


def describe(event: Mapping[str, Any]) -> str:
    """What an event is, for people; of one that may be damaged."""
    kind, round_, table = event["event"], event.get("round"), event.get("table")
    match kind:
        case "shard":
            return f"shard {event.get('shard')} of round {round_}, table {table!r},"
        case "sealed":
            return f"the seal of round {round_}, table {table!r},"
        case "report":
            return f"the report of round {round_}"
        case "snapshot" | "push":
            return f"the {kind} of version {event.get('version')}"
    return f"the event {str(kind)[:40]!r}"
