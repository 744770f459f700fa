"""method/step_merge.py and method/segmenters.py: pieces become steps of a size, and never divide what belongs together."""

from __future__ import annotations

import random
import re
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.assets.chain.task import draw_chain
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.merge import STEP_CUES, MergeRules, cue_at, merge_pieces
from bcpg_cluster.stages.segment.protected_spans import protected_spans
from bcpg_cluster.stages.segment.segmenters import (
    DelimiterSegmenter,
    StructuralSegmenter,
    blank_line_cuts,
    delimiter_cuts,
)
from bcpg_cluster.stages.segment.structure import StepRules, segment


def merged(pieces: list[str], rules: MergeRules | None) -> list[str]:
    """The steps' texts when every character is a token and pieces are given as they are."""
    cuts = list(accumulate(map(len, pieces)))
    return [step.text for step in merge_pieces(list("".join(pieces)), cuts, rules)]


# --- the three ways to close a step, by hand (every character is a token)

SIX = MergeRules(min_tokens=6, target_tokens=12, max_tokens=20)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["aaaa. ", "So b. ", "So c."], ["aaaa. ", "So b. ", "So c."]),  # a cue at exactly min_tokens
        (["aaa. ", "So b. ", "So c."], ["aaa. So b. ", "So c."]),  # one token short of it
        (["aaaa. ", "Sob. ", "so, c"], ["aaaa. Sob. ", "so, c"]),  # a longer word is no cue; case does not matter
        (["aaaa. ", "- **Wait** b"], ["aaaa. ", "- **Wait** b"]),  # marks before the cue
        (["aaaaa.", "\n\nWait b"], ["aaaaa.", "\n\nWait b"]),  # a piece may begin with white space
        (["aaaaaaaaa.\n\n", "b"], ["aaaaaaaaa.\n\n", "b"]),  # a paragraph ends at exactly target_tokens
        (["aaaaaaaa.\n\n", "b"], ["aaaaaaaa.\n\nb"]),  # one token short of it
        (["aaaaaaaaaa.\n", "b"], ["aaaaaaaaaa.\nb"]),  # a line is no paragraph
        (["aaaaaaaaa.\n \t\n", "b"], ["aaaaaaaaa.\n \t\n", "b"]),  # a blank line may hold space
        (["aaaaaaaaaaaa.\n", "\nb"], ["aaaaaaaaaaaa.\n", "\nb"]),  # and may lie on both sides of the border
        (["aaaaa aaaa ", "bbbbbbbbb"], ["aaaaa aaaa bbbbbbbbb"]),  # 20 = max_tokens fit
        (["aaaaa aaaa ", "bbbbbbbbbb"], ["aaaaa aaaa ", "bbbbbbbbbb"]),  # 21 do not
        (["aa ", "b" * 19, " c"], ["aa ", "b" * 19, " c"]),  # whatever min_tokens says
    ],
)
def test_a_step_is_closed(pieces: list[str], expected: list[str]):
    assert merged(pieces, SIX) == expected


def test_without_rules_every_piece_is_a_step():
    assert merged(["a. ", "b. ", "c"], None) == ["a. ", "b. ", "c"]


def test_without_a_maximum_and_cues_only_paragraphs_close():
    rules = MergeRules(min_tokens=1, target_tokens=3, max_tokens=0, cues=())
    assert merged(["Wait. "] * 30 + ["a.\n\n", "So b"], rules) == ["Wait. " * 30 + "a.\n\n", "So b"]


def test_a_piece_longer_than_the_maximum_is_cut_at_a_line_or_sentence_then_at_a_word():
    rules = MergeRules(min_tokens=2, target_tokens=12, max_tokens=12)
    assert merged(["One two. Three four five"], rules) == ["One two. ", "Three four ", "five"]
    assert merged(["x" * 40], rules) == ["x" * 40]
    assert merged(["$" + "x + " * 9 + "x$ and"], rules) == ["$" + "x + " * 9 + "x$ ", "and"]


@pytest.mark.parametrize(
    "block",
    [
        "$a + b. So c$",
        "$$a.\nSo b$$",
        "\\[ a.\n\nSo b \\]",
        "\\( a. So b \\)",
        "\\begin{x}a.\n\nSo\\end{x}",
        "```\na.\n\nSo\n```",
    ],
)
def test_formulas_and_code_are_never_cut(block: str):
    text = f"aaaaaaa\n{block}\nWait, b"
    for rules in (None, MergeRules(min_tokens=1, target_tokens=1, max_tokens=2)):
        steps = [step.text for step in merge_pieces(list(text), range(len(text)), rules)]
        assert any(block in step for step in steps)
        assert len(steps) > 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\n</think>\n\nb", ["a\n\n</think>\n\n", "b"]),  # no step of `</think>` alone
        ("<think>\n\na</think>b", ["<think>\n\na</think>", "b"]),  # nor of `<think>` alone
        ("\\[ a</think>b \\]", ["\\[ a</think>", "b \\]"]),
        ("a</think>\n", ["a</think>\n"]),  # nothing follows
    ],
)
def test_think_end_is_a_border_whatever_the_sizes(text: str, expected: list[str]):
    everywhere = range(len(text) + 1)
    assert [step.text for step in merge_pieces(list(text), everywhere, MergeRules())] == expected
    after_lines = [at for at in everywhere if text[at - 1 : at] == "\n"]
    for cuts in (everywhere, after_lines):
        unmerged = [step.text for step in merge_pieces(list(text), cuts, None)]
        assert not {"<think>", "</think>"} & {step.strip() for step in unmerged}
        assert sum("</think>" in step for step in unmerged) == 1  # and the tag is not cut itself
        assert any("<think>" in step for step in unmerged) == ("<think>" in text)
        assert set(accumulate(map(len, expected))) <= set(accumulate(map(len, unmerged)))


# --- tokens


def test_a_token_of_two_pieces_goes_to_the_earlier_step_and_says_so():
    assert merge_pieces(["a. ", "b. c", ". d"], [6], None) == [Step(0, 2, "a. b. c", True), Step(2, 3, ". d")]
    assert merge_pieces(["a. b. c. d", " e"], [3, 6, 9], None) == [Step(0, 1, "a. b. c. d", True), Step(1, 2, " e")]
    assert merge_pieces(["a.", " b"], [3], None) == [Step(0, 1, "a."), Step(1, 2, " b")]  # white space is not shared


def test_parts_of_a_character_go_with_the_token_that_completes_it():
    steps = merge_pieces(["a. ", "", "", "\U0001f389", ".", ""], [3], None)
    assert steps == [Step(0, 1, "a. "), Step(1, 6, "\U0001f389.")]


def test_a_response_without_visible_text_is_one_step():
    assert merge_pieces([], [1], MergeRules()) == []
    assert merge_pieces(["", ""], [], MergeRules()) == [Step(0, 2, "")]
    assert merge_pieces([" ", "\n"], [1], None) == [Step(0, 2, " \n")]


# --- against a plain restatement of the rule, and properties

FRAGMENTS = [
    "a",
    "bc",
    " ",
    ". ",
    "\n",
    "\n\n",
    "So ",
    "wait, ",
    "Now",
    "$x$",
    "$a. So$",
    "\\[\nb\n\n\\]",
    "</think>",
    "\u00e9",
    "$5 ",
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)
RULES = st.builds(
    lambda least, more, most, cues: MergeRules(least, least + more, most and least + more + most, cues),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(0, 12),
    st.sampled_from([STEP_CUES, (), ("wait",)]),
)


def plain_merge(text: str, cuts: set[int], rules: MergeRules) -> list[int]:
    """Where steps begin when every character is a token: the rule read out loud, quadratic."""
    starts, step = [], 0
    borders = sorted(cuts)
    for at, following in pairwise([*borders, len(text)]):
        before, after = text[step:at], text[at:]
        gap = before[len(before.rstrip()) :] + after[: len(after) - len(after.lstrip())]
        word = re.match(rf"\s*({'|'.join(map(re.escape, rules.cues)) or '(?!)'})(?!\w)", after, re.IGNORECASE)
        if (
            (len(before) >= rules.min_tokens and word)
            or (len(before) >= rules.target_tokens and gap.count("\n") >= 2)
            or (rules.max_tokens and following - step > rules.max_tokens)
        ):
            starts.append(at)
            step = at
    return starts


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a. ", "bcd ", "So e. ", "wait f\n", "g.\n\n", "Now, h. "]), min_size=1, max_size=30),
    RULES,
)
def test_it_is_the_rule(pieces: list[str], rules: MergeRules):
    text = "".join(pieces).rstrip()
    cuts = {at for at in accumulate(map(len, pieces)) if at < len(text)}
    longest = max(b - a for a, b in pairwise(sorted({0, *cuts, len(text)})))
    if rules.max_tokens and longest > rules.max_tokens:
        return  # pieces are cut first: another test
    steps = merge_pieces(list(text), list(cuts), rules)
    assert [step.start for step in steps[1:]] == plain_merge(text, cuts, rules)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """A text as tokens cut anywhere, empty ones included, and places of pieces anywhere."""
    text = draw(TEXTS)
    places = st.lists(st.integers(0, len(text)), max_size=30)
    edges = [0, *sorted(draw(places)), len(text)]
    return [text[a:b] for a, b in pairwise(edges)], draw(places)


@settings(max_examples=300, deadline=None)
@given(cut_texts(), st.none() | RULES)
def test_steps_tile_tokens_and_text_and_borders_are_only_where_they_may_be(
    given_text: tuple[list[str], list[int]], rules: MergeRules | None
):
    tokens, cuts = given_text
    text = "".join(tokens)
    steps = merge_pieces(tokens, cuts, rules)
    assert [step.start for step in steps] == [0, *(step.end for step in steps)][: len(steps)]
    assert steps[-1].end == len(tokens)
    assert all(step.text == "".join(tokens[step.start : step.end]) for step in steps)
    assert "".join(step.text for step in steps) == text
    if text.strip():
        assert all(step.text.strip() for step in steps)
    assert not steps[-1].shares_last_token
    think_ends = [match.end() for match in re.finditer("</think>", text)]
    ends = list(accumulate(len(step.text) for step in steps))[:-1]
    for end, step in zip(ends, steps, strict=False):
        if step.shares_last_token:
            assert len(tokens[step.end - 1].strip()) > 1
        last = end - len(tokens[step.end - 1])
        if not any(last < at <= end or not text[at:end].strip() for at in think_ends if at <= end):
            # but for `</think>`, no border stands in a formula
            assert not any(low < end < high for low, high in protected_spans(text))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_characters_as_tokens_merge_only_drops_borders_and_keeps_the_maximum(text: str, data: st.DataObject):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=30))
    rules = data.draw(RULES)
    pieces = merge_pieces(list(text), cuts, None)
    steps = merge_pieces(list(text), cuts, rules)
    if not rules.max_tokens or all(len(piece.text) <= rules.max_tokens for piece in pieces):
        assert {step.start for step in steps} <= {piece.start for piece in pieces}
        assert all(not rules.max_tokens or len(step.text) <= rules.max_tokens for step in steps)
    starts = {step.start for step in steps}
    for match in re.finditer("</think>", text):
        if text[match.end() :].strip():
            assert any(match.end() <= start and not text[match.end() : start].strip() for start in starts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_tokens": 0},
        {"min_tokens": 65, "target_tokens": 64},
        {"target_tokens": 300, "max_tokens": 299},
        {"max_tokens": -1},
        {"cues": ("",)},
        {"cues": (" so",)},
    ],
)
def test_merge_rules_that_contradict_themselves(wrong: dict):
    with pytest.raises(ValueError):
        MergeRules(**wrong)


def test_cues_as_they_are_written():
    assert cue_at("But wait, no", 0, STEP_CUES) == "But wait"  # the longest
    assert cue_at("a. Let\u2019s see", 3, STEP_CUES) == "Let\u2019s"
    assert cue_at("> # So", 0, STEP_CUES) == "So"
    assert cue_at("Society", 0, STEP_CUES) is None
    assert cue_at("So", 0, ()) is None


# --- segmenters


def test_the_structural_segmenter_is_segment_itself():
    rng = random.Random(5)
    cut = StructuralSegmenter()
    for _ in range(100):
        lines = draw_chain(rng, 1, 6).solution.split("\n")
        response = [*"\n".join([*lines[:-1], "wait", *lines[-2:]]), ""]
        assert cut(response) == segment(response, StepRules())


def test_the_structural_segmenter_merges_what_it_would_have_cut():
    cut = StructuralSegmenter(StepRules(), MergeRules(4, 8, 12))
    steps = [step.text for step in cut(list("a1\nb2\nc3\nwait\nd4\ne5\nf6\n\ng7"))]
    # 9 tokens before the cue; then 15 > 12 before f6 (8 + "wait\nd4\n" is one piece); f6 begins anew.
    assert steps == ["a1\nb2\nc3\n", "wait\nd4\ne5\n", "f6\n\ng7"]


def test_delimiters_belong_to_the_piece_they_end_or_begin():
    cut = DelimiterSegmenter(after=("\n\n",), before=("## Step",))
    text = "intro\n## Step 1\na\n\n\nb ## Step 2\n\n## Step 3"
    assert [s.text for s in cut(list(text))] == ["intro\n", "## Step 1\na\n\n\n", "b ", "## Step 2\n\n", "## Step 3"]
    assert [s.text for s in DelimiterSegmenter(after=("a", "aa."))(list("xaa.ya"))] == ["xaa.", "ya"]  # the longest
    assert [s.text for s in DelimiterSegmenter(after=(".",))(list("1.5$0.5$."))] == [
        "1.",
        "5$0.5$.",
    ]  # not in a formula
    assert [s.text for s in DelimiterSegmenter(after=("(",))(list("a(b"))] == ["a(", "b"]  # no pattern


def test_delimited_pieces_are_merged():
    rules = MergeRules(min_tokens=3, target_tokens=6, max_tokens=9)
    cut = DelimiterSegmenter(after=("\n\n", "\n"), merge=rules)
    assert [s.text for s in cut(list("ab\ncd\n\nef\nSo\nghijklm"))] == ["ab\ncd\n\n", "ef\n", "So\n", "ghijklm"]


@pytest.mark.parametrize("wrong", [{"after": ()}, {"after": ("",)}, {"before": ("",)}])
def test_delimiters_that_cut_nothing_or_everything(wrong: dict):
    with pytest.raises(ValueError):
        DelimiterSegmenter(**wrong)


def test_places_of_pieces():
    assert delimiter_cuts("a;b;;c", (";",), ()) == [2, 4, 5]
    assert delimiter_cuts("a;b", (), (";",)) == [1]
    assert blank_line_cuts("a\n\nb\n  \n\n  c\nd\n\n") == [3, 11, 16]
