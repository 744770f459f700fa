"""method/segment.py: steps tile the tokens whatever the tokens are."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.assets.chain.task import draw_chain, step_truths
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.structure import StepRules, piece_cuts, segment
from bcpg_cluster.stages.segment.token_borders import Border, steps_between

LINES = StepRules()
PARAGRAPHS = StepRules(split_on="paragraph", cues_inside_lines=True)


def characters(text: str) -> list[str]:
    return list(text)


def texts(tokens: list[str], rules: StepRules = LINES) -> list[str]:
    return [step.text for step in segment(tokens, rules)]


def test_embedded_task_every_line_is_a_step_and_wait_joins_the_line_after_it():
    response = "17+25=43\nwait\n17+25=42\n42*3=26\nanswer 18"
    steps = segment([*response, ""], LINES)
    assert [step.text for step in steps] == ["17+25=43\n", "wait\n17+25=42\n", "42*3=26\n", "answer 18"]
    assert [(step.start, step.end) for step in steps] == [(0, 9), (9, 23), (23, 31), (31, 41)]
    assert [t.is_correct for t in step_truths("17 +25 *3 -8", [s.text for s in steps])] == [False, True, True, True]


def test_right_solutions_fall_into_one_step_per_operation_and_the_answer():
    rng = random.Random(3)
    for _ in range(50):
        chain = draw_chain(rng, 1, 6)
        steps = texts(list(chain.solution))
        assert [step.strip() for step in steps] == [*chain.lines, f"answer {chain.answer}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\nb\n", ["a\n\n", "b\n"]),  # blank lines belong to the step they end
        ("\n\na\nb", ["\n\na\n", "b"]),  # at the beginning, to the first
        ("a\n  \n", ["a\n  \n"]),
        ("a\r\nb", ["a\r\n", "b"]),
        ("wait\nwait\n1\n2", ["wait\nwait\n1\n", "2"]),
        ("1\nWait.\n", ["1\n", "Wait.\n"]),  # nothing follows
        ("1\n**Hmm**, wait...\n2", ["1\n", "**Hmm**, wait...\n2"]),
        ("waiter\nx", ["waiter\n", "x"]),
        ("\n \n", ["\n \n"]),
        ("<think>\na\n</think>\n\nb", ["<think>\na\n</think>\n\n", "b"]),
        ("a</think>b", ["a</think>", "b"]),
        ("a </think>\n  b", ["a </think>\n", "  b"]),
        ("a\nwait\n</think>\n", ["a\n", "wait\n</think>\n"]),
        ("x\n\\[\na\nb\n\\]\ny", ["x\n", "\\[\na\nb\n\\]\n", "y"]),
        ("x $$\na\n$$ z\ny", ["x $$\na\n$$ z\n", "y"]),
        ("\\begin{a}\n\\begin{a}\n\\end{a}\n\\end{a}\ny", ["\\begin{a}\n\\begin{a}\n\\end{a}\n\\end{a}\n", "y"]),
        ("```py\na\n\nb\n```\nc", ["```py\na\n\nb\n```\n", "c"]),
        ("it costs $5\nand $6\nx", ["it costs $5\n", "and $6\n", "x"]),  # prices are not a formula
        ("$a +\nb$ c\nd", ["$a +\nb$ c\n", "d"]),
        ("\\[ open\na\nb", ["\\[ open\n", "a\n", "b"]),  # never closed: protects nothing
        ("\\[ a\n</think>\n\\]\nb", ["\\[ a\n</think>\n", "\\]\n", "b"]),  # nothing crosses </think>
        ("\\\\[2pt]\na \\]\nb", ["\\\\[2pt]\n", "a \\]\n", "b"]),  # a line break is not an opening
    ],
)
def test_lines(text: str, expected: list[str]):
    assert texts(characters(text)) == expected


def test_paragraphs_and_cues_within_them():
    text = "First.\nStill first.\nWait, no.\n\nSecond. Actually, it is 3. So 3.\n\nwait\n\nThird"
    assert texts(characters(text), PARAGRAPHS) == [
        "First.\nStill first.\n",
        "Wait, no.\n\n",
        "Second. ",
        "Actually, it is 3. So 3.\n\n",
        "wait\n\nThird",
    ]


def test_a_token_of_two_steps_goes_to_the_earlier_one_and_says_so():
    assert segment(["a", "\nb", "c"], LINES) == [Step(0, 1, "a"), Step(1, 3, "\nbc")]  # newline only: the later one
    assert segment(["a\nb", "c"], LINES) == [Step(0, 1, "a\nb", True), Step(1, 2, "c")]
    assert segment(["a\nb\nc", "d"], LINES) == [Step(0, 1, "a\nb\nc", True), Step(1, 2, "d")]
    assert segment(["a\nb", "\n", "c"], LINES) == [Step(0, 2, "a\nb\n"), Step(2, 3, "c")]  # b has no token left
    assert segment(["a\nb"], LINES) == [Step(0, 1, "a\nb")]


def test_tokens_without_text_go_with_what_follows_them():
    assert segment(["", "a", "\n", "", "", "é", ""], LINES) == [Step(0, 3, "a\n"), Step(3, 7, "é")]
    assert segment([], LINES) == []
    assert segment(["", ""], LINES) == [Step(0, 2, "")]


def test_short_steps_merge_and_leave_a_cue_at_the_beginning():
    rules = StepRules(min_tokens=4)
    assert texts(characters("a\nb\nc\nd\n"), rules) == ["a\nb\n", "c\nd\n"]
    assert texts(characters("abcde\nf\nwait, g\n"), rules) == ["abcde\nf\n", "wait, g\n"]  # back, not into the cue
    assert texts(characters("abcde\nf"), rules) == ["abcde\nf"]  # the last one merges back
    assert texts([*"abcde\n", "f", "</think>", "g"], rules) == ["abcde\nf</think>", "g"]  # never over </think>


def test_long_steps_are_cut_at_sentences_then_words_and_never_in_a_formula():
    rules = StepRules(split_on="paragraph", max_tokens=12)
    assert texts(characters("One two. Three four five"), rules) == ["One two. ", "Three four ", "five"]
    assert texts(characters("$" + "x + " * 9 + "x$ and"), rules) == ["$" + "x + " * 9 + "x$ ", "and"]
    assert texts(characters("a" * 40), rules) == ["a" * 40]


@pytest.mark.parametrize(
    "wrong",
    [{"split_on": "word"}, {"min_tokens": 0}, {"max_tokens": -1}, {"min_tokens": 5, "max_tokens": 4}, {"cues": ("",)}],
)
def test_rules_that_contradict_themselves(wrong: dict):
    with pytest.raises(ValueError):
        StepRules(**wrong)


def test_piece_cuts_are_the_places_before_sizes_count():
    rules = StepRules(min_tokens=9, max_tokens=9)
    assert piece_cuts("a\n\nb\nwait\nc</think>d", rules) == [3, 5, 19]
    assert piece_cuts("", rules) == []


def test_borders_that_do_not_tile_are_an_error():
    assert steps_between(["a", "b"], [Border(1, 1)]) == [Step(0, 1, "a"), Step(1, 2, "b")]
    for tokens in ([0], [2], [1, 1]):
        with pytest.raises(RuntimeError, match="do not tile"):
            steps_between(["a", "b"], [Border(token, 0) for token in tokens])


BREAKS = ["\n", "\n\n", " ", "\r\n", ". ", "! ", "</think>", "<think>"]
MARKS = ["$", "$$", "\\[", "\\]", "\\(", "\\)", "```", "\n```\n", "\\\\", "\\begin{x}", "\\end{x}"]
WORDS = ["wait", "Wait, ", "Hmm", "17+25=42\n", "answer 18", "e\u0301", "\U0001f469\u200d\U0001f467", "\U0001f389"]
FRAGMENTS = st.sampled_from([*BREAKS, *MARKS, *WORDS])
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=6)), max_size=30).map("".join)


@st.composite
def tokens(draw: st.DrawFn) -> list[str]:
    """A text cut anywhere, with empty pieces."""
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=40)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges)][draw(st.integers(0, 1)) :]


RULES = st.builds(
    StepRules,
    split_on=st.sampled_from(["line", "paragraph"]),
    cues_inside_lines=st.booleans(),
    min_tokens=st.integers(1, 4),
    max_tokens=st.sampled_from([0, 4, 5, 9]),
    cues=st.sampled_from([StepRules().cues, (), ("wait",)]),
)


@settings(max_examples=600, deadline=None)
@given(tokens(), RULES)
def test_steps_tile_the_tokens_and_the_text(pieces: list[str], rules: StepRules):
    steps = segment(pieces, rules)
    assert [step.start for step in steps] == [0, *(step.end for step in steps)][: len(steps)]
    assert (steps[-1].end if steps else 0) == len(pieces)
    assert all(step.end > step.start for step in steps)
    assert "".join(step.text for step in steps) == "".join(pieces)
    assert all(step.text == "".join(pieces[step.start : step.end]) for step in steps)
    if "".join(pieces).strip():
        assert all(step.text.strip() for step in steps)
    for step in steps:
        if step.shares_last_token:
            assert len(pieces[step.end - 1].strip()) > 1 and step is not steps[-1]
    for step in steps[1:]:  # a border never stands after a token without text
        assert pieces[step.start - 1] != ""
    assert segment(pieces, rules) == steps


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "b+c", " ", "\n", "\n\n", "wait"]), min_size=1, max_size=20), RULES)
def test_formulas_and_code_stay_whole(inside: list[str], rules: StepRules):
    body = "".join(inside)
    fences = (("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)"), ("\\begin{x}", "\\end{x}"), ("```\n", "\n```"))
    for opening, closing in fences:
        block = opening + body + closing
        assert any(block in step for step in texts(characters(f"before\n{block}\nafter one two three"), rules))


@settings(max_examples=200, deadline=None)
@given(TEXTS, RULES)
def test_think_end_is_always_a_border_between_characters(text: str, rules: StepRules):
    before, after = "x" + text.replace("</think>", ""), "y"
    steps = texts(characters(f"{before}</think>{after}"), rules)
    assert steps[-1] == "y" and steps[-2].endswith("</think>")


@settings(max_examples=300, deadline=None)
@given(tokens())
def test_shared_tokens_are_exactly_those_with_text_of_two_lines(pieces: list[str]):
    pieces = [piece.replace("\\", "").replace("$", "").replace("`", "").replace("~", "") for piece in pieces]
    for step in segment(pieces, StepRules(cues=())):
        if step.shares_last_token:
            last = pieces[step.end - 1]
            assert "\n" in last.strip() or "</think>" in "".join(pieces)


@pytest.mark.parametrize(
    "piece", ["wait\n", "$a ", "\\[", "\\begin{x}", "```\n", "```py\n", ". ", "</think>", "\n", " ", "a b. ", ".)"]
)
def test_time_is_linear(piece: str):
    rules = StepRules(split_on="paragraph", cues_inside_lines=True, min_tokens=8, max_tokens=64)

    def seconds(count: int) -> float:
        pieces = [piece] * count
        start = time.process_time()
        segment(pieces, rules)
        return time.process_time() - start

    seconds(1000)
    short, long = (min(seconds(count) for _ in range(3)) for count in (2_000, 16_000))
    assert long < 24 * short + 0.2  # linear: 8; quadratic: 64
