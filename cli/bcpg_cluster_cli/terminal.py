"""Where text meets the terminal: what could steer it is shown, never sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_KEPT = "\n\t"
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}
_BIDI = [0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPED = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)} | {code: f"\\u{code:04x}" for code in _BIDI}
_SHOWN = {code: text for code, text in (_PICTURES | _ESCAPED).items() if chr(code) not in _KEPT}
"""What each character is shown as: control pictures (␛) for those of ASCII, escapes for C1 and what turns the writing round."""


def shown(text: str) -> str:
    """``text`` as it may be printed; newlines and tabs stay. Half a surrogate pair, which no stream takes, is shown too."""
    return text.translate(_SHOWN).encode("utf-8", "backslashreplace").decode()


def say(text: str, *, color: str | None = None, is_error: bool = False) -> None:
    """Print a text that may hold anything, as it is but :func:`shown`."""
    typer.secho(shown(text), fg=color, err=is_error)


class Terminal(Console):
    """A rich console for texts that models, endpoints and users wrote. Its own colours and tables are untouched."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, each piece of text :func:`shown`."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else shown(text), style, control)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, but before it drops some control characters without a word."""
        return super().render_str(shown(text), **options)
