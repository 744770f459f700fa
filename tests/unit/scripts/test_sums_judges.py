"""What the sums judges are taught about terms: which are taken a second time, and which tokens say so."""

import torch

from bcpg_cluster.assets.sums.task import parse_question, step_truths
from scripts.sums.make_judges import IGNORE, Response, TermArithmetic, mistake_of, prm_tokenizer, standings

QUESTION = "17 +25 -8 +46"


def standing_of(steps: str) -> list[str]:
    """How the term of each step stands; ``-`` where a step takes none."""
    places = standings(parse_question(QUESTION), [step.replace("/", "\n") + "\n" for step in steps.split("|")])
    return ["-" if place == IGNORE else ("left", "taken", "foreign")[place] for place in places]


def test_a_term_is_taken_once() -> None:
    assert standing_of("17+25=42|check 42-25=17|42+25=67|67+24=91|answer 91") == ["left", "-", "taken", "foreign", "-"]


def test_wait_gives_the_doubted_term_back() -> None:
    assert standing_of("17+25=32|wait/17+25=42|42+25=67") == ["left", "left", "taken"]
    assert standing_of("17+25=32|32-8=24|wait/32-8=24|24-8=16|wait/24+25=49") == [
        "left",
        "left",
        "left",
        "taken",
        "taken",
    ]


def test_mistakes_have_names() -> None:
    steps = ("17+25=42", "42+25=67", "67+24=91", "90-8=82", "82+46=18", "wait\n82+46=28")
    truths = tuple(step_truths(QUESTION, steps, "local"))
    response = Response(parse_question(QUESTION), steps, truths, truths)
    names = [mistake_of(response, k, truth) for k, truth in enumerate(truths) if not truth.is_correct]
    assert names == ["repeated term", "foreign term", "wrong start", "wrong result"]


def test_a_term_is_one_token_and_another_in_the_question() -> None:
    tokenizer = prm_tokenizer()
    words = tokenizer.convert_ids_to_tokens(tokenizer.encode("17 +25 -8\n17+25=42\n42-8=35", add_special_tokens=False))
    assert words == ["17", " +25", " -8", "Ċ", "17", "+25", "=", "42", "Ċ", "42", "-8", "=", "35"]


def test_results_are_asked_at_the_equals_sign_and_judged_after_the_line() -> None:
    tokenizer = prm_tokenizer()
    ids = tokenizer.encode("17+25=42\n42-8=35\n", add_special_tokens=False)
    result, is_right = TermArithmetic.of(tokenizer).targets(torch.tensor([ids]))
    assert result[0].tolist() == [IGNORE, IGNORE, 42, IGNORE, IGNORE, IGNORE, IGNORE, 34, IGNORE, IGNORE]
    assert is_right[0].tolist() == [*[IGNORE] * 4, 1, *[IGNORE] * 4, 0]
