"""An API key is cut out of whatever an endpoint sends, where the bytes enter and before anything reads them."""

from __future__ import annotations

import base64
import re

MASK = "***"
SHORTEST_KEY = 8
"""Characters. A shorter key (``EMPTY``, ``x``) guards nothing, and could be a word of an honest answer."""
_SHORTEST_CODE = 12


class KeyMask:
    r"""Finds one key however a reply may spell it: as it is, in capitals or not, each character plain or as an escape of JSON
    (``\\u0073``, also escaped twice), of a URL (``%73``) or of HTML (``&#115;``), and in base64 wherever it begins there.

    Args:
        key: ``None`` masks nothing: there is no key.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._spelled = self._code = None
        if key is not None and len(key) >= SHORTEST_KEY:
            self._spelled = re.compile("".join(map(_spelling, key)), re.IGNORECASE)
            code = [found for found in _in_base64(key) if len(found) >= _SHORTEST_CODE]
            self._code = re.compile("|".join(map(re.escape, code))) if code else None

    def text(self, text: str) -> str:
        """``text`` without the key; a key below :data:`SHORTEST_KEY` stays."""
        for pattern in (self._spelled, self._code):
            text = text if pattern is None else pattern.sub(MASK, text)
        return text

    def message(self, text: str) -> str:
        """As :meth:`text`, for what only people read: a short key goes too."""
        masked = self.text(text)
        return masked if self._key is None else masked.replace(self._key, MASK)

    def body(self, body: bytes) -> bytes:
        """The bytes of a reply in any encoding that extends ASCII. JSON stays JSON: the mask replaces parts of its strings."""
        return self.text(body.decode("latin-1")).encode("latin-1")


def _spelling(character: str) -> str:
    """A pattern of all ways to write one character."""
    code = ord(character)
    return rf"(?:\\*{re.escape(character)}|\\+u00{code:02x}|%(?:25)*{code:02x}|&#0*{code};|&#x0*{code:x};)"


def _in_base64(key: str) -> list[str]:
    """What of the key's base64 does not depend on what stands before and after it, for each of the three places it can begin."""
    found = []
    for before in range(3):
        code = base64.b64encode(b"\0" * before + key.encode()).decode()
        whole = code[-(-before * 8 // 6) : (before + len(key)) * 8 // 6]
        found += [whole, whole.translate(str.maketrans("+/", "-_"))]
    return found
