"""Rows and stages by hand, for the tests of several stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bcpg_cluster.records import (
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
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import encode
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.generate.stage import generate
from bcpg_cluster.stages.job import StageJob, StageResult
from bcpg_cluster.stages.judge.protocol import Judgement
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.weigh.stage import WeighSettings, weigh
from bcpg_cluster.store.rows import (
    Row,
    outcome_row,
    prompt_row,
    rollout_row,
    step_rows,
    verdict_row,
)

SHARE = 0.5


def job(stage: str = "x", output: str = "x", **parameters: Any) -> StageJob:
    return StageJob(Path("/nowhere"), stage, output, 1, 0, "att", {}, parameters)


def rollout(prompt: str, sample: int, text: str, stop: StopReason = StopReason.STOP) -> Rollout:
    ids = (*encode(text), *((0,) if stop is StopReason.STOP else ()))
    texts = (*text, *(("",) if stop is StopReason.STOP else ()))
    return Rollout(SampleId(1, prompt, sample), (1, 2), ids, (-0.5,) * len(ids), texts, stop, 0, 7)


def rollout_rows(*rollouts: Rollout) -> list[Row]:
    return [rollout_row(one) for one in rollouts]


PROMPTS = [Prompt("a", "1 +1 +1", "3"), Prompt("b", "2 *2 +5", "9")]


def run_generate(engine: FakeGenerator, **changed: Any) -> StageResult:
    options = {
        "engine": engine, "group_size": 3, "sampling": Sampling(50), "seed_per_request": True, **changed,
    }  # fmt: skip
    parameters = {"policy_version": options.pop("policy_version", 0), "run_seed": options.pop("run_seed", 5)}
    table = options.get("prompts_table", "prompts")
    output = options.pop("output", "rollouts")
    return generate({table: list(map(prompt_row, PROMPTS))}, job(output=output, **parameters), **options)


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


RIGHT_STEP = Judgement(VerdictStatus.JUDGED, label=1, error_type=ErrorType.NONE, raw="fine")


SCORED = Judgement(VerdictStatus.JUDGED, score=0.25)


NONSENSE = Judgement(VerdictStatus.UNPARSABLE, raw="banana")


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


def weigh_settings(**changed: Any) -> WeighSettings:
    options: dict[str, Any] = {
        "voters": ["llm"], "measures": [], "thresholds": {"llm": 0.5, "prm": 0.2}, "rule": "all", "beta": 0.25,
        "min_verified_share": SHARE, "truncated": "negative", "flip_rate": 0.0, "seed": 3, "objective": Bcpg(), **changed,
    }  # fmt: skip
    return WeighSettings(**options)


def run_weigh(tables: dict[str, list[Row]], **changed: Any) -> StageResult:
    return weigh(tables, job(weigh=weigh_settings(**changed)))
