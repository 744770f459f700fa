"""prompts/other_steps.py: the truth of labelled steps carried over to other steps of the same text, by hand and by definition."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.prompts.labelled_steps import LabelledSolution
from bcpg_cluster.prompts.other_steps import carried_truth, recut, solution_text
from bcpg_cluster.prompts.step_truth import first_error
from bcpg_cluster.records import Step


def labelled(*steps: str, truth: tuple[int | None, ...]) -> LabelledSolution:
    return LabelledSolution("s", "p", steps, truth, first_error(truth), "7", {"neutral": 1})


def cut(text: str, *pieces: str) -> list[Step]:
    """Steps of these texts, a word a token."""
    assert "".join(pieces) == text
    ends = list(accumulate(len(piece.split()) for piece in pieces))
    return [Step(start, end, piece) for (start, end), piece in zip(pairwise([0, *ends]), pieces, strict=True)]


def test_a_blank_line_stands_where_no_white_space_does():
    assert solution_text(["a", "b\n", "c", " d", ""]) == ("a\n\nb\nc d\n\n", [0, 3, 5, 6, 10])
    assert solution_text(["a"]) == ("a", [0])


def test_the_truth_is_carried_over():
    solution = labelled("one two", "three", "four", "five", truth=(1, 0, None, 1))
    text = solution_text(solution.steps)[0]
    assert text == "one two\n\nthree\n\nfour\n\nfive"
    new = recut(solution, cut(text, "one ", "two\n\nthr", "ee\n\n", "four\n", "\nfive"))
    assert new.solution.truth == (1, 0, 0, None, 1)  # white space alone belongs to no label
    assert new.solution.first_wrong == 1
    assert new.solution.steps == ("one ", "two\n\nthr", "ee\n\n", "four\n", "\nfive")
    assert new.num_tokens == (1, 2, 1, 1, 1)
    assert (new.solution.gold, new.solution.unknown_by_reason, new.is_recomputed) == ("7", {}, False)
    whole = recut(solution, cut(text, text))
    assert whole.solution.truth == (0,)
    right_and_unknown = labelled("a", "b", truth=(1, None))
    assert recut(right_and_unknown, cut("a\n\nb", "a\n\nb")).solution.truth == (None,)
    assert recut(right_and_unknown, cut("a\n\nb", "a\n\nb")).solution.first_wrong is None


def test_a_task_that_knows_is_asked_where_every_step_begins_a_line():
    solution = labelled("1+1=2", "2+1=4", truth=(1, 0))
    text = "1+1=2\n\n2+1=4"
    asked = []

    def known(of: LabelledSolution) -> list[int] | None:
        asked.append(of.steps)
        return [1] * len(of.steps) if len(of.steps) == 1 else None

    new = recut(solution, cut(text, text), known)
    assert (new.solution.truth, new.is_recomputed, new.solution.first_wrong) == ((1,), True, -1)
    assert recut(solution, cut(text, "1+1=2\n\n", "2+1=4"), known).solution.truth == (1, 0)
    assert recut(solution, cut(text, "1+1", "=2\n\n2+1=4"), known).solution.truth == (1, 0)
    assert asked == [(text,), ("1+1=2\n\n", "2+1=4")]  # not where a line was torn


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b c", " ", "d\n\n", "\u6c49"]), st.sampled_from([1, 0, None])),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_it_is_the_rule(pairs: list[tuple[str, int | None]], data: st.DataObject):
    text, begins = solution_text([step for step, _ in pairs])
    truth = [label for _, label in pairs]
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=8)) - {len(text)}), len(text)]
    of = [max(k for k, begin in enumerate(begins) if begin <= at) for at in range(len(text))]
    for (start, end), said in zip(pairwise(edges), carried_truth(text, begins, truth, edges), strict=True):
        labels = {truth[of[at]] for at in range(start, end) if not text[at].isspace()}
        assert said == (0 if 0 in labels else 1 if labels == {1} else None)


@given(st.lists(st.sampled_from(["a", "b c\n", "d"]), min_size=1, max_size=6))
def test_the_labelled_steps_themselves_keep_their_truth(steps: list[str]):
    truth = tuple(k % 2 for k in range(len(steps)))
    text, begins = solution_text(steps)
    assert carried_truth(text, begins, truth, [*begins, len(text)]) == list(truth)
