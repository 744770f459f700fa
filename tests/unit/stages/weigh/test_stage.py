"""stages/weigh/stage.py on one shard of hand-made rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import EngineError, RunDirectoryError, StoreError
from bcpg_cluster.records import (
    ErrorType,
    SampleId,
    Step,
    StopReason,
    Verdict,
    VerdictStatus,
)
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.job import StageResult
from bcpg_cluster.stages.judge.protocol import Judgement
from bcpg_cluster.stages.train.objective import OBJECTIVES, Bcpg, Dpo, Grpo, Kto, Objective, Rft
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.rows import (
    Row,
    rollouts_from,
    step_rows,
    verdict_row,
    weighted_from,
)
from tests.unit.stages.rows import (
    NONSENSE,
    RIGHT,
    RIGHT_STEP,
    SCORED,
    WRONG,
    outcome_rows,
    rollout,
    rollout_rows,
    run_generate,
    run_weigh,
    weighing,
)


def test_generate_refuses_weights_that_nobody_asked_for():
    with pytest.raises(EngineError, match=r"policy version \[3\], expected 2"):
        run_generate(FakeGenerator(policy_version=3), policy_version=2)


WRONG_STEP = Judgement(VerdictStatus.JUDGED, label=0, error_type=ErrorType.LOGIC)


def dropped(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix("dropped."): number for key, number in metrics.items() if key.startswith("dropped.") and number
    }


def test_weigh_by_hand():
    said = {"llm": [RIGHT_STEP, WRONG_STEP, RIGHT_STEP], "prm": [SCORED, SCORED, SCORED]}
    result = run_weigh(weighing(said), voters=["llm", "prm"])
    right, wrong = weighted_from(result.rows)
    assert right.token_weights == (1.0,) * len(right.token_ids)
    assert wrong.token_weights == (0.25,) * 6 + (1.0,) * 15  # the mined step; the last step never is
    assert wrong.mined == (True,) * 6 + (False,) * 15
    assert right.mined == (False,) * len(right.token_ids)
    assert (right.rival, wrong.rival) == (None, None)
    assert (right.advantage, wrong.advantage) == (0.5, -0.5)
    assert (right.group_mean, right.group_size) == (0.5, 2)  # over the verified samples
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    metrics = result.metrics
    assert (metrics["asked"], metrics["kept"], metrics["groups"], metrics["groups_kept"]) == (4, 2, 2, 1)
    assert (metrics["dropped.unverified"], metrics["dropped.all_correct"]) == (1, 1)
    assert metrics["asked"] == metrics["kept"] + sum(v for k, v in metrics.items() if k.startswith("dropped."))
    assert (metrics["tokens.wrong"], metrics["tokens.mined"]) == (21, 6)
    assert (metrics["steps.wrong"], metrics["steps.mined"], metrics["steps.undecided"]) == (3, 1, 0)
    assert (metrics["rows"], metrics["rows.right"], metrics["rows.wrong"]) == (2, 1, 1)
    assert metrics["pair.llm+prm.right.right"] == 1  # of the two steps before the last
    assert metrics["pair.llm+prm.wrong.right"] == 1


def test_thresholds_belong_to_weigh():
    tables = weighing({"llm": [RIGHT_STEP] * 3, "prm": [SCORED] * 3})
    mined = [
        run_weigh(tables, voters=["llm", "prm"], thresholds={"prm": threshold}).metrics["tokens.mined"]
        for threshold in (0.2, 0.25, 0.3)
    ]
    assert mined == [12, 0, 0]  # a score must exceed lambda


ABSTENTIONS = [s for s in VerdictStatus if s not in (VerdictStatus.JUDGED, VerdictStatus.NOT_ASKED)]


@pytest.mark.parametrize("status", ABSTENTIONS)
def test_whoever_abstains_mines_nothing_and_is_counted(status: VerdictStatus):
    said = {"llm": [Judgement(status), RIGHT_STEP, RIGHT_STEP], "prm": [SCORED] * 3}
    result = run_weigh(weighing(said), voters=["llm", "prm"])
    assert weighted_from(result.rows)[1].token_weights == (1.0,) * 6 + (0.25,) * 6 + (1.0,) * 9
    assert result.metrics["steps.undecided"] == 1
    assert result.metrics[f"abstained.llm.{status}"] == 1
    assert result.metrics["pair.llm+prm.none.right"] == 1


def test_a_measure_is_compared_with_and_never_votes():
    said = {"llm": [RIGHT_STEP, RIGHT_STEP, RIGHT_STEP], "truth": [RIGHT_STEP, WRONG_STEP, WRONG_STEP]}
    metrics = run_weigh(weighing(said), measures=["truth"]).metrics
    assert metrics["tokens.mined"] == 12
    for name in ("llm", "consensus"):
        assert metrics[f"quality.{name}.truth.right.right.tokens"] == 6
        assert metrics[f"quality.{name}.truth.wrong.right.tokens"] == 6
        assert metrics[f"quality.{name}.truth.wrong.right.steps"] == 1


def test_a_response_that_was_cut_off_has_no_end_token_to_spare():
    said = {"llm": [RIGHT_STEP, RIGHT_STEP, RIGHT_STEP]}
    tables = weighing(said, StopReason.LENGTH)
    assert weighted_from(run_weigh(tables).rows)[1].token_weights == (0.25,) * 12 + (1.0,) * 8


@pytest.mark.parametrize("number", [0, 2, 4])
def test_verdicts_that_do_not_fit_the_steps_are_an_error(number: int):
    with pytest.raises(StoreError, match=f"has 3 steps and {number} verdicts"):
        run_weigh(weighing({"llm": [RIGHT_STEP] * number}))


def test_beta_one_is_plain_bcpg():
    result = run_weigh(weighing({"llm": [RIGHT_STEP] * 3}), beta=1.0)
    assert {w for row in weighted_from(result.rows) for w in row.token_weights} == {1.0}
    assert result.metrics["tokens.mined"] == 12  # still counted, and marked
    assert sum(weighted_from(result.rows)[1].mined) == 12


def test_a_majority_of_three_outvotes_one():
    said = {
        "llm": [RIGHT_STEP, RIGHT_STEP, RIGHT_STEP], "prm": [SCORED] * 3, "third": [WRONG_STEP, NONSENSE, RIGHT_STEP],
    }  # fmt: skip
    voters = ["llm", "prm", "third"]
    assert run_weigh(weighing(said), voters=voters).metrics["tokens.mined"] == 0
    assert run_weigh(weighing(said), voters=voters, rule="majority").metrics["tokens.mined"] == 12


def test_flips_turn_what_is_mined_and_not_what_judges_said():
    said = {"llm": [RIGHT_STEP, RIGHT_STEP, RIGHT_STEP], "truth": [RIGHT_STEP, WRONG_STEP, WRONG_STEP]}
    plain = run_weigh(weighing(said), measures=["truth"])
    turned = run_weigh(weighing(said), measures=["truth"], flip_rate=1.0)
    assert weighted_from(plain.rows)[1].mined == (True,) * 12 + (False,) * 9
    assert not any(weighted_from(turned.rows)[1].mined)  # the last step is not turned into a mined one either
    for result, consensus in ((plain, "right"), (turned, "wrong")):
        for truth in ("right", "wrong"):
            assert result.metrics[f"quality.llm.truth.{truth}.right.tokens"] == 6
            assert result.metrics[f"quality.consensus.truth.{truth}.{consensus}.tokens"] == 6
    assert [result.metrics["steps.mined"] for result in (plain, turned)] == [2, 0]
    assert plain.metrics == run_weigh(weighing(said), measures=["truth"], flip_rate=0.0, seed=99).metrics


def with_probabilities(tables: dict[str, list[Row]], *of_wrong: float) -> dict[str, list[Row]]:
    """The tables, with these probabilities for the wrong response's tokens, and 1/2 for all tokens of the others."""
    wrong = SampleId(1, "a", 1)
    rollouts = [
        replace(r, sampler_logprobs=tuple(map(math.log, of_wrong if r.id == wrong else [0.5] * len(r.token_ids))))
        for r in rollouts_from(tables["rollouts"])
    ]
    return tables | {"rollouts": rollout_rows(*rollouts)}


def test_gradient_mass_by_hand():
    said = {"llm": [RIGHT_STEP, WRONG_STEP, RIGHT_STEP], "truth": [RIGHT_STEP, RIGHT_STEP, WRONG_STEP]}
    # step 0: 1 - p = 0.75, 0.2, and four of 0.05; step 1: six of 0.5; the answer and the end token: nine of 0.25
    tables = with_probabilities(weighing(said), 0.25, 0.8, *[0.95] * 4, *[0.5] * 6, *[0.75] * 9)
    metrics = run_weigh(tables, measures=["truth"]).metrics
    counts = WeighCounts.read(metrics)
    assert metrics["mass.mined"] == pytest.approx(0.95 + 0.2)
    assert metrics["mass.wrong"] == pytest.approx(1.15 + 3.0 + 2.25)
    assert counts.mined_gradient_share == pytest.approx(1.15 / 6.4)
    assert counts.uncertain_right_share == pytest.approx(2 / 6)
    assert counts.right_steps["truth"].uncertain_share == pytest.approx(8 / 12)
    assert [counts.right_steps[by].prefix_share for by in ("consensus", "truth")] == pytest.approx([6 / 21, 12 / 21])
    assert set(counts.right_steps) == {"consensus", "truth"}
    assert counts.right_steps["consensus"].answers_share == 1.0
    both = WeighCounts.read(total_of(metrics, metrics))  # additive over shards
    assert both.mined_gradient_share == counts.mined_gradient_share
    assert both.right_steps["consensus"].answers == 2


def total_of(*metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: sum(of_shard[name] for of_shard in metrics) for name in metrics[0]}


def test_nothing_is_said_of_gradient_mass_without_log_probs():
    tables = weighing({"llm": [RIGHT_STEP, WRONG_STEP, RIGHT_STEP]})
    imported = [replace(r, sampler_logprobs=()) for r in rollouts_from(tables["rollouts"])]
    counts = WeighCounts.read(run_weigh(tables | {"rollouts": rollout_rows(*imported)}).metrics)
    assert (counts.mined_gradient_share, counts.uncertain_right_share) == (None, None)
    assert counts.mined_share is not None and counts.right_steps["consensus"].prefix_share == pytest.approx(6 / 21)


RULES = ["all", "any", "majority", ConsensusRule("k_of_n", num_needed=2), ConsensusRule("all", abstention="left_out"),
         ConsensusRule("weighted", accuracies={"llm": 0.9, "prm": 0.8, "third": 0.6})]  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([RIGHT_STEP, WRONG_STEP, NONSENSE])] * 3), min_size=3, max_size=3),
    st.sampled_from(RULES),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_prefix_mining_under_every_rule_and_with_flips(votes: list[Any], rule: Any, flip_rate: float):
    names = ["llm", "prm", "third"]
    tables = weighing({name: [of_step[k] for of_step in votes] for k, name in enumerate(names)})
    result = {
        mine: run_weigh(tables, voters=names, rule=rule, flip_rate=flip_rate, mine=mine)
        for mine in ("consensus", "prefix")
    }
    mined = {mine: weighted_from(of_mine.rows)[1].mined for mine, of_mine in result.items()}
    first, second = mined["consensus"][0], mined["consensus"][6]
    assert mined["prefix"] == (first,) * 6 + (first and second,) * 6 + (False,) * 9
    by_consensus, by_prefix = (result[mine].metrics for mine in ("consensus", "prefix"))
    differing = {name for name in by_consensus if by_consensus[name] != by_prefix[name]}
    assert differing <= {"tokens.mined", "steps.mined", "mass.mined"}  # what judges said does not change


def test_flips_differ_by_sample_round_and_seed():
    def mined(seed: int, round_: int = 1) -> list[tuple[bool, ...]]:
        rows = weighted_from(run_weigh(in_round(many_groups(), round_), flip_rate=0.5, seed=seed).rows)
        return [row.mined for row in rows if row.reward == 0.0]

    assert mined(1) == mined(1) != mined(2)
    assert mined(1, round_=2) != mined(1)
    assert len(set(mined(1))) == 4  # two steps each: all four ways come up
    by_prompt = [set(mined(1)[start : start + 3]) for start in range(0, 36, 3)]
    assert max(map(len, by_prompt)) > 1 and len(set(map(frozenset, by_prompt))) > 1


@pytest.mark.parametrize(
    ("policy", "advantages", "group", "account"),
    [
        ("negative", [1 / 3, 1 / 3, -2 / 3], (2 / 3, 3), {}),
        ("mask", [1 / 3, 1 / 3], (2 / 3, 3), {"truncated": 1}),
        ("drop", [], None, {"truncated": 1, "all_correct": 2}),
    ],
)
def test_truncated_responses(policy: str, advantages: list[float], group: Any, account: dict[str, int]):
    tables = shard({"a": "rrw"}, cut_off={("a", 2)})
    result = run_weigh(tables, truncated=policy)
    rows = weighted_from(result.rows)
    assert [row.advantage for row in rows] == [pytest.approx(advantage) for advantage in advantages]
    assert {(row.group_mean, row.group_size) for row in rows} == ({group} if group else set())
    assert dropped(result.metrics) == account
    assert result.metrics["kept"] == len(advantages)
    assert result.metrics.get("tokens.wrong", 0) == (0 if account else 20)


def shard(groups: dict[str, str], cut_off: Collection[tuple[str, int]] = ()) -> dict[str, list[Row]]:
    """A shard of groups spelt out: r a right, w a wrong, n a response without reward. The judge calls all steps right."""
    rollouts, rewards, steps, verdicts = [], {}, [], []
    for prompt, kinds in groups.items():
        for sample, kind in enumerate(kinds):
            stop = StopReason.LENGTH if (prompt, sample) in cut_off else StopReason.STOP
            one = rollout(prompt, sample, RIGHT if kind == "r" else WRONG, stop)
            rollouts.append(one)
            rewards[prompt, sample] = {"r": 1.0, "w": 0.0, "n": None}[kind]
            if kind == "w":
                steps += step_rows(one.id, [Step(0, 6, ""), Step(6, 12, ""), Step(12, len(one.token_ids), "")])
                verdicts += [verdict_row(Verdict(one.id, k, "llm", "v", VerdictStatus.JUDGED, 1)) for k in range(3)]
    return {
        "rollouts": rollout_rows(*rollouts), "outcomes": outcome_rows(rewards), "steps": steps, "verdicts.llm": verdicts,
    }  # fmt: skip


def many_groups() -> dict[str, list[Row]]:
    return shard({f"p{n}": "rwww" for n in range(12)})


def in_round(tables: dict[str, list[Row]], round_: int) -> dict[str, list[Row]]:
    return {name: [{**row, "round": round_} for row in rows] for name, rows in tables.items()}


def layout(result: StageResult) -> list[tuple[str, str | None]]:
    """Each row's own sample and its rival's, as ``a0``."""
    return [
        (
            f"{row.id.prompt_id}{row.id.sample}",
            None if row.rival is None else f"{row.rival.id.prompt_id}{row.rival.id.sample}",
        )
        for row in weighted_from(result.rows)
    ]


KINDS = {"a": "rwwn", "b": "rr", "c": "rrw"}  # b is all right; a3 has no reward


@pytest.mark.parametrize(
    ("objective", "rows", "kept", "account"),
    [
        (Bcpg(), ["a0", "a1", "a2", "c0", "c1", "c2"], 6, {}),
        (Grpo(), ["a0", "a1", "a2", "c0", "c1", "c2"], 6, {}),
        (Rft(), ["a0", "c0", "c1"], 3, {"not_trained_on": 3}),
        (Rft(on="wrong"), ["a1", "a2", "c2"], 3, {"not_trained_on": 3}),
        (Rft(on="all"), ["a0", "a1", "a2", "c0", "c1", "c2"], 6, {}),
    ],
)
def test_rows_without_rivals_by_hand(objective: Objective, rows: list[str], kept: int, account: dict[str, int]):
    result = run_weigh(shard(KINDS), objective=objective)
    assert layout(result) == [(row, None) for row in rows]
    assert dropped(result.metrics) == {"unverified": 1, "all_correct": 2, **account}
    assert (result.metrics["kept"], result.metrics["rows"]) == (kept, kept)
    rewards = [row.reward for row in weighted_from(result.rows)]
    assert (result.metrics["rows.right"], result.metrics["rows.wrong"]) == (rewards.count(1.0), rewards.count(0.0))


def test_rows_that_are_pairs_by_hand():
    result = run_weigh(shard(KINDS), objective=Dpo(pairing="all_sampled", max_pairs=4))
    assert layout(result) == [("a0", "a1"), ("a0", "a2"), ("c0", "c2"), ("c1", "c2")]
    assert dropped(result.metrics) == {"unverified": 1, "all_correct": 2}
    assert [result.metrics[key] for key in ("kept", "rows", "rows.right", "rows.wrong")] == [6, 4, 4, 0]
    for row in weighted_from(result.rows):
        assert row.rival is not None
        wrong = rollout(row.rival.id.prompt_id, row.rival.id.sample, WRONG)
        assert row.rival.token_ids == wrong.token_ids
        assert (row.reward, set(row.token_weights), any(row.mined)) == (1.0, {1.0}, False)


def test_pairs_one_to_one_leave_the_rest_unpaired():
    result = run_weigh(shard(KINDS), objective=Dpo())
    (first, rival), (second, other) = layout(result)
    assert (first, other) == ("a0", "c2")
    assert rival in ("a1", "a2") and second in ("c0", "c1")
    assert dropped(result.metrics) == {"unverified": 1, "all_correct": 2, "unpaired": 2}
    assert [result.metrics[key] for key in ("kept", "rows", "rows.right", "rows.wrong")] == [4, 2, 2, 0]


def test_pairs_differ_by_prompt_round_and_seed_and_are_the_same_again():
    def pairs(seed: int, round_: int = 1) -> list[tuple[str, str | None]]:
        return layout(run_weigh(in_round(many_groups(), round_), objective=Dpo(), seed=seed))

    assert pairs(1) == pairs(1) != pairs(2)
    assert pairs(1, round_=2) != pairs(1)
    assert {rival[-1] for _, rival in pairs(1) if rival} == {"1", "2", "3"}


@pytest.mark.parametrize("pairing", ["one_to_one", "all_sampled"])
def test_a_prompt_has_no_more_pairs_than_allowed(pairing: Any):
    result = run_weigh(shard({"a": "rrrwww", "c": "rw"}), objective=Dpo(pairing=pairing, max_pairs=2))
    assert [own[0] for own, _ in layout(result)] == ["a", "a", "c"]


def test_masked_responses_are_in_no_pair():
    result = run_weigh(shard({"a": "rw", "c": "rw"}, cut_off={("a", 1)}), truncated="mask", objective=Dpo())
    assert layout(result) == [("c0", "c1")]
    assert dropped(result.metrics) == {"truncated": 1, "unpaired": 1}


def test_mismatched_rows_by_hand():
    result = run_weigh(shard(KINDS), objective=Kto())
    assert layout(result) == [("a0", "c0"), ("a1", "c1"), ("a2", "c2"), ("c0", "a0"), ("c1", "a1"), ("c2", "a2")]
    assert dropped(result.metrics) == {"unverified": 1, "all_correct": 2}
    assert [result.metrics[key] for key in ("kept", "rows", "rows.right", "rows.wrong")] == [6, 6, 3, 3]
    alone = run_weigh(shard({"a": "rw", "b": "rr"}), objective=Kto())
    assert layout(alone) == [("a0", None), ("a1", None)]


OBJECTIVE = st.sampled_from(
    [*(kind() for kind in OBJECTIVES.values()), Rft(on="wrong"), Dpo(pairing="all_sampled"), Dpo(max_pairs=1)]
)


OF_ROWS = ("asked", "kept", "rows", "rows.right", "rows.wrong", "dropped.not_trained_on", "dropped.unpaired")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("rwn", max_size=6), max_size=4), st.data(), OBJECTIVE, st.sampled_from(["negative", "mask", "drop"]),
    st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_every_sample_is_accounted_for_whatever_the_objective(
    kinds: list[str], data: st.DataObject, objective: Objective, policy: str, flip_rate: float
):
    ids = [(f"p{n}", sample) for n, group in enumerate(kinds) for sample in range(len(group))]
    cut_off = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    tables = shard({f"p{n}": group for n, group in enumerate(kinds)}, cut_off)
    result = run_weigh(tables, objective=objective, truncated=policy, flip_rate=flip_rate)
    metrics, rows = result.metrics, weighted_from(result.rows)
    assert metrics["asked"] == len(ids) == metrics["kept"] + sum(dropped(metrics).values())
    assert metrics["kept"] == len({id_ for row in rows for id_ in row.key if id_ is not None})
    assert (
        metrics["rows"] == len(rows) == len({row.key for row in rows}) == metrics["rows.right"] + metrics["rows.wrong"]
    )
    assert metrics["rows.right"] == sum(row.reward == 1.0 for row in rows)
    for row in rows:
        assert len(row.mined) == len(row.token_weights) == len(row.token_ids)
        assert row.token_weights == tuple(0.25 if mined else 1.0 for mined in row.mined)
        assert row.reward == 0.0 or not any(row.mined)
        assert policy == "negative" or not {(i.prompt_id, i.sample) for i in row.key if i} & cut_off
        if objective.rows == "pairs":
            assert row.reward == 1.0 and row.rival and row.rival.id.prompt_id == row.id.prompt_id
        elif objective.rows == "mismatched":
            assert (row.rival is None) == (len({r.id.prompt_id for r in rows}) == 1)
            assert row.rival is None or row.rival.id.prompt_id != row.id.prompt_id
        else:
            assert row.rival is None
    # what is counted of judges and mined tokens does not depend on the objective
    plain = run_weigh(tables, objective=Bcpg(), truncated=policy, flip_rate=flip_rate).metrics
    assert {k: v for k, v in metrics.items() if k not in OF_ROWS} == {
        k: v for k, v in plain.items() if k not in OF_ROWS
    }


NOT_ASKED = Judgement(VerdictStatus.NOT_ASKED)
LOW = Judgement(VerdictStatus.JUDGED, score=0.1)  # below the 0.2 of these settings


def test_a_step_that_was_not_asked_about_is_no_abstention_and_says_nothing_of_the_judge():
    said = {
        "llm": [RIGHT_STEP, NOT_ASKED, NOT_ASKED],
        "prm": [SCORED, LOW, SCORED],
        "truth": [RIGHT_STEP, RIGHT_STEP, WRONG_STEP],
    }
    result = run_weigh(weighing(said), voters=["llm", "prm"], measures=["truth"])
    asked = run_weigh(weighing({**said, "llm": [RIGHT_STEP] * 3}), voters=["llm", "prm"], measures=["truth"])
    assert result.rows == asked.rows
    metrics = result.metrics
    assert metrics["steps.undecided"] == 0 and not any(key.startswith("abstained.") for key in metrics)
    assert {key: number for key, number in metrics.items() if key.startswith("pair.")} == {
        "pair.llm+prm.right.right": 1
    }
    llm = {key: number for key, number in metrics.items() if key.startswith("quality.llm") and key.endswith("steps")}
    assert llm == {"quality.llm.truth.right.right.steps": 1}
    assert metrics["quality.prm.truth.right.wrong.steps"] == 1  # it was asked about the second step too


def test_verdicts_that_a_changed_threshold_needs_stop_the_weighing_with_the_remedy():
    said = {"llm": [RIGHT_STEP, NOT_ASKED, NOT_ASKED], "prm": [SCORED, LOW, SCORED]}
    with pytest.raises(RunDirectoryError, match="llm was not asked about step 1") as caught:
        run_weigh(weighing(said), voters=["llm", "prm"], thresholds={"prm": 0.05})
    assert "stage judge.llm --round 1" in caught.value.remedy
    with pytest.raises(RunDirectoryError, match="llm was not asked about step 1"):  # nor is it a truth to measure by
        run_weigh(weighing(said), voters=["prm"], measures=["llm"])
