"""stages/*: each stage on hand-made rows. What goes in comes out, or is accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.engines.fake import FakeGenerator, FakeJudge, Faults, encode
from bcpg_cluster.engines.protocols import JudgeCase, Judgement, Sampling
from bcpg_cluster.errors import EngineError, StoreError
from bcpg_cluster.method.segment import StepRules
from bcpg_cluster.records import (
    GREEDY_SAMPLE,
    ErrorType,
    Outcome,
    OutcomeStatus,
    Prompt,
    Rollout,
    SampleId,
    Step,
    StopReason,
    Verdict,
    VerdictStatus,
)
from bcpg_cluster.rewards.exact import ExactVerifier
from bcpg_cluster.stages.generate import generate, request_seed
from bcpg_cluster.stages.graph import data_stages, downstream, evaluation_stages
from bcpg_cluster.stages.job import StageJob, StageResult, StageWorker
from bcpg_cluster.stages.judge import judge
from bcpg_cluster.stages.segment import segment
from bcpg_cluster.stages.verify import verify
from bcpg_cluster.stages.weigh import weigh
from bcpg_cluster.store.schema import (
    Row,
    outcome_row,
    outcomes_from,
    prompt_row,
    rollout_row,
    rollouts_from,
    step_rows,
    steps_from,
    verdict_row,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_shard, write_shard

SHARE = 0.5


def job(stage: str = "x", output: str = "x", **parameters: Any) -> StageJob:
    return StageJob(stage, output, 1, 0, "att", {}, parameters)


def rollout(prompt: str, sample: int, text: str, stop: StopReason = StopReason.STOP) -> Rollout:
    ids = (*encode(text), *((0,) if stop is StopReason.STOP else ()))
    texts = (*text, *(("",) if stop is StopReason.STOP else ()))
    return Rollout(SampleId(1, prompt, sample), (1, 2), ids, (-0.5,) * len(ids), texts, stop, 0, 7)


def rollout_rows(*rollouts: Rollout) -> list[Row]:
    return [rollout_row(one) for one in rollouts]


# --- generate


PROMPTS = [Prompt("a", "1 +1 +1", "3"), Prompt("b", "2 *2 +5", "9")]


def run_generate(engine: FakeGenerator, **changed: Any) -> StageResult:
    settings = {
        "engine": engine, "group_size": 3, "sampling": Sampling(50), "run_seed": 5, "seed_per_request": True, **changed,
    }  # fmt: skip
    version = settings.pop("policy_version", 0)
    table = settings.get("prompts_table", "prompts")
    output = settings.pop("output", "rollouts")
    return generate({table: list(map(prompt_row, PROMPTS))}, job(output=output, policy_version=version), **settings)


def test_generate_draws_whole_groups_with_everything_recorded():
    result = run_generate(FakeGenerator())
    drawn = rollouts_from(result.rows)
    assert [(r.id.prompt_id, r.id.sample) for r in drawn] == [(p, s) for p in "ab" for s in range(3)]
    for one in drawn:
        assert one.id.round == 1
        assert one.prompt_token_ids == encode(PROMPTS["ab".index(one.id.prompt_id)].question + "\n")
        assert one.seed == request_seed(5, "rollouts", one.id)
        assert one.policy_version == 0
        assert len(one.token_ids) == len(one.sampler_logprobs) == len(one.token_texts)
        assert all(value <= 0 for value in one.sampler_logprobs)
    assert result.metrics["samples"] == 6
    assert result.metrics["tokens"] == sum(len(one.token_ids) for one in drawn)
    assert sum(value for key, value in result.metrics.items() if key.startswith("stop.")) == 6


def test_generate_is_the_same_again_and_differs_by_run_round_and_purpose():
    assert run_generate(FakeGenerator()).rows == run_generate(FakeGenerator(seed=9)).rows
    id_ = SampleId(1, "a", 0)
    seeds = {
        request_seed(5, "rollouts", id_),
        request_seed(6, "rollouts", id_),
        request_seed(5, "eval_rollouts", id_),
        request_seed(5, "rollouts", SampleId(2, "a", 0)),
        request_seed(5, "rollouts", SampleId(1, "a", 1)),
        request_seed(5, "rollouts", SampleId(1, "b", 0)),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_generate_without_seeds_per_request():
    assert {one.seed for one in rollouts_from(run_generate(FakeGenerator(), seed_per_request=False).rows)} == {None}


def test_evaluation_adds_one_greedy_sample():
    result = run_generate(FakeGenerator(), prompts_table="eval_prompts", output="eval_rollouts", greedy=True)
    drawn = rollouts_from(result.rows)
    assert [r.id.sample for r in drawn] == [GREEDY_SAMPLE, 0, 1, 2] * 2
    assert all((r.seed is None) == (r.id.sample == GREEDY_SAMPLE) for r in drawn)


def test_generate_refuses_weights_that_nobody_asked_for():
    with pytest.raises(EngineError, match=r"policy version \[3\], expected 2"):
        run_generate(FakeGenerator(policy_version=3), policy_version=2)


def test_an_aborted_generation_is_recorded_as_such():
    result = run_generate(FakeGenerator(faults=Faults(output="aborted")))
    assert result.metrics["stop.aborted"] == 6
    assert {one.stop_reason for one in rollouts_from(result.rows)} == {StopReason.ABORTED}


# --- verify


def run_verify(*rollouts: Rollout) -> tuple[dict[SampleId, Outcome], dict[str, float]]:
    tables = {"prompts": list(map(prompt_row, PROMPTS)), "rollouts": rollout_rows(*rollouts)}
    verifier = ExactVerifier(r"answer (\S+)", True)
    result = verify(tables, job(), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts")
    return outcomes_from(result.rows), result.metrics


def test_verify_by_hand():
    outcomes, metrics = run_verify(
        rollout("a", 0, "1+1=2\nanswer 3"),
        rollout("a", 1, "answer 4"),
        rollout("a", 2, "I do not know"),
        rollout("a", 3, "1+1=2\n1+1=2\n", StopReason.LENGTH),
        rollout("a", 4, "answer 3", StopReason.ABORTED),
        rollout("b", 0, "answer 9.0"),
        rollout("b", 1, ""),
    )
    assert [(o.status, o.reward) for o in outcomes.values()] == [
        (OutcomeStatus.VERIFIED, 1.0),
        (OutcomeStatus.VERIFIED, 0.0),
        (OutcomeStatus.NO_ANSWER, 0.0),
        (OutcomeStatus.TRUNCATED, 0.0),
        (OutcomeStatus.ENGINE_LOST, None),  # even a right answer of an aborted sample carries no reward
        (OutcomeStatus.VERIFIED, 1.0),
        (OutcomeStatus.NO_ANSWER, 0.0),
    ]
    assert metrics == {
        "status.verified": 3.0, "status.no_answer": 2.0, "status.truncated": 1.0, "status.engine_lost": 1.0,
        "samples": 7.0, "rewards": 2.0, "tokens": 70.0,  # 65 characters and five end tokens
    }  # fmt: skip


# --- segment, judge, weigh on one shard of hand-made rows

WRONG = "1+1=2\n2+1=4\nanswer 4"  # 6 + 6 + 8 tokens, and the end token
RIGHT = "1+1=2\n2+1=3\nanswer 3"


def outcome_rows(rewards: dict[tuple[str, int], float | None]) -> list[Row]:
    return [
        outcome_row(
            Outcome(
                SampleId(1, prompt, sample),
                OutcomeStatus.ENGINE_LOST if reward is None else OutcomeStatus.VERIFIED,
                reward,
                None,
            )
        )
        for (prompt, sample), reward in rewards.items()
    ]


def test_segment_cuts_wrong_responses_of_kept_groups_only():
    rollouts = [
        rollout("a", 0, RIGHT),
        rollout("a", 1, WRONG),
        rollout("a", 2, ""),  # wrong, but with its end token alone: still a response of one token
        rollout("b", 0, WRONG),
        rollout("b", 1, WRONG),
        rollout("c", 0, RIGHT),
        rollout("c", 1, WRONG, StopReason.ABORTED),
    ]
    rewards = {
        ("a", 0): 1.0, ("a", 1): 0.0, ("a", 2): 0.0, ("b", 0): 0.0, ("b", 1): 0.0, ("c", 0): 1.0, ("c", 1): None,
    }  # fmt: skip
    tables = {"rollouts": rollout_rows(*rollouts), "outcomes": outcome_rows(rewards)}
    result = segment(tables, job(), rules=StepRules(), min_verified_share=SHARE)
    steps = steps_from(result.rows)
    assert set(steps) == {SampleId(1, "a", 1), SampleId(1, "a", 2)}
    of_wrong = steps[SampleId(1, "a", 1)]
    assert [(s.start, s.end, s.text) for s in of_wrong] == [(0, 6, "1+1=2\n"), (6, 12, "2+1=4\n"), (12, 21, "answer 4")]
    assert result.metrics == {"samples": 2, "steps": 4, "tokens": 22}


class Scripted:
    """A judge that answers what it is told, and notes what it was asked."""

    version = "scripted/1"

    def __init__(self, answers: Sequence[tuple[Judgement, ...]]) -> None:
        self.answers, self.asked = list(answers), list[JudgeCase]()

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        self.asked = list(cases)
        return self.answers

    def health(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def judging(**steps: int) -> dict[str, list[Row]]:
    rows = [
        row for name, number in steps.items() for row in step_rows(
            SampleId(1, "a", int(name[1:])), [Step(k, k + 1, f"{name}.{k}") for k in range(number)]
        )
    ]  # fmt: skip
    return {"prompts": list(map(prompt_row, PROMPTS)), "steps": rows}


RIGHT_STEP = Judgement(VerdictStatus.JUDGED, label=1, error_type=ErrorType.NONE, raw="fine")
WRONG_STEP = Judgement(VerdictStatus.JUDGED, label=0, error_type=ErrorType.LOGIC)
SCORED = Judgement(VerdictStatus.JUDGED, score=0.25)
NONSENSE = Judgement(VerdictStatus.UNPARSABLE, raw="banana")


def test_judge_writes_one_verdict_for_every_step():
    engine = Scripted([(RIGHT_STEP, NONSENSE), (SCORED,)])
    result = judge(judging(s0=2, s1=1), job(), engine=engine, name="llm", show_gold=False)
    verdicts = verdicts_from(result.rows)
    assert verdicts[SampleId(1, "a", 0)] == [
        Verdict(SampleId(1, "a", 0), 0, "llm", "scripted/1", VerdictStatus.JUDGED, 1, None, ErrorType.NONE, "fine"),
        Verdict(SampleId(1, "a", 0), 1, "llm", "scripted/1", VerdictStatus.UNPARSABLE, raw="banana"),
    ]
    assert verdicts[SampleId(1, "a", 1)][0].score == 0.25
    assert engine.asked[0] == JudgeCase("1 +1 +1", ("s0.0", "s0.1"), None)
    assert result.metrics == {"status.judged": 2.0, "status.unparsable": 1.0, "steps": 3, "samples": 2, "tokens": 3}


def test_judge_shows_the_gold_answer_only_where_it_may():
    engine = Scripted([(RIGHT_STEP,)])
    judge(judging(s0=1), job(), engine=engine, name="llm", show_gold=True)
    assert engine.asked[0].gold == "3"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(RIGHT_STEP,)], "gave 1 verdicts on 2 steps"),
        ([(RIGHT_STEP,) * 3], "gave 3 verdicts on 2 steps"),
        ([()], "gave 0 verdicts on 2 steps"),
        ([], "answered 0 of 1 cases"),
        ([(RIGHT_STEP,) * 2] * 2, "answered 2 of 1 cases"),
    ],
)
def test_a_judge_with_a_wrong_number_of_verdicts_fails(answers: list[tuple[Judgement, ...]], words: str):
    with pytest.raises(EngineError, match=words):
        judge(judging(s0=2), job(), engine=Scripted(answers), name="llm", show_gold=False)


def test_a_judge_is_not_asked_about_nothing():
    engine = Scripted([(RIGHT_STEP,)])
    assert judge(judging(), job(), engine=engine, name="llm", show_gold=False).rows == []
    assert engine.asked == []


def weighing(said: dict[str, list[Judgement]], stop: StopReason = StopReason.STOP) -> dict[str, list[Row]]:
    """A group of one right, one wrong and one aborted sample, with verdicts on the wrong one's three steps."""
    wrong = rollout("a", 1, WRONG, stop)
    rollouts = [rollout("a", 0, RIGHT), wrong, rollout("a", 2, "1+", StopReason.ABORTED), rollout("b", 0, RIGHT)]
    rewards = {("a", 0): 1.0, ("a", 1): 0.0, ("a", 2): None, ("b", 0): 1.0}
    end = len(wrong.token_ids)
    steps = [Step(0, 6, "1+1=2\n"), Step(6, 12, "2+1=4\n"), Step(12, end, "answer 4")]
    tables = {
        "rollouts": rollout_rows(*rollouts),
        "outcomes": outcome_rows(rewards),
        "steps": step_rows(wrong.id, steps),
    }
    for name, judgements in said.items():
        tables[f"verdicts.{name}"] = [
            verdict_row(Verdict(wrong.id, k, name, "v", j.status, j.label, j.score, j.error_type, j.raw))
            for k, j in enumerate(judgements)
        ]
    return tables


def run_weigh(tables: dict[str, list[Row]], **changed: Any) -> StageResult:
    settings = {
        "voters": ["llm"], "measures": [], "thresholds": {"llm": 0.5, "prm": 0.2}, "rule": "all", "beta": 0.25,
        "min_verified_share": SHARE, **changed,
    }  # fmt: skip
    return weigh(tables, job(), **settings)


def test_weigh_by_hand():
    said = {"llm": [RIGHT_STEP, WRONG_STEP, RIGHT_STEP], "prm": [SCORED, SCORED, SCORED]}
    result = run_weigh(weighing(said), voters=["llm", "prm"])
    right, wrong = weighted_from(result.rows)
    assert right.token_weights == (1.0,) * len(right.token_ids)
    assert wrong.token_weights == (0.25,) * 6 + (1.0,) * 15  # the mined step; the last step never is
    assert (right.advantage, wrong.advantage) == (0.5, -0.5)
    assert (right.group_mean, right.group_size) == (0.5, 2)  # over the verified samples
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    metrics = result.metrics
    assert (metrics["asked"], metrics["kept"], metrics["groups"], metrics["groups_kept"]) == (4, 2, 2, 1)
    assert (metrics["dropped.unverified"], metrics["dropped.all_correct"]) == (1, 1)
    assert metrics["asked"] == metrics["kept"] + sum(v for k, v in metrics.items() if k.startswith("dropped."))
    assert (metrics["tokens.wrong"], metrics["tokens.mined"]) == (21, 6)
    assert (metrics["steps.wrong"], metrics["steps.mined"], metrics["steps.undecided"]) == (3, 1, 0)
    assert metrics["pair.llm+prm.right.right"] == 1  # of the two steps before the last
    assert metrics["pair.llm+prm.wrong.right"] == 1


def test_thresholds_belong_to_weigh():
    tables = weighing({"llm": [RIGHT_STEP] * 3, "prm": [SCORED] * 3})
    mined = [
        run_weigh(tables, voters=["llm", "prm"], thresholds={"prm": threshold}).metrics["tokens.mined"]
        for threshold in (0.2, 0.25, 0.3)
    ]
    assert mined == [12, 0, 0]  # a score must exceed lambda


@pytest.mark.parametrize("status", [s for s in VerdictStatus if s is not VerdictStatus.JUDGED])
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
    assert result.metrics["tokens.mined"] == 12  # still counted


def test_the_stages_fit_together_on_fakes():
    """generate → verify → segment → judge → weigh: every sample asked for is accounted for."""
    prompts = [Prompt(f"p{n}", f"{n} +17 *3 -25", str((((n + 17) % 100) * 3 - 25) % 100)) for n in range(12)]
    tables: dict[str, list[Row]] = {"prompts": list(map(prompt_row, prompts))}
    engine = FakeGenerator(skill=0.6)
    sampling = Sampling(100)
    tables["rollouts"] = generate(
        tables, job(output="rollouts", policy_version=0), engine=engine, group_size=8, sampling=sampling, run_seed=0,
        seed_per_request=True,
    ).rows  # fmt: skip
    verifier = ExactVerifier(r"answer (\S+)", True)
    tables["outcomes"] = verify(
        tables, job(), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"
    ).rows
    tables["steps"] = segment(tables, job(), rules=StepRules(), min_verified_share=SHARE).rows
    tables["verdicts.llm"] = judge(tables, job(), engine=FakeJudge(), name="llm", show_gold=False).rows
    assert len(tables["verdicts.llm"]) == len(tables["steps"]) > 0
    result = run_weigh(tables)
    metrics = result.metrics
    assert metrics["asked"] == 96
    assert metrics["asked"] == metrics["kept"] + sum(v for k, v in metrics.items() if k.startswith("dropped."))
    assert 0 < metrics["kept"] == len(result.rows)
    assert 0 < metrics["tokens.mined"] < metrics["tokens.wrong"]
    by_group: dict[str, float] = {}
    for row in weighted_from(result.rows):
        by_group[row.id.prompt_id] = by_group.get(row.id.prompt_id, 0.0) + row.advantage
        assert len(row.token_weights) == len(row.token_ids)
        assert row.reward == 0.0 or set(row.token_weights) == {1.0}
    assert all(total == pytest.approx(0.0, abs=1e-9) for total in by_group.values())


# --- worker and graph


def test_a_worker_reads_runs_and_receipts(tmp_path: Path):
    source = write_shard(
        tmp_path,
        table="prompts",
        round_=1,
        shard=4,
        attempt="p",
        rows=list(map(prompt_row, PROMPTS)),
        seconds=0,
        metrics={},
    )

    def stage(tables: Any, job: StageJob) -> StageResult:
        return StageResult(tables["prompts"][:1], {"n": float(len(tables["prompts"]))})

    worker = StageWorker(str(tmp_path), {"copy": stage}, engine=FakeGenerator(policy_version=3))
    receipt = worker.run(StageJob("copy", "eval_prompts", 2, 4, "att", {"prompts": source}))
    assert receipt.path == "rounds/0002/eval_prompts/00004-att.parquet"
    assert (receipt.num_rows, receipt.metrics) == (1, {"n": 2.0})
    assert receipt.seconds > 0
    assert read_shard(tmp_path, receipt) == [prompt_row(PROMPTS[0])]
    assert worker.ping() == "ready"
    assert worker.engine_call("policy_version") == 3
    assert worker.engine_call("score_next", (1, 2), 3) < 0
    worker.close()
    with pytest.raises(EngineError, match="closed"):
        worker.engine_call("generate", [])


def test_the_graph():
    data = data_stages({"llm": "judge.llm", "prm": "prm"})
    produced = ["prompts"]
    for stage in data:  # in an order in which it can be run
        assert set(stage.inputs) <= set(produced)
        produced.append(stage.output)
    assert downstream(data, "verdicts.llm") == ["verdicts.llm", "weighted"]
    assert downstream(data, "steps") == ["steps", "verdicts.llm", "verdicts.prm", "weighted"]
    assert downstream(data, "rollouts")[0] == "rollouts"
    assert set(downstream(data, "rollouts")) == {stage.output for stage in data}
    assert downstream(evaluation_stages(), "eval_outcomes") == ["eval_outcomes"]
