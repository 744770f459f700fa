"""The contract of ``stages.segment.segmenters.Segmenter`` as checks that anybody can run on a segmenter of their own.

>>> failures(MySegmenter())   # doctest: +SKIP
[]
"""

from __future__ import annotations

from collections.abc import Callable

from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster.stages.segment.user_class import tiling_fault

_TEXT = "First, 2 + 3 = 5.\nWait, let me check.\n\nSo $x = 5$ and\r\n```python\nprint(5)\n```\nThe answer is 5.\n"
_ODD = ("", " ", "\n\n\n", "a", "\x00", "é🙂汉字。好", "```\nopen", "</think>" * 3, "x" * 3000)


def steps_tile_the_response(cut: Segmenter) -> None:
    """Every token is in exactly one step, and the steps' texts join to the response, however it falls into tokens."""
    for size in (1, 3, 7, len(_TEXT)):
        tokens = [_TEXT[start : start + size] for start in range(0, len(_TEXT), size)]
        fault = tiling_fault(tokens, cut(tokens))
        assert not fault, f"in tokens of {size} characters: {fault}"


def odd_text_is_tiled_too(cut: Segmenter) -> None:
    """Whatever a response says."""
    for text in _ODD:
        fault = tiling_fault(list(text), cut(list(text)))
        assert not fault, f"{text!r:.40}: {fault}"


def tokens_without_text_belong_to_a_step(cut: Segmenter) -> None:
    """A special token adds no text, and is in a step nevertheless."""
    for tokens in (["", "a", "\n", "", "b", ""], [""]):
        fault = tiling_fault(tokens, cut(tokens))
        assert not fault, f"{tokens}: {fault}"


def the_same_response_has_the_same_steps(cut: Segmenter) -> None:
    """Verdicts are stored by step, so a stage that is run again must find the same ones."""
    tokens = list(_TEXT)
    assert cut(tokens) == cut(tokens), "two calls gave different steps"


CHECKS: tuple[Callable[[Segmenter], None], ...] = (
    steps_tile_the_response,
    odd_text_is_tiled_too,
    tokens_without_text_belong_to_a_step,
    the_same_response_has_the_same_steps,
)


def failures(cut: Segmenter) -> list[str]:
    """The checks that the segmenter does not pass, each with what it did; whatever it raises is a failure too."""
    found = []
    for check in CHECKS:
        try:
            check(cut)
        except Exception as error:  # a segmenter under test may raise anything
            found.append(f"{check.__name__}: {type(error).__name__}: {error}")
    return found
