"""Perturbations: worked by hand, and held as properties over many solutions, with the embedded task's truth beside them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.assets.sums.task import draw_sum, step_truths
from bcpg_cluster.stages.judge.stress.arrangement import cut_places
from bcpg_cluster.stages.judge.stress.perturbations import PERTURBATIONS, perturb
from bcpg_cluster.stages.judge.stress.perturbed import (
    Effect,
    Perturbed,
    Solution,
    folded_labels,
    folded_scores,
    truth_after,
)
from bcpg_cluster.stages.judge.stress.phrases import CUE_WORDS, CUES, FRAMES
from bcpg_cluster.stages.judge.stress.wording import with_head, with_tail

STEPS = (
    "Mia has 3 bags of 4 apples. That makes $3 \\cdot 4 = 12$ apples.\n",
    "Her brother owns 5 pears.\n",
    "So together they hold \\[12 + 5 = 17\\] pieces.\nNow we halve them, since 2 share.\n",
    "The answer is 17/2 = 8 for each.",
)
SOLUTION = Solution("Mia has 3 bags of 4 apples, her brother 5 pears; 2 share.", STEPS, (1, 1, 1, 0), "8.5")

texts = st.text(st.sampled_from("ab I=1207+-*/.$\\[](){}\n`|so Therefore天😀"), max_size=40)
solutions = st.lists(st.tuples(texts, st.sampled_from([0, 1, None])), min_size=1, max_size=7).map(
    lambda rows: Solution("add 7 and a", tuple(row[0] for row in rows), tuple(row[1] for row in rows), "9")
)


def adds_only(before: str, after: str) -> bool:
    """Whether the characters of ``before`` are in ``after``, in order."""
    left = iter(after)
    return all(character in left for character in before)


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(solution=solutions, seed=st.integers(0, 5))
def test_maps_are_whole_and_nothing_is_lost(name: str, solution: Solution, seed: int):
    made = perturb(name, solution, seed)
    assert made == perturb(name, solution, seed)
    if made is None:
        assert PERTURBATIONS[name].needs
        return
    assert len(made.origins) == len(made.steps)
    assert len(made.effects) == len(solution.steps)
    assert {origin for origin in made.origins if origin is not None} == set(range(len(solution.steps)))
    parts: dict[int, str] = dict.fromkeys(range(len(solution.steps)), "")
    for step, origin in zip(made.steps, made.origins, strict=True):
        if origin is not None:
            parts[origin] += step
    if name in ("split", "reordered", "empty", "gold_shown", "gold_hidden"):
        assert tuple(parts.values()) == solution.steps
    if name in ("padded", "confident", "hedged", "injection"):
        assert all(adds_only(step, parts[index]) for index, step in enumerate(solution.steps))
    if name != "reordered":
        known = [origin for origin in made.origins if origin is not None]
        assert known == sorted(known)


@given(solution=solutions, seed=st.integers(0, 5))
def test_a_changed_number_is_one_character_of_one_right_step(solution: Solution, seed: int):
    made = perturb("number", solution, seed)
    if made is None:
        return
    changed = [index for index, (a, b) in enumerate(zip(solution.steps, made.steps, strict=True)) if a != b]
    assert len(changed) == 1
    index = changed[0]
    before, after = solution.steps[index], made.steps[index]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert solution.truth[index] == 1
    assert made.effects == (
        *[Effect.SAME] * index,
        Effect.WRONG,
        *[Effect.UNKNOWN] * (len(solution.steps) - index - 1),
    )


@given(number=st.integers(0, 10_000), rule=st.sampled_from(["local", "propagated"]))
def test_the_tasks_own_truth_agrees_with_a_changed_number(number: int, rule):
    """On the embedded task the truth of every step is worked out: the changed one is wrong, those before stay as they were."""
    task = draw_sum(random.Random(number), 3, 6)
    value, lines = task.start, []
    for term in task.terms:
        lines.append(term.line(value, term.apply(value)) + "\n")
        value = term.apply(value)
    truth = tuple(int(step.is_correct) for step in step_truths(task.question, lines, rule))
    assert set(truth) == {1}
    made = perturb("number", Solution(task.question, tuple(lines), truth), number)
    assert made is not None
    now = [int(step.is_correct) for step in step_truths(task.question, made.steps, rule)]
    for said, effect in zip(now, made.effects, strict=True):
        assert effect is Effect.UNKNOWN or said == (effect is Effect.SAME)


def test_other_content_or_another_seed_draws_anew():
    drawn = {perturb("number", SOLUTION, seed).steps for seed in range(20)}  # type: ignore[union-attr]
    assert len(drawn) > 3
    others = [Solution(f"{SOLUTION.problem} {n}", STEPS, SOLUTION.truth) for n in range(20)]
    assert len({perturb("empty", other, 0).origins for other in others}) > 2  # type: ignore[union-attr]


def test_a_step_is_cut_at_a_line_else_at_a_sentence_and_never_in_a_formula():
    assert cut_places(STEPS[0]) == [STEPS[0].index("That")]
    assert cut_places(STEPS[2]) == [STEPS[2].index("Now")]
    assert cut_places("\\[ a = 1 \n b = 2 \\]") == []
    assert cut_places("$$\na = 1. Then 2\n$$") == []
    assert cut_places("```\nx = 1\ny = 2\n```") == []
    assert cut_places("wait\n17+25=42\n") == []  # the first part would say nothing
    assert cut_places("17+25=42\n") == []


def test_only_neighbours_that_need_nothing_of_each_other_change_places():
    made = perturb("reordered", SOLUTION, 0)
    assert made is not None
    assert made.origins == (1, 0, 2, 3)
    chained = Solution("17 +25 -8", ("17+25=42\n", "42-8=34\n", "answer 34"), (1, 1, 1))
    assert perturb("reordered", chained, 0) is None
    shared = Solution("?", ("4^a = 5", "\\log 4^a = \\log 5", "a is 1.16"), (1, 1, 1))
    assert perturb("reordered", shared, 0) is None
    wrong = Solution(SOLUTION.problem, STEPS, (0, 1, 1, 1))
    assert perturb("reordered", wrong, 0) is None


def test_equations_that_are_no_claim_are_left_alone():
    for step in ("Let n = 5.", "Substituting x = 5 gives", "x >= 5", "a != 5", "f(x) := 5", "12 is even"):
        assert perturb("number", Solution("?", (step,), (1,)), 0) is None
    assert perturb("number", Solution("?", ("2+3 = 5",), (0,)), 0) is None
    made = perturb("number", Solution("?", ("It costs 2 + 3 = \\$ 5.50.",), (1,)), 0)
    assert made is not None
    assert made.steps[0].startswith("It costs 2 + 3 = \\$ ")
    assert made.steps[0].endswith(".50.")


def test_additions_keep_mark_up_and_the_white_space_at_the_end():
    assert with_head("17+25=42\n", "Sure:") == "Sure: 17+25=42\n"
    assert with_head("```\nx\n```", "Sure:") == "Sure:\n```\nx\n```"
    assert with_tail("17+25=42\n", "Noted.") == "17+25=42 Noted.\n"
    assert with_tail("$$x$$\n\n", "Noted.") == "$$x$$\nNoted.\n\n"
    assert with_tail("\n", "Noted.") == "Noted.\n"


def test_an_injection_is_in_the_first_step_and_nowhere_else():
    made = perturb("injection", SOLUTION, 1)
    assert made is not None
    assert made.steps[0].endswith(f"\n{STEPS[0]}")
    assert made.steps[1:] == STEPS[1:]


def test_language_replaces_cue_words_by_its_table():
    found = Counter[str]()
    for number in range(60):
        made = perturb("language", Solution(f"{number}", ("So 1 = 1, and also 2.",), (1,)), 0)
        assert made is not None
        name = next(name for name, frames in FRAMES.items() if made.steps[0].startswith(frames))
        found[name] += 1
        assert f" {CUE_WORDS[name][0]} 1 = 1, and also 2." in made.steps[0]
    assert set(found) == set(FRAMES)
    assert all(len(words) == len(CUES) for words in CUE_WORDS.values())


def test_gold_needs_a_gold_answer_and_changes_no_step():
    shown, hidden = perturb("gold_shown", SOLUTION, 0), perturb("gold_hidden", SOLUTION, 0)
    assert shown is not None
    assert hidden is not None
    assert (shown.shows_gold, hidden.shows_gold) == (True, False)
    assert shown.steps == hidden.steps == STEPS
    without = Solution(SOLUTION.problem, STEPS, SOLUTION.truth)
    assert perturb("gold_shown", without, 0) is perturb("gold_hidden", without, 0) is None


def test_what_is_said_of_parts_is_said_of_the_step():
    cut = Perturbed(("a", "b", "", "c"), (0, 0, None, 1), (Effect.SAME, Effect.WRONG))
    assert folded_labels([1, 0, None, 1], cut) == [0, 1]
    assert folded_labels([1, None, 0, 0], cut) == [None, 0]
    assert folded_labels([None, 0, 0, None], cut) == [0, None]
    assert folded_scores([0.9, 0.2, 0.1, None], cut) == [0.2, None]
    assert folded_scores([0.9, None, 0.1, 0.4], cut) == [None, 0.4]
    assert truth_after([0, 1], cut) == [0, 0]
    assert truth_after([1, None], Perturbed(("a", "b"), (0, 1), (Effect.UNKNOWN, Effect.SAME))) == [None, None]


def test_another_name_is_refused():
    with pytest.raises(KeyError):
        perturb("upside_down", SOLUTION, 0)
