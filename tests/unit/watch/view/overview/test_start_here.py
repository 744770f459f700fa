"""watch.view.overview.start_here: the answers a newcomer looks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
        )
        for index in range(number)
    ]


def test_the_sharpest_fall_of_precision_is_named(config: Config):
    worse, dropped, mined = answers_from_rounds(rounds(config, llm=[0.9, 0.88, 0.89], prm=[0.95, 0.9, 0.8]))
    assert worse.text == (
        "Round 3: the precision of prm against truth fell from 90.0 % to 80.0 % of the steps it calls right."
    )
    assert dropped.title == "Why 9 samples were dropped"
    assert dropped.text == "Of 24 samples 9 were dropped. 6 all wrong: All wrong. 3 empty: Empty."
    assert mined.text.startswith("Of the gradient mass of wrong answers, round 1: 12.5 % (50.0 % of tokens); round 2")


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
