r"""stages/judge/llm/answer_schema.py: answers as models write them where no engine enforces the format."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.stages.judge.llm.answer_schema import (
    double_stray_backslashes,
    parse_answer,
    parse_json_verdicts,
    parse_reasons,
)
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt

JSON = JudgePrompt("x", "", "", "", answer="json")
LINES = replace(JSON, answer="lines")

RIGHT_WRONG = (
    '{"verdicts": [{"step": 0, "reason": "REASON", "error_type": "none", "correct": 1}, '
    '{"step": 1, "reason": "2+2=5", "error_type": "calculation", "correct": 0}]}'
)
WRONG_RIGHT = (
    '{"verdicts": [{"step": 0, "reason": "", "error_type": "logic", "correct": 0}, '
    '{"step": 1, "reason": "", "error_type": "none", "correct": 1}]}'
)
LATEX_REASON = RIGHT_WRONG.replace("REASON", r"Since \(a+b\) equals \sqrt{4}, fine")


def free_labels(text: str, prompt: JudgePrompt = JSON) -> list[int] | None:
    """The labels of an answer about steps 0 and 1 that nothing bound to a format."""
    verdicts = parse_answer(prompt, text, 0, 1, is_bound=False)
    return None if verdicts is None else [verdict.label for verdict in verdicts]


@pytest.mark.parametrize(
    "text",
    [
        LATEX_REASON,
        f"```JSON\n{RIGHT_WRONG}\n```",
        f"```json\r\n{RIGHT_WRONG}\r\n```",
        f"``` Json \r\n{LATEX_REASON}\r\n```\r\n",
        f"<think>Is it?</think>{RIGHT_WRONG}",
        f"<think>\nperhaps {WRONG_RIGHT}\nno\n</think>\n\n```json\n{RIGHT_WRONG}\n```",  # a draft is a thought
        f"Step 1 adds wrongly.\n\n{RIGHT_WRONG}\n",
        f"Step 1 adds wrongly:\r\n```JSON\r\n{LATEX_REASON}\r\n```",
        f"<think>hm</think>Here it is:\n{RIGHT_WRONG}",
        RIGHT_WRONG.replace("REASON", "ends with </think>"),
    ],
)
def test_one_answer_is_read(text: str):
    assert free_labels(text) == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        f"The response says {RIGHT_WRONG}",  # inside a sentence: a quotation
        f"{RIGHT_WRONG}\nDone.",
        f"{WRONG_RIGHT}\n{RIGHT_WRONG}",  # which one counts?
        f"First I thought {WRONG_RIGHT}, now:\n{RIGHT_WRONG}",
        f"```json\n{WRONG_RIGHT}\n```\n```json\n{RIGHT_WRONG}\n```",
        f"<think>\n{RIGHT_WRONG}",  # still thinking
        f"a</think><think>b\n{RIGHT_WRONG}",
        f"<think>\n{RIGHT_WRONG}\n</think>",  # thought and not said
        f"Answer:\n```json\n{RIGHT_WRONG}",  # a fence that is never closed
        f"Answer:\n```python\n{RIGHT_WRONG}\n```",
        f"Answer:\n{RIGHT_WRONG}\n```",
        f"Answer:\n[{RIGHT_WRONG}]",
        f"Answer:\n{{{RIGHT_WRONG[1:-1]}, {RIGHT_WRONG[1:]}",  # the key twice
        RIGHT_WRONG.replace('"correct": 0', '"correct": \\0'),  # a backslash outside of strings
        RIGHT_WRONG.replace("calculation", "calcul\\ation"),
        RIGHT_WRONG.replace('"correct": 0', '"corr\\ect": 0'),
        RIGHT_WRONG.replace("REASON", "a\\"),  # the quote is escaped: where does the reason end?
        RIGHT_WRONG[:-1],
        "0 correct none\n1 wrong calculation",  # lines where JSON was asked for
        "",
    ],
)
def test_no_guess_becomes_a_label(text: str):
    assert free_labels(text) is None


def test_json_is_read_where_lines_were_asked_for():
    for text in (RIGHT_WRONG, LATEX_REASON, f"```JSON\r\n{RIGHT_WRONG}\r\n```", f"<think>0 right</think>{RIGHT_WRONG}"):
        assert free_labels(text, LINES) == [1, 0]
    assert free_labels("```\r\n0 correct none\r\n1 wrong calculation\r\n```", LINES) == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        f"0 wrong logic\n1 correct none\n{RIGHT_WRONG}",  # both formats
        f"{RIGHT_WRONG}\n0 correct none\n1 wrong calculation",
        f"Step 1 adds wrongly.\n{RIGHT_WRONG}",
    ],
)
def test_two_formats_in_one_answer_are_unparsable(text: str):
    assert free_labels(text, LINES) is None


@pytest.mark.parametrize(
    "text", [f"```json\n{RIGHT_WRONG}\n```", f"<think></think>{RIGHT_WRONG}", f"So:\n{RIGHT_WRONG}"]
)
def test_an_enforced_format_is_read_strictly(text: str):
    assert parse_answer(JSON, text, 0, 1) is None
    assert parse_answer(LINES, RIGHT_WRONG, 0, 1) is None


# --- backslashes

ESCAPES = [r"\(", r"\)", r"\[", r"\sqrt{4}", r"\frac12", r"\underline{x}", r"\u00", r"\ud800", r"\beta", r"\\", r"\'"]
OTHERS = [r"\"", r"\$", "\\\u6839", "\U0001f389", "{", "}", "]", ",", ":", "0", "41", r"\"correct\": 1", "</think>"]
CHARACTERS = st.characters(exclude_characters='"\\', exclude_categories=["Cc", "Cs"])
LATEX = st.lists(st.sampled_from([*ESCAPES, *OTHERS]) | CHARACTERS, max_size=12).map("".join)


def answer_with(reasons: list[str], labels: list[int]) -> str:
    """An answer as a model writes it that puts its reasons between the quotes as they are."""
    items = [
        f'{{"step": {step}, "reason": "{reason}", "error_type": "{"none" if label else "logic"}", "correct": {label}}}'
        for step, (reason, label) in enumerate(zip(reasons, labels, strict=True))
    ]
    return f'{{"verdicts": [{", ".join(items)}]}}'


@settings(deadline=None)
@given(st.lists(st.tuples(LATEX, st.integers(0, 1)), min_size=1, max_size=4))
def test_latex_in_reasons_leaves_every_label_as_it_was_meant(steps: list[tuple[str, int]]):
    reasons, labels = [reason for reason, _ in steps], [label for _, label in steps]
    verdicts = parse_json_verdicts(answer_with(reasons, labels), 0, len(steps) - 1)
    assert verdicts is not None
    assert [verdict.label for verdict in verdicts] == labels


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.text('"\\,:{}[]01nu correct', max_size=30), st.integers(0, 1)), min_size=1, max_size=3))
def test_whatever_stands_in_a_reason_the_labels_are_those_meant_or_none(steps: list[tuple[str, int]]):
    reasons, labels = [reason for reason, _ in steps], [label for _, label in steps]
    verdicts = parse_json_verdicts(answer_with(reasons, labels), 0, len(steps) - 1)
    assert verdicts is None or [verdict.label for verdict in verdicts] == labels


def outside_strings(text: str) -> str:
    """What is outside of JSON strings, character by character."""
    kept, is_inside, is_escaped = "", False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif character == '"':
            is_inside = not is_inside
        elif is_inside:
            is_escaped = character == "\\"
        else:
            kept += character
    return kept


@settings(deadline=None)
@given(st.text('"\\u0n(x{}', max_size=30) | st.text(max_size=30))
def test_the_repair_adds_only_backslashes_inside_strings_and_once(text: str):
    repaired = double_stray_backslashes(text)
    assert outside_strings(repaired) == outside_strings(text)
    assert repaired.replace("\\", "") == text.replace("\\", "")
    assert double_stray_backslashes(json.dumps(text)) == json.dumps(text)  # valid JSON stays
    if not text.endswith("\\"):
        assert double_stray_backslashes(repaired) == repaired


def test_stray_backslashes_by_hand():
    assert double_stray_backslashes(r'\a "\(x\) \n \\ \u00e9 \underline \"" \b') == (
        r'\a "\\(x\\) \n \\ \u00e9 \\underline \"" \b'
    )


@settings(deadline=None)
@given(
    st.text(max_size=60)
    | st.sampled_from(['{"verdicts"' * 20_000, '"\\"' * 20_000, "<think>" * 20_000, "```\n" * 20_000])
)
def test_arbitrary_text_is_unparsable_and_never_raises(text: str):
    for prompt in (JSON, LINES):
        assert parse_answer(prompt, text, 0, 1, is_bound=False) is None


ITEM = '{"step": 3, "reason": "carry lost", "error_type": "calculation", "correct": 0}'


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        (f'{{"verdicts": [{ITEM}]}}', {3: "carry lost"}),
        (f'```json\n{{"verdicts": [{ITEM}]}}\n```', {3: "carry lost"}),
        (
            f'<think>so</think>Well:\n{{"verdicts": [{ITEM}, {{"step": 4, "reason": "ok"}}]}}',
            {3: "carry lost", 4: "ok"},
        ),
        (f'{{"verdicts": [{ITEM}, {{"step": "4", "reason": "ok"}}, {{"step": 5}}, 6]}}', {3: "carry lost"}),
        ('{"verdicts": [{"step": 0, "reason": "\\(x\\)"}]}', {0: "\\(x\\)"}),
        ("0 correct none", {}),
        ('{"verdicts": 3}', {}),
        ("[" * 100_000, {}),
        ("", {}),
    ],
)
def test_reasons_are_read_even_where_the_answer_does_not_count(text: str, reasons: dict[int, str]):
    assert parse_reasons(text) == reasons
