"""stages/segment/segmenters.py: delimiters on any line breaks, and every segmenter tiles to the byte."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.records import Step
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from bcpg_cluster.stages.segment.by_token import ConfidenceSegmenter, EntropySegmenter, FixedSegmenter
from bcpg_cluster.stages.segment.cues import CUE_LANGUAGES, REFLECTION_CUES_BY_LANGUAGE, STEP_CUES_BY_LANGUAGE, cues_of
from bcpg_cluster.stages.segment.llm.llm_segmenter import LlmOptions, LlmSegmenter
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.protocol import ResponseSegmenter, SampledResponse
from bcpg_cluster.stages.segment.sat import SatSegmenter
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, Segmenter, StructuralSegmenter, delimiter_cuts
from bcpg_cluster.stages.segment.structure import StepRules

CRLF = "Let the side be 4.\r\n\r\nThen the area is 16.\r\n\r\nSo the volume is 64.\r\n"


def test_a_blank_line_is_one_with_crlf_too():
    steps = [step.text for step in DelimiterSegmenter()(list(CRLF))]
    assert steps == ["Let the side be 4.\r\n\r\n", "Then the area is 16.\r\n\r\n", "So the volume is 64.\r\n"]


@pytest.mark.parametrize(
    ("text", "after", "before", "expected"),
    [
        ("a\r\n\r\n\r\nb", ("\n\n",), (), [7]),  # the line breaks that follow belong to it
        ("a\r\n\nb", ("\n\n",), (), [4]),
        ("a\nb\r\nc", ("\n",), (), [2, 5]),
        ("a\nb\r\nc", ("\r\n",), (), [5]),  # asked for as it is
        ("a\rb", ("\n",), (), []),
        ("a;\r\nb", (";",), (), [4]),
        ("a\r\n## b", (), ("\n##",), [1]),  # before the whole line break, never inside it
    ],
)
def test_line_breaks_in_delimiters(text: str, after: tuple[str, ...], before: tuple[str, ...], expected: list[int]):
    assert delimiter_cuts(text, after, before) == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "\n", "\n\n", ";", "# ", " "]), max_size=20).map("".join))
def test_crlf_is_cut_where_lf_is(text: str):
    with_lf = [step.text for step in DelimiterSegmenter(("\n\n", ";"), ("# ",))(list(text))]
    with_crlf = [step.text for step in DelimiterSegmenter(("\n\n", ";"), ("# ",))(list(text.replace("\n", "\r\n")))]
    assert [step.replace("\r\n", "\n") for step in with_crlf] == with_lf


class Sentences:
    """``split`` as Segment Any Text spells it, by full stops."""

    def split(self, text_or_texts: str, *, split_on_input_newlines: bool = True, **options: object) -> list[str]:
        return [piece for piece in re.split(r"(?<=[.\u3002])", text_or_texts) if piece]


SMALL = MergeRules(2, 4, 9, cues=cues_of(STEP_CUES_BY_LANGUAGE, CUE_LANGUAGES))
ALL_CUES = cues_of(REFLECTION_CUES_BY_LANGUAGE, CUE_LANGUAGES)


def by_sampler(cut: ResponseSegmenter) -> Segmenter:
    """With log-probs and entropies that depend on the token's text: many are over, many under every threshold."""

    def steps(tokens: Sequence[str]) -> list[Step]:
        odd = [len(token.encode()) % 3 for token in tokens]
        response = SampledResponse(tokens, [-0.01 - 2.0 * n for n in odd], [0.5 + n for n in odd])
        return list(cut.cut([response]).steps[0])

    return steps


class EveryOther:
    """A transport whose model says that every other line begins a step, or, every third time, nothing that can be read."""

    model, decoding, is_bound = "lines", {}, False

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            first, last = map(int, re.findall(r"the lines (\d+) to (\d+) begin", ask.messages[1]["content"])[-1])
            said = {"starts": list(range(first, last + 1, 2))}
            yield index, Reply("no" if len(ask.messages[1]["content"]) % 3 == 0 else json.dumps(said))


ASKED = LlmSegmenter(EveryOther(), LlmOptions(StructuralSegmenter(), max_lines=4))  # type: ignore[arg-type]
ASKED_MERGED = LlmSegmenter(EveryOther(), LlmOptions(StructuralSegmenter(), merge=SMALL))  # type: ignore[arg-type]
SEGMENTERS: dict[str, Segmenter] = {
    "fixed": FixedSegmenter(3),
    "fixed, merged": FixedSegmenter(2, SMALL),
    "confidence": by_sampler(ConfidenceSegmenter(0.5)),
    "confidence, merged": by_sampler(ConfidenceSegmenter(0.5, 2, SMALL)),
    "entropy": by_sampler(EntropySegmenter(1.0, 2)),
    "entropy, merged": by_sampler(EntropySegmenter(1.0, 1, SMALL)),
    "llm": by_sampler(ASKED),
    "llm, merged": by_sampler(ASKED_MERGED),
    "lines": StructuralSegmenter(),
    "paragraphs": StructuralSegmenter(StepRules("paragraph", ALL_CUES, True, 2, 9)),
    "structural, merged": StructuralSegmenter(StepRules("line", ALL_CUES, True), SMALL),
    "delimiter": DelimiterSegmenter(),
    "delimiter, merged": DelimiterSegmenter(("\n\n", "\u3002"), ("## ",), SMALL),
    "sat": SatSegmenter(Sentences(), threshold=0.25, merge=None),
    "sat, merged": SatSegmenter(Sentences(), threshold=0.25, merge=SMALL),
}

CJK = ["\u7b49\u7b49\uff0c", "\u8ba9\u6211\u68c0\u67e5\u3002", "\u5f85\u3063\u3066", "\uc7a0\uae50\ub9cc\uc694. "]
EMOJI = ["\U0001f389", "\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "e\u0301"]
MATHS = [r"\[", r"\]", "$x$", "$$", r"\begin{array}{c}", r"\end{array}", r"\\[2pt]", r"\frac{1}{2}"]
CODE = ["```", "````md\n", "````\n", "\n```\n", "~~~\n", "```py\r\n", "`a`"]
TABLES = ["| a | b |\n", "|---|---|\r\n", "| 1 | \u4e8c |\n"]
PROSE = ["Wait, ", "So ", "## ", "a. ", "x", " ", "\t", "</think>", "<think>"]
BREAKS = ["\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\u2028"]
TEXTS = st.lists(
    st.sampled_from([*CJK, *EMOJI, *MATHS, *CODE, *TABLES, *PROSE, *BREAKS]) | st.text(max_size=3), max_size=30
).map("".join)


@st.composite
def byte_tokens(draw: st.DrawFn) -> list[str]:
    """A text whose bytes are cut anywhere, as a byte-level sampler does: a character comes with its last byte."""
    content = draw(TEXTS).encode()
    edges = [0, *sorted(draw(st.lists(st.integers(0, len(content)), max_size=40))), len(content)]
    decoder = getincrementaldecoder("utf-8")()
    return [decoder.decode(content[start:end]) for start, end in pairwise(edges)]


@pytest.mark.parametrize("name", SEGMENTERS)
@settings(max_examples=150, deadline=None)
@given(tokens=byte_tokens())
def test_every_segmenter_tiles_tokens_and_bytes(name: str, tokens: list[str]):
    steps = SEGMENTERS[name](tokens)
    assert b"".join(step.text.encode() for step in steps) == "".join(tokens).encode()
    assert [step.start for step in steps] == [0, *(step.end for step in steps)][:-1]
    assert steps[-1].end == len(tokens)
    assert all(step.text == "".join(tokens[step.start : step.end]) for step in steps)
    if "".join(tokens).strip():
        assert all(step.text.strip() for step in steps)
    assert SEGMENTERS[name](tokens) == steps
