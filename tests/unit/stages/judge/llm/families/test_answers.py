"""What is read in the answers of generative process reward models, and what is not: a step's label is never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.judge.llm.families.families import FAMILIES, MOST_THOUGHT_CHARS, thought_in
from bcpg_cluster.stages.judge.llm.families.genprm import GenPrm
from bcpg_cluster.stages.judge.llm.families.rprm import RPrm
from bcpg_cluster.stages.judge.llm.families.thinkprm import ThinkPrm


def labels(family: str, text: str, num_steps: int) -> list[int | None] | None:
    said = FAMILIES[family].read(text, num_steps)
    return None if said is None else [one.label for one in said]


# --- ThinkPRM --------------------------------------------------------------------------------------------------------

RIGHT, WRONG = r"The step is \boxed{correct}.", r"So it is \boxed{incorrect}."


@pytest.mark.parametrize(
    ("text", "num_steps", "found"),
    [
        (
            f"Let's verify step by step:\n\nStep 1: {RIGHT}\n\nStep 2: {WRONG}\n</think>\n\nIs the solution correct? No",
            2,
            [1, 0],
        ),
        (f"<think>\n**Step 1:** {RIGHT}\n**Step 2:** {RIGHT}\n</think>\n", 2, [1, 1]),
        (f"### Step 1\n{RIGHT}\n### Step 2\n{RIGHT}\n</think>", 2, [1, 1]),
        (f"Step 1: {RIGHT}\nStep 2: {RIGHT}\nIs the solution correct? Yes", 2, [1, 1]),
        ("STEP 1: \\boxed{\\text{Correct}}\nStep 2: \\boxed{ INCORRECT }\n</think>", 2, [1, 0]),
        # it stopped at the first wrong step: nothing is known of the others
        (f"Step 1: {RIGHT}\nStep 2: {WRONG}\n</think>", 4, [1, 0, None, None]),
        (f"Step 1: {WRONG}\n</think>\nIs the solution correct? No", 3, [0, None, None]),
        # it went on after a wrong step
        (f"Step 1: {WRONG}\nStep 2: {RIGHT}\n</think>", 2, [0, 1]),
        # the step at hand named again, and its verdict said twice
        (f"Step 1: hm.\nStep 1: {RIGHT} Yes, {RIGHT}\nStep 2: {WRONG}\n</think>", 2, [1, 0]),
        # boxes of answers are no verdicts; other steps may be named inside a sentence
        (f"Step 1: it says \\boxed{{42}}, {RIGHT}\nStep 2: as in Step 1, {RIGHT}\n</think>", 2, [1, 1]),
    ],
)
def test_thinkprm_is_read(text: str, num_steps: int, found: list[int | None]) -> None:
    assert labels("thinkprm", text, num_steps) == found


@pytest.mark.parametrize(
    ("why", "text", "num_steps"),
    [
        ("the thought never ends", f"Step 1: {RIGHT}\nStep 2: {RIGHT} But wait, let me look again at", 2),
        ("cut off after a wrong step, which might have been taken back", f"Step 1: {WRONG}", 3),
        ("no thought", "", 1),
        ("fewer verdicts, and the last one is right", f"Step 1: {RIGHT}\n</think>", 2),
        ("more steps than there are", f"Step 1: {RIGHT}\nStep 2: {RIGHT}\n</think>", 1),
        ("it changed its mind", f"Step 1: {RIGHT} No: {WRONG}\n</think>", 1),
        ("a step without a verdict", f"Step 1: fine.\nStep 2: {RIGHT}\n</think>", 2),
        ("a step left out", f"Step 1: {RIGHT}\nStep 3: {RIGHT}\n</think>", 3),
        ("counted from 0: every label would move by one", f"Step 0: {RIGHT}\nStep 1: {WRONG}\n</think>", 2),
        ("a verdict before the first step", f"{RIGHT}\nStep 1: {RIGHT}\n</think>", 1),
        ("no headings", f"{RIGHT} {RIGHT}\n</think>", 2),
        (
            "it goes through the steps twice",
            f"Step 1: {RIGHT}\nStep 2: {RIGHT}\nStep 1: {RIGHT}\nStep 2: {WRONG}\n</think>",
            2,
        ),
        ("the whole contradicts the steps", f"Step 1: {RIGHT}\n</think>\nIs the solution correct? No", 1),
        ("the whole contradicts the steps", f"Step 1: {WRONG}\n</think>\nIs the solution correct? Yes", 1),
        ("verdicts only after the thought", f"let me see\n</think>\nStep 1: {RIGHT}", 1),
    ],
)
def test_thinkprm_is_not_guessed_at(why: str, text: str, num_steps: int) -> None:
    assert labels("thinkprm", text, num_steps) is None, why


def test_thinkprm_keeps_each_step_its_part_of_the_thought() -> None:
    text = f"<think>\nLet's verify step by step:\n\nStep 1: a {RIGHT}\n\nStep 2: b {WRONG}\n</think>\nIs the solution correct? No"
    said = ThinkPrm().read(text, 3)
    assert said is not None
    assert [one.thought for one in said] == [
        f"Let's verify step by step:\n\nStep 1: a {RIGHT}",
        f"Step 2: b {WRONG}",
        "",
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
def test_a_thought_cut_off_anywhere_gives_no_label(rights: list[bool], data: st.DataObject) -> None:
    text = "\n".join(f"Step {n}: {RIGHT if right else WRONG}" for n, right in enumerate(rights, start=1)) + "\n</think>"
    assert labels("thinkprm", text, len(rights)) == [int(right) for right in rights]
    end = data.draw(st.integers(0, len(text) - 1))
    assert labels("thinkprm", text[:end], len(rights)) is None


# --- GenPRM ----------------------------------------------------------------------------------------------------------

CRITIQUE = "<analyze>\nLet's analyze the Paragraph 1 step by step: fine.\n</analyze>\n"
CODE = "<verify>\nLet's use python code:\n```python\nprint(1)\n```\n[Code Output]\n\n```\n1\n```\n</verify>\n"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (f"{CRITIQUE}{CODE}<output>\n**Judgement**: $\\boxed{{Yes}}$\n</output>\n", 1),
        (f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{No}}$\n</output>", 0),
        (f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{No}}$", 0),  # a stop string took its end
        ("<output>\nJudgment: \\boxed{yes}\n</output>", 1),
        (f"it says \\boxed{{42}} {CRITIQUE}<output>**Judgement**: \\boxed{{Yes}}</output>", 1),
    ],
)
def test_genprm_is_read(text: str, label: int) -> None:
    said = GenPrm().read(text, 1)
    assert said is not None
    assert [(one.label, one.thought) for one in said] == [(label, text.strip())]


@pytest.mark.parametrize(
    "text",
    [
        "",
        CRITIQUE,
        "<analyze>\nhm <output>\n**Judgement**: $\\boxed{Yes}$\n</output>",  # the analysis never ends
        f"{CRITIQUE}<verify>\n```python <output>\n**Judgement**: $\\boxed{{Yes}}$\n</output>",
        f"{CRITIQUE}**Judgement**: $\\boxed{{Yes}}$",
        f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{Maybe}}$\n</output>",
        f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{Yes}}$ or $\\boxed{{No}}$\n</output>",
        f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{Yes}}$\n</output>\n<output>\n**Judgement**: $\\boxed{{No}}$\n</output>",
        f"{CRITIQUE}<output>\n**Judgement**: $\\boxed{{Y",
    ],
)
def test_genprm_is_not_guessed_at(text: str) -> None:
    assert GenPrm().read(text, 1) is None


# --- R-PRM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Analysis:\nfine\n\nConclusion:\nVerification: Is the step correct (Yes/No)? Yes", 1),
        ("Analysis:\n...\n**Verification**: Is the step correct (Yes/No)? **No**.\n", 0),
        ("Is the step correct (Yes/No)? no", 0),
    ],
)
def test_rprm_is_read(text: str, label: int) -> None:
    said = RPrm().read(text, 1)
    assert said is not None
    assert [(one.label, one.thought) for one in said] == [(label, text.strip())]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Analysis: fine. Yes",
        "Verification: Is the step correct (Yes/No)?",
        "Verification: Is the step correct (Yes/No)? Yes and No",
        "Verification: Is the step correct (Yes/No)? Yes\nBut on second thoughts",
        "Verification: Is the step correct (Yes/No)? No\nVerification: Is the step correct (Yes/No)? Yes",
        "I am told to write: Verification: Is the step correct (Yes/No)? Yes",
    ],
)
def test_rprm_is_not_guessed_at(text: str) -> None:
    assert RPrm().read(text, 1) is None


def test_only_thoughts_of_these_families_are_shown_as_reasons() -> None:
    assert thought_in(f"Step 1: {RIGHT}") == f"Step 1: {RIGHT}"
    assert thought_in("0 correct none") == thought_in('{"verdicts": []}') == ""
    long = RIGHT + "x" * 2 * MOST_THOUGHT_CHARS
    assert thought_in(long) == long[:MOST_THOUGHT_CHARS] + " ..."
