"""judge: one verdict for every step, by one judge. Scores are stored raw; thresholds belong to ``weigh``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.judge.counts import status_metrics
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judged, Judgement
from bcpg_cluster.store.rows import prompts_from, steps_from, verdict_row


def judge(tables: Tables, job: StageJob, *, engine: Judge, name: str, show_gold: bool) -> StageResult:
    """Ask a judge about every step of the shard.

    Raises:
        EngineError: the judge failed, or answered for another number of steps than it was asked about.
    """
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])}
    steps = steps_from(tables["steps"])
    cases = [
        JudgeCase(
            prompts[id_.prompt_id].question,
            tuple(step.text for step in of_sample),
            prompts[id_.prompt_id].answer if show_gold else None,
        )
        for id_, of_sample in steps.items()
    ]
    judged = _unjudged(cases, job.given_up) if job.given_up else engine.judge(cases) if cases else Judged(())
    if len(judged.judgements) != len(cases):
        raise EngineError(f"judge {name!r} answered {len(judged.judgements)} of {len(cases)} cases")
    rows = []
    statuses: Counter[VerdictStatus] = Counter()
    for id_, case, judgements in zip(steps, cases, judged.judgements, strict=True):
        if len(judgements) != len(case.steps):
            raise EngineError(f"judge {name!r} gave {len(judgements)} verdicts on {len(case.steps)} steps of {id_}")
        for index, said in enumerate(judgements):
            statuses[said.status] += 1
            rows.append(
                verdict_row(
                    Verdict(
                        id_, index, name, engine.version, said.status, said.label, said.score, said.error_type, said.raw
                    )
                )
            )
    metrics = status_metrics(statuses)
    tokens = sum(of_sample[-1].end for of_sample in steps.values())  # of the responses judged
    metrics |= {f"judge.{key}": value for key, value in judged.counts.items()}
    return StageResult(rows, {**metrics, "steps": len(rows), "samples": len(cases), "tokens": tokens})


def _unjudged(cases: Sequence[JudgeCase], why: str) -> Judged:
    """No verdict on any step, for a reason that is not the judge's."""
    said = Judgement(VerdictStatus.ENGINE_LOST, raw=why)
    return Judged(tuple((said,) * len(case.steps) for case in cases))
