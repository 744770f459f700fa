"""stages/judge/llm/verdict_odds.py: P(right) from log-probs, worked by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.generate.protocol import TokenChoice, TopLogprobs
from bcpg_cluster.stages.judge.llm.verdict_odds import ScoredVerdict, scored_verdicts, scores_of


def chosen(drawn: float, floor: float = 1e-9, **others: float) -> TokenChoice:
    """By probabilities; ``_`` in a name stands for a space before the word."""
    named = tuple((text.replace("__", " "), math.log(p)) for text, p in others.items())
    return TokenChoice(math.log(drawn), named, math.log(floor))


def choices(by_index: Mapping[int, TokenChoice]) -> Callable[[int], TokenChoice | None]:
    return by_index.get


def scores(texts: Sequence[str], by_index: Mapping[int, TokenChoice]) -> list[float | None]:
    return [verdict.score for verdict in scored_verdicts(texts, choices(by_index))]


LINES = ["0", " correct", " none", "\n", "1", " wrong", " logic"]
# Right 0.6 + 0.1 in two spellings against 0.2; then right 0.125 against 0.5. "corn" and "wrongly" are neither.
OF_LINES = {
    1: chosen(0.6, __wrong=0.2, correct=0.1, corn=0.05),
    5: chosen(0.5, __correct=0.125, __wrongly=0.3),
}


def test_lines() -> None:
    verdicts = scored_verdicts(LINES, choices(OF_LINES))
    assert [(verdict.label, verdict.step) for verdict in verdicts] == [(1, 0), (0, 1)]
    assert [verdict.score for verdict in verdicts] == pytest.approx([0.7 / 0.9, 0.2])
    assert scores_of(verdicts, [1, 0], 0) == [verdict.score for verdict in verdicts]


def test_tokens_may_hold_more_or_less_than_the_word() -> None:
    # As the embedded judge's tokenizer cuts: one token is verdict and error type.
    assert scores(["0", " ", "correct none"], {2: chosen(0.3, **{"wrong calculation": 0.1, "wrong logic": 0.2})}) == [
        pytest.approx(0.5)
    ]
    # By characters, and with the number in the same token: only what begins alike is compared.
    assert scores(["0", " ", "w", "r", "o", "n", "g", " logic"], {2: chosen(0.9, c=0.1)}) == [pytest.approx(0.1)]
    assert scores(["0 cor", "rect none"], {0: chosen(0.4, **{"0 wr": 0.1, "1 wr": 0.5})}) == [pytest.approx(0.8)]


def entry(error: str, label: int, step: int = 0) -> list[str]:
    return [f'{{"step": {step}, "reason": "r", "error_type": "', error, '", "correct": ', str(label), "}"]


def answer(*entries: list[str]) -> list[str]:
    between = [token for one in entries for token in (*one, ", ")][:-1]
    return ['{"verdicts": [', *between, "]}"]


def test_json_is_decided_at_the_error_type() -> None:
    texts = answer(entry("none", 1), entry("logic", 0, 1))
    by_index = {
        2: chosen(0.8, calculation=0.1, logic=0.05, no=0.02),  # `no` may become `none` and `no_content`: left out
        8: chosen(0.3, none=0.1, calculation=0.2, nonetheless=0.4),
        4: chosen(0.999, **{"0": 0.001}),  # a foregone conclusion, and not read
        10: chosen(0.999, **{"1": 0.001}),
    }
    assert scores(texts, by_index) == pytest.approx([0.8 / 0.95, 0.1 / 0.6])
    # Where the label comes first, it decides.
    first = ['{"verdicts": [{"step": 0, "reason": "", "correct": ', "1", ', "error_type": "', "none", '"}]}']
    assert scores(first, {1: chosen(0.6, **{"0": 0.2}), 3: chosen(0.9, logic=0.05)}) == pytest.approx([0.75])


def test_a_token_that_leaves_it_open_is_followed() -> None:
    texts = ['{"verdicts": [{"step": 0, "reason": "", "error_type": "', "no", "_content", '", "correct": 0}]}']
    # none 0.3 or no 0.5 * ne 0.6, against logic 0.1 and no 0.5 * _content 0.4.
    by_index = {1: chosen(0.5, none=0.3, logic=0.1), 2: chosen(0.4, ne=0.6)}
    assert scores(texts, by_index) == pytest.approx([0.6 / 0.9])
    assert scores(texts, {1: by_index[1]}) == [None]


def test_what_is_not_listed_is_at_its_bound() -> None:
    assert scores(LINES[:3], {1: chosen(0.9, 0.01, __maybe=0.01)}) == pytest.approx([0.9 / 0.91])
    assert scores(["0", " wrong", " logic"], {1: chosen(0.9, 0.01)}) == pytest.approx([0.01 / 0.91])
    # A verdict that a schema forced on a model that wanted to say something else: nothing is known of the other.
    assert scores(LINES[:3], {1: chosen(1e-6, 0.01, __maybe=0.9, __well=0.01)}) == [None]


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_broken_log_probs_are_no_score(logprob: float) -> None:
    assert scores(LINES[:3], {1: TokenChoice(logprob, ((" wrong", -1.0),), -9.0)}) == [None]
    assert scores(LINES[:3], {}) == [None]
    assert scores([" ", "x"], {}) == []


def test_only_the_answer_counts() -> None:
    thought = [r'It says "error_type": "none", "correct": 1 and \"verdicts\"', ".</think>"]
    texts = [*thought, *answer(entry("logic", 0))]
    verdicts = scored_verdicts(texts, choices({4: chosen(0.75, none=0.25)}))
    assert scores_of(verdicts, [0], 0) == [pytest.approx(0.25)]
    # A quotation in a reason is none: its quotes are escaped.
    quoting = answer(
        ['{"step": 0, "reason": "', r"\"correct\": 1, \"verdicts\":", '", "error_type": "', *entry("logic", 0)[1:]]
    )
    assert [verdict.label for verdict in scored_verdicts(quoting, choices({}))] == [0]
    # Lines in thoughts: the last ones are the answer.
    thinks = ["0 correct", " maybe\n", "</think>\n", *LINES]
    verdicts = scored_verdicts(thinks, choices({index + 3: choice for index, choice in OF_LINES.items()}))
    assert scores_of(verdicts, [1, 0], 0) == pytest.approx([0.7 / 0.9, 0.2])


VERDICTS = (ScoredVerdict(1, 0.9, 3), ScoredVerdict(0, 0.2, 4))
IN_JSON = (ScoredVerdict(1, 0.9), ScoredVerdict(0, 0.2))


@pytest.mark.parametrize(
    ("verdicts", "labels", "first"),
    [
        (VERDICTS, [0, 0], 3),  # another label than was read
        (VERDICTS, [1, 0], 2),  # other steps
        (VERDICTS[:1], [1, 0], 3),
        (IN_JSON, [0], 0),  # more entries than were read
        (IN_JSON[:1], [1, 0], 0),
        ((), [1], 0),
    ],
)
def test_verdicts_that_are_not_those_read_have_no_score(
    verdicts: tuple[ScoredVerdict, ...], labels: list[int], first: int
) -> None:
    assert scores_of(verdicts, labels, first) == [None] * len(labels)


PROBABILITIES = st.floats(1e-6, 1.0)


@given(
    st.dictionaries(st.sampled_from(["correct", " wrong", "wrong", " corr", "w", "x", " c", "", "0"]), PROBABILITIES),
    PROBABILITIES,
    PROBABILITIES,
    st.randoms(use_true_random=False),
)
def test_a_score_is_a_probability_whatever_is_listed_in_whatever_order(
    listed: dict[str, float], drawn: float, below: float, rng: random.Random
) -> None:
    floor = below * min([0.5, *listed.values()])
    others = tuple((text, math.log(p)) for text, p in listed.items())
    choice = TokenChoice(math.log(drawn), others, math.log(floor))
    (score,) = scores(LINES[:3], {1: choice})
    assert score is None or 0.0 <= score <= 1.0
    order = list(others)
    rng.shuffle(order)
    (shuffled,) = scores(LINES[:3], {1: TokenChoice(choice.logprob, tuple(order), choice.floor)})
    assert shuffled == (None if score is None else pytest.approx(score))
    # More weight on "wrong" never raises it.
    heavier = TokenChoice(choice.logprob, (*others, (" wro", math.log(0.5))), choice.floor)
    (lower,) = scores(LINES[:3], {1: heavier})
    assert score is None or (lower is not None and lower <= score + 1e-12)


@given(st.text(max_size=40), st.integers(1, 5))
def test_arbitrary_text_never_raises(text: str, size: int) -> None:
    for whole in (
        text,
        f'{{"verdicts": [{text}',
        f'"verdicts""correct": 1,"error_type": "none"{text}',
        f"0 correct {text}",
    ):
        texts = [whole[start : start + size] for start in range(0, len(whole), size)]
        for verdict in scored_verdicts(texts, lambda index: chosen(0.5, 0.1, wrong=0.2)):
            assert verdict.score is None or 0.0 <= verdict.score <= 1.0


def test_the_row_of_an_engine() -> None:
    """vLLM lists the drawn token first, and again where it is among the most probable ones."""
    row = TopLogprobs([0, 3], [7, 7, 8, 5, 6, 7], [-0.1, -0.1, -2.5, -9.0, -0.2, -2.0], lambda token: f"t{token}")
    assert row.at(0) == TokenChoice(-0.1, (("t8", -2.5),), -2.5)
    assert row.at(1) == TokenChoice(-9.0, (("t6", -0.2), ("t7", -2.0)), -2.0)  # the drawn one is below the floor
