"""watch.view.overview.start_here: the answers a newcomer looks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.watch.view.overview.records import Dropped, JudgeRound, Round
from bcpg_cluster.watch.view.overview.rounds import round_of
from bcpg_cluster.watch.view.overview.start_here import answer_from_sample, answers_from_rounds, candidates
from bcpg_cluster.watch.view.sample import sample_view
from bcpg_cluster.watch.view.samples import summarise
from bcpg_cluster.watch.view.shard_tables import ShardTables


def rounds(config: Config, **precisions: list[float]) -> list[Round]:
    number = len(next(iter(precisions.values())))
    return [
        replace(
            round_of(index + 1, None, "done", [], config),
            judges=tuple(JudgeRound(j, "truth", of[index], 0.5, None, 9, 9, {}) for j, of in precisions.items()),
            asked=8,
            kept=5,
            dropped=(Dropped("all_wrong", 2, "All wrong."), Dropped("empty", 1, "Empty.")),
            mined_gradient_share=0.125,
            mined_token_share=0.5,
            mined_weight=0.0,
        )
        for index in range(number)
    ]


def test_the_sharpest_fall_of_precision_is_named(config: Config):
    worse, dropped, mined = answers_from_rounds(rounds(config, llm=[0.9, 0.88, 0.89], prm=[0.95, 0.9, 0.8]))
    assert worse.text == (
        "Round 3: the precision of prm against truth fell from 90.0 % to 80.0 % of the steps it calls right. "
        "prm fell in round 2; llm in round 2, too."
    )
    assert dropped.title == "Why 9 samples were dropped"
    assert dropped.text == "Of 24 samples 9 were dropped. 6 all wrong: All wrong. 3 empty: Empty."
    assert mined.title == "What share of the gradient mined tokens hold"
    assert mined.text == (
        "Of the gradient mass (1 − p) of wrong answers, 12.5 % lies on mined tokens in round 1 (50.0 % of tokens), 12.5 % in "
        "round 2 (50.0 % of tokens), 12.5 % in round 3 (50.0 % of tokens): at beta 0 they are spared all of it."
    )


def test_other_falls_of_one_judge_are_named_together(config: Config):
    (worse, *_) = answers_from_rounds(rounds(config, consensus=[0.9, 0.8, 0.7], prm=[0.95, 0.65, 0.6]))
    assert worse.text.endswith("it calls right. The consensus fell in rounds 2 and 3; prm in round 3, too.")


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (0.5, "at beta 0.5 it is weighted by 0.5."),
        (1.0, "at beta 1 all of it counts."),
        (-0.5, "at beta -0.5 it is weighted by -0.5, a reward."),
        (None, "the objective takes no token weights, so this is only counted."),
    ],
)
def test_what_becomes_of_mined_gradient_follows_beta(config: Config, weight: float | None, words: str):
    weighed = [replace(of, mined_weight=weight) for of in rounds(config, llm=[0.9])]
    assert answers_from_rounds(weighed)[-1].text.endswith(f"(50.0 % of tokens): {words}")


def test_a_run_without_a_judge_that_measures_says_so(config: Config):
    (of,) = rounds(config, llm=[0.9])
    unmeasured = replace(of, judges=(JudgeRound("llm", None, None, None, None, 0, 9, {}),))
    assert "No judge is measured in this run" in answers_from_rounds([unmeasured])[0].text


def test_nothing_is_said_of_dropped_samples_where_none_were(config: Config):
    (of,) = rounds(config, llm=[0.9])
    titles = [answer.title for answer in answers_from_rounds([replace(of, dropped=())])]
    assert not [title for title in titles if "dropped" in title]


def test_no_fall_and_no_rounds_say_so(config: Config):
    assert "No judge got worse" in answers_from_rounds(rounds(config, llm=[0.9, 0.897]))[0].text
    assert "no two rounds" in answers_from_rounds(rounds(config, llm=[0.9]))[0].text
    assert [answer.link for answer in answers_from_rounds([])] == ["#/?at=judges"]


def test_samples_answer_with_a_link_to_the_step(make_tables: Callable[..., ShardTables], config: Config):
    tables = make_tables(truth=(0, 1, 0))
    best = candidates(summarise(tables, config).samples)
    assert {key: line.sample for key, line in best.items()} == {"spared": 0, "disputed": 0, "mistaken": 0}
    found: dict[str, Any] = {
        key: answer_from_sample(key, sample_view(tables, config, line)) for key, line in best.items()
    }
    assert {key: answer.link for key, answer in found.items()} == {
        "spared": "#/sample/1/p/0/step/0",
        "disputed": "#/sample/1/p/0/step/1",
        "mistaken": "#/sample/1/p/0/step/0",
    }
    assert found["disputed"].text == "Round 1, p, sample 0, step 1: llm calls it wrong, prm calls it right (0.95)."


def test_a_shard_without_such_samples_has_no_candidates(make_tables: Callable[..., ShardTables], config: Config):
    agreeing = make_tables(llm=(1, 0, 0), prm=(0.9, 0.1, 0.1))
    assert set(candidates(summarise(agreeing, config).samples)) == {"spared"}
