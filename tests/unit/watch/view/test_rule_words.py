"""watch.view.rule_words: who decided, in one sentence that agrees with what is mined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import SampleId, Step, Verdict, VerdictStatus
from bcpg_cluster.watch.view.rule_words import Decision, decisions
from bcpg_cluster.watch.view.samples import step_letters

ID = SampleId(1, "p", 0)
LAST = "The last step states the wrong answer and is never mined."


def said(judge: str, *labels: int | float | VerdictStatus) -> list[Verdict]:
    return [
        Verdict(ID, step, judge, "v", value)
        if isinstance(value, VerdictStatus)
        else Verdict(
            ID,
            step,
            judge,
            "v",
            VerdictStatus.JUDGED,
            label=value if isinstance(value, int) else None,
            score=value if isinstance(value, float) else None,
        )
        for step, value in enumerate(labels)
    ]


def voters(make_config: Callable[..., Config], *names: str, **weigh: Any) -> Config:
    """A config with these voters and no other judge."""
    content = make_config().model_dump(mode="json")
    content["judges"] = {name: {"kind": "fake", "threshold": 0.8} for name in names}
    return Config.model_validate({**content, "weigh": weigh})


def test_all_voters_must_call_it_right(make_config: Callable[..., Config]):
    config = voters(make_config, "llm", "prm")
    found = decisions(
        ID,
        5,
        {
            "llm": said("llm", 1, 0, 1, 0, 1),
            "prm": said("prm", 0.9, 0.9, VerdictStatus.TIMEOUT, 0.1, 0.9),
        },
        config,
    )
    rule = "(all voters must call it right)"
    assert found == [
        Decision(1, f"Both voters call it right {rule}.", True),
        Decision(0, f"llm calls it wrong {rule}."),
        Decision(0, f"prm gave no verdict (timeout), which counts against it {rule}."),
        Decision(0, f"llm and prm call it wrong {rule}."),
        Decision(1, LAST),
    ]


def test_a_voter_that_has_not_come_yet_decides_nothing(make_config: Callable[..., Config]):
    config = voters(make_config, "llm", "prm")
    found = decisions(ID, 2, {"llm": said("llm", 1, 1), "prm": None}, config)
    assert found == [Decision(None, "Not decided yet: prm has not judged it."), Decision(None, LAST)]


@pytest.mark.parametrize(
    ("weigh", "labels", "words"),
    [
        ({"rule": "majority"}, (1, 1, 0), "c calls it wrong; a and b call it right (more than half of the voters)"),
        ({"rule": "any"}, (0, 0, 1), "a and b call it wrong; c calls it right (one voter is enough)"),
        ({"rule": "k_of_n", "num_needed": 2}, (1, 1, 1), "All 3 voters call it right (at least 2 of 3 voters)"),
    ],
)
def test_other_rules_name_those_who_call_it_right(
    make_config: Callable[..., Config], weigh: dict[str, Any], labels: tuple[int, ...], words: str
):
    config = voters(make_config, "a", "b", "c", **weigh)
    verdicts = {name: said(name, label, 0) for name, label in zip("abc", labels, strict=True)}
    assert decisions(ID, 2, verdicts, config)[0] == Decision(1, f"{words}.", True)


def test_weighted_votes_give_their_log_odds(make_config: Callable[..., Config]):
    config = voters(make_config, "a", "b", rule="weighted", accuracies={"a": 0.75, "b": 0.5})
    first = decisions(ID, 2, {"a": said("a", 1, 1), "b": said("b", 0, 0)}, config)[0]
    # ln(0.75 / 0.25) = 1.0986; a judge of accuracy 1/2 weighs nothing
    assert first.rule == ("b calls it wrong; a calls it right (weighted: log-odds +1.10, above 0 is mined).")


def test_left_out_judges_are_not_counted(make_config: Callable[..., Config]):
    config = voters(make_config, "a", "b", abstention="left_out")
    first = decisions(ID, 2, {"a": said("a", 1, 1), "b": said("b", VerdictStatus.REFUSED, 1)}, config)[0]
    assert first == Decision(
        1,
        "b gave no verdict (refused), and is left out of the count (all voters must call it right).",
        True,
    )


def test_the_prefix_ends_at_the_first_step_that_is_not_right(make_config: Callable[..., Config]):
    config = voters(make_config, "a", mine="prefix")
    found = decisions(ID, 4, {"a": said("a", 1, 0, 1, 0)}, config)
    assert found[0].rule == "a calls it right (all voters must call it right)."
    assert found[2] == Decision(1, "Right, but after step 1, the first that is not (weigh.mine: prefix).")


def test_a_label_that_was_turned_over_says_so(make_config: Callable[..., Config]):
    config = voters(make_config, "a", flip_rate=1.0)
    found = decisions(ID, 3, {"a": said("a", 1, 0, 0)}, config)
    assert found == [
        Decision(0, "Turned over at random (weigh.flip_rate 1)."),
        Decision(1, "Turned over at random (weigh.flip_rate 1).", True),
        Decision(0, LAST),
    ]


def test_the_last_step_of_an_answer_that_was_cut_off_states_nothing(make_config: Callable[..., Config]):
    config = voters(make_config, "a")
    for verdicts in (said("a", 1, 1), None):
        last = decisions(ID, 2, {"a": verdicts}, config, is_cut_off=True)[-1]
        assert last.rule == "The last step is never mined (the answer was cut off)."


def test_a_voter_that_was_not_asked_is_no_missing_one(make_config: Callable[..., Config]):
    config = voters(make_config, "llm", "prm")
    verdicts = {"llm": said("llm", VerdictStatus.NOT_ASKED, 1), "prm": said("prm", 0.1, 0.9)}
    first = decisions(ID, 2, verdicts, config)[0]
    assert first.rule == (
        "prm calls it wrong; llm was not asked, since that decides it (all voters must call it right)."
    )


@pytest.mark.parametrize(
    ("rule", "prm", "words"),
    [
        (
            "any",
            0.9,
            "prm calls it right; llm was not asked, since that decides it (one voter is enough).",
        ),
        (
            "all",
            VerdictStatus.REFUSED,
            "prm gave no verdict (refused), which counts against it; llm was not asked, since that decides it (all voters must "
            "call it right).",
        ),
    ],
)
def test_what_decided_stands_before_who_was_not_asked_for_it(
    make_config: Callable[..., Config], rule: str, prm: Any, words: str
):
    config = voters(make_config, "llm", "prm", rule=rule)
    verdicts = {"llm": said("llm", VerdictStatus.NOT_ASKED, 1), "prm": said("prm", prm, 0.9)}
    assert decisions(ID, 2, verdicts, config)[0].rule == words


def test_a_response_without_weights_shows_what_the_voters_decide_together(make_config: Callable[..., Config]):
    """A rival in a pair has none. Under ``any`` a later judge is not asked about what the first calls right."""
    config = voters(make_config, "llm", "prm", rule="any")
    verdicts = {"llm": said("llm", VerdictStatus.NOT_ASKED, 0, 1), "prm": said("prm", 0.9, 0.1, 0.9)}
    steps = [Step(step, step + 1, "text") for step in range(3)]
    assert step_letters(steps, verdicts, None, config) == "mxe"
