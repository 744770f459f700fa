"""stages/segment/protected_spans.py: which fence closes which."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.stages.segment.protected_spans import protected_spans
from bcpg_cluster.stages.segment.segmenters import StructuralSegmenter


def spans(text: str) -> list[str]:
    return [text[start:end] for start, end in protected_spans(text)]


NESTED = "````md\n```python\na\n\nb\n```\n\nwait, inner\n````"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NESTED, [NESTED]),  # three do not close four
        (NESTED.replace("\n", "\r\n"), [NESTED.replace("\n", "\r\n")]),
        ("```\na\n````\nb", ["```\na\n````"]),  # more close fewer
        ("```\na\n~~~\nb\n```", ["```\na\n~~~\nb\n```"]),  # another character closes nothing
        ("~~~~\n~~~\n~~~~~\nb", ["~~~~\n~~~\n~~~~~"]),
        ("````\na\n```\nb\n```\nc", ["```\nb\n```"]),  # four that are never closed protect nothing
        ("```\na\n```\nb\n````\n```\n````", ["```\na\n```", "````\n```\n````"]),
        ("```a\n```b\n```\nc", ["```a\n```b\n```"]),  # one with a language closes nothing
        ("````\na</think>\n````", []),
    ],
)
def test_a_fence_is_closed_by_one_as_long(text: str, expected: list[str]):
    assert spans(text) == expected


def test_no_cut_between_the_longer_fences():
    steps = StructuralSegmenter()(list(f"{NESTED}\n\nAfter."))
    assert [step.text for step in steps] == [f"{NESTED}\n\n", "After."]


def plain_spans(lines: list[str]) -> list[tuple[int, int]]:
    """Lines of fences and letters, read forwards with a look ahead: quadratic."""
    found, line = [], 0
    while line < len(lines):
        opening = lines[line]
        length = len(opening) - len(opening.lstrip(opening[0]))
        closing = (
            next(
                (
                    later
                    for later in range(line + 1, len(lines))
                    if set(lines[later]) == {opening[0]} and len(lines[later]) >= length
                ),
                None,
            )
            if opening[0] in "`~"
            else None
        )
        if closing is not None:
            found.append((line, closing))
            line = closing
        line += 1
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "```", "````", "`````", "~~~", "~~~~", "```py", "````md"]), max_size=14))
def test_it_is_the_rule(lines: list[str]):
    text = "\n".join(lines)
    numbers = [(text.count("\n", 0, start), text.count("\n", 0, end)) for start, end in protected_spans(text)]
    assert numbers == plain_spans(lines)
