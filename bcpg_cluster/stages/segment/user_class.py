"""A segmenter of the user's own: anything callable with a response's token texts that returns steps which tile them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.records import Step
from bcpg_cluster.stages.plugin import make_plugin, not_loadable, plugin_name
from bcpg_cluster.stages.segment.segmenters import Segmenter

_WHAT = "segment.class"


class UserSegmenter:
    """Asks it, and checks that its steps tile the response.

    Args:
        import_path: ``file.py:Name`` or ``package.module:Name``: a class whose objects can be called, or a function.
        options: its keyword arguments; a function gets them in every call.
        digest: of the file's content; ``None`` takes any.

    Raises:
        ConfigError: it cannot be imported or made, or cannot be called.
    """

    def __init__(self, import_path: str, options: Mapping[str, Any], *, digest: str | None = None) -> None:
        self._plugin = plugin_name(import_path, _WHAT)
        self._segmenter: Segmenter = make_plugin(self._plugin, _WHAT, options, digest, needs=("__call__",))

    def __call__(self, token_texts: Sequence[str]) -> list[Step]:
        """The steps of a response. Raises :class:`ConfigError` where it fails, or its steps do not tile the response."""
        try:
            steps = list(self._segmenter(token_texts))
            fault = tiling_fault(token_texts, steps)
        except Exception as error:  # a user's segmenter may raise and return anything
            fault = f"{type(error).__name__}: {error}"
        if fault:
            raise not_loadable(self._plugin, _WHAT, f"for the response {''.join(token_texts)!r:.80} {fault}")
        return steps


def tiling_fault(token_texts: Sequence[str], steps: Sequence[Step]) -> str:
    """Where steps fail to tile a response's tokens and text; empty where they do."""
    end = 0
    for number, step in enumerate(steps):
        if step.start != end or step.end <= step.start:
            return f"step {number} has the tokens {step.start} .. {step.end - 1} where the one before ended at {end}"
        end = step.end
    if end != len(token_texts):
        return f"the steps end at token {end} of {len(token_texts)}"
    text, joined = "".join(token_texts), "".join(step.text for step in steps)
    return "" if joined == text else f"the steps' texts join to {joined!r:.80}"
