"""watch.view.sample: every value of one small sample, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt, VerdictStatus
from bcpg_cluster.watch.view.sample import sample_view
from bcpg_cluster.watch.view.sample_records import ByHand, SampleView
from bcpg_cluster.watch.view.samples import summarise
from bcpg_cluster.watch.view.shard_tables import ShardTables


def view(tables: ShardTables, config: Config, place: int = 0, **options: Any) -> SampleView:
    return sample_view(tables, config, summarise(tables, config).samples[place], **options)


def test_tokens_by_hand(make_tables: Callable[..., ShardTables], config: Config):
    reference = np.array([math.log(0.25), math.log(0.25), 0.0, 0.0, math.log(0.5), 0.0])
    tokens = view(make_tables(), config, reference=reference).tokens
    assert tokens is not None
    assert tokens.p == (0.5, 0.25, 1.0, 1.0, 0.5, 1.0)
    assert tokens.mass == (0.5, 0.75, 0.0, 0.0, 0.5, 0.0)
    assert tokens.weight == (0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
    assert tokens.weight_x_advantage == (0.0, 0.0, -0.5, -0.5, -0.5, -0.5)
    assert tokens.drift == (round(-math.log(2), 5), 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_time_of_a_verdict_is_the_mean_of_its_shard(make_tables: Callable[..., ShardTables], config: Config):
    """Six seconds for four answers; a judge whose shard does not say how many it had is not given a time."""
    judge, other = list(config.judges)[:2]
    said = Receipt(f"verdicts.{judge}", 1, 0, "a", "p", 9, 9, "c", 6.0, {"samples": 4.0})
    receipts = {f"verdicts.{judge}": said, f"verdicts.{other}": replace(said, metrics={})}
    found = view(replace(make_tables(), receipts=receipts), config)
    times = {verdict.judge: verdict.latency_s for step in found.steps for verdict in step.verdicts}
    assert (times[judge], times[other]) == (1.5, None)


def test_what_is_unknown_is_absent_and_not_zero(make_tables: Callable[..., ShardTables], config: Config):
    tables = make_tables()
    early = ShardTables(
        1, 0, tables.prompts, tables.rollouts, tables.lengths, None, None, dict.fromkeys(config.judges), None, {}
    )
    found = view(early, config)
    assert found.tokens is not None
    assert found.tokens.weight == found.tokens.drift == (None,) * 6
    assert (found.status, found.drop, found.reward, found.group_mean, found.steps) == (
        "waiting",
        "waiting",
        None,
        None,
        (),
    )


def test_responses_made_elsewhere_have_no_probabilities(make_tables: Callable[..., ShardTables], config: Config):
    tables = make_tables()
    column = tables.rollouts.column_names.index("sampler_logprobs")
    rows = [{**row, "sampler_logprobs": []} for row in tables.rollouts.to_pylist()]
    rollouts = type(tables.rollouts).from_pylist(rows, schema=tables.rollouts.schema)
    assert rollouts.column_names[column] == "sampler_logprobs"
    found = view(
        ShardTables(
            1, 0, tables.prompts, rollouts, [6, 2], tables.outcomes, tables.steps, tables.verdicts, tables.weighted, {}
        ),
        config,
    )
    assert found.tokens is not None
    assert found.tokens.p == found.tokens.mass == found.tokens.drift == (None,) * 6
    assert any("made elsewhere" in sentence for sentence in found.not_stored)


def test_steps_by_hand(make_tables: Callable[..., ShardTables], config: Config):
    found = view(make_tables(), config, hand={1: ByHand(1, "it is")})
    first, second, last = found.steps
    assert [step.mined for step in found.steps] == [True, False, False]
    assert [step.consensus for step in found.steps] == [1, 0, 0]
    assert [step.is_last for step in found.steps] == [False, False, True]
    assert (first.weight, first.weight_x_advantage) == (0.0, 0.0)
    assert (second.weight, second.weight_x_advantage) == (1.0, -0.5)
    # llm says wrong (0), prm 0.95 is above its threshold of 0.8: 0.95 apart; the last step counts for nothing
    assert [step.dispute for step in found.steps] == [0.0, 0.95, 0.0]
    assert [step.truth for step in found.steps] == [{"truth": 1}, {"truth": 1}, {"truth": 0}]
    assert [step.hand for step in found.steps] == [None, 1, None]
    assert [step.note for step in found.steps] == ["", "it is", ""]
    assert [step.letter for step in found.steps] == ["m", "d", "e"]
    assert last.rule == "The last step states the wrong answer and is never mined."
    said = {verdict.judge: verdict for verdict in second.verdicts}
    assert (said["llm"].label, said["llm"].score, said["llm"].error_type, said["llm"].threshold) == (
        0,
        None,
        "calculation",
        None,
    )
    assert (said["prm"].label, said["prm"].score, said["prm"].threshold) == (1, 0.95, 0.8)


def test_a_missing_verdict_is_not_a_wrong_one(make_tables: Callable[..., ShardTables], config: Config):
    first = view(make_tables(llm=(VerdictStatus.TIMEOUT, 0, 0)), config).steps[0]
    said = first.verdicts[0]
    assert (said.status, said.label, said.score) == ("timeout", None, None)
    assert first.consensus == 0
    assert "gave no verdict (timeout)" in first.rule


def test_the_reason_is_the_judges_own(make_tables: Callable[..., ShardTables], config: Config):
    first = '{"step": 0, "reason": "fine", "error_type": "none", "correct": 1}'
    raw = f'{{"verdicts": [{first}, {{"step": 1, "reason": "\\(x\\) is off"}}]}}'  # half of it is in no format
    steps = view(make_tables(raw=raw), config).steps
    assert [step.verdicts[0].reason for step in steps] == ["fine", "\\(x\\) is off", ""]
    assert steps[0].verdicts[0].raw == raw
    lines = view(make_tables(raw="0 correct none\n1 wrong calculation"), config).steps
    assert [step.verdicts[0].reason for step in lines] == ["", "", ""]


def test_an_llm_judge_that_scores_meets_its_threshold_and_keeps_its_reasons(
    make_tables: Callable[..., ShardTables], config: Config
):
    section = {"kind": "llm", "model": "m", "votes": 2, "temperature": 0.7, "threshold": 0.7}
    content = config.model_dump(mode="json")
    scoring = Config.model_validate(content | {"judges": content["judges"] | {"llm": section}})
    answers = [
        '{"verdicts": [{"step": 0, "reason": "fine", "error_type": "none", "correct": 1}]}',
        "0 correct none",
    ]
    tables = make_tables(llm=(1.0, 0.5, VerdictStatus.UNPARSABLE), raw=json.dumps({"votes": answers}))
    said = [step.verdicts[0] for step in view(tables, scoring).steps]
    assert [(one.label, one.score, one.threshold) for one in said[:2]] == [(1, 1.0, 0.7), (0, 0.5, 0.7)]
    assert [one.reason for one in said] == ["fine", "", ""]  # answers are no notes beside a score
    of_another_kind = view(make_tables(llm=(0.9, 0.5, 0.1), raw="window 0"), config).steps[0].verdicts[0]
    assert of_another_kind.reason == "window 0"


def test_a_failure_gives_its_message_as_reason(make_tables: Callable[..., ShardTables], config: Config):
    tables = make_tables(llm=(VerdictStatus.REFUSED, 1, 0), raw="beyond the context")
    assert view(tables, config).steps[0].verdicts[0].reason == "beyond the context"
    votes = make_tables(llm=(VerdictStatus.TIMEOUT, 1, 0), raw=json.dumps({"votes": ["", "no answer in 120 s"]}))
    assert view(votes, config).steps[0].verdicts[0].reason == "no answer in 120 s"


@pytest.mark.parametrize("field", ["question", "text"])
def test_text_is_what_the_run_holds(make_tables: Callable[..., ShardTables], config: Config, field: str):
    assert "</script><script>alert(1)</script>" in getattr(view(make_tables(), config), field)


def test_a_right_sample_has_no_steps(make_tables: Callable[..., ShardTables], config: Config):
    found = view(make_tables(), config, place=1)
    assert (found.reward, found.advantage, found.group_mean, found.group_size) == (1.0, 0.5, 0.5, 2)
    assert found.steps == ()
    assert found.tokens is not None
    assert found.tokens.weight == (1.0, 1.0)


def test_a_mined_step_of_an_answer_that_is_not_trained_on_says_so(
    make_tables: Callable[..., ShardTables], config: Config
):
    tables = make_tables()
    assert tables.weighted is not None
    found = view(replace(tables, weighted=tables.weighted.slice(1, 1)), config)  # the right answer's row alone
    assert [step.mined for step in found.steps] == [False, False, False]
    assert [step.letter for step in found.steps] == ["m", "d", "e"]  # both voters call the first right
    unused = "It would be mined, but this answer is in no training row of its own, so it changes nothing."
    assert found.steps[0].rule.endswith(unused)
    assert not found.steps[1].rule.endswith(unused)
