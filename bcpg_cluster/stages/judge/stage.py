"""judge: one verdict for every step, by one judge. Scores are stored raw; thresholds belong to ``weigh``.

A judge that comes after others finds their verdicts among its inputs, and is asked about what they leave open (``judge.cascade``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import SampleId, Step, Verdict, VerdictStatus
from bcpg_cluster.stages.job import StageJob, StageResult, Tables
from bcpg_cluster.stages.judge.cascade import wanted_steps
from bcpg_cluster.stages.judge.counts import status_metrics
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judged, Judgement, SavingsCount
from bcpg_cluster.stages.weigh.stage import WeighSettings
from bcpg_cluster.store.rows import prompts_from, steps_from, verdict_row, verdicts_from

_NOT_ASKED: Final = Judgement(VerdictStatus.NOT_ASKED)
_EARLIER = "verdicts."


def judge(tables: Tables, job: StageJob, *, engine: Judge, name: str, show_gold: bool) -> StageResult:
    """Ask a judge about every step of the shard, or about those that earlier judges leave open.

    With earlier judges the job's ``weigh`` parameter says what decides a step
    (:class:`~bcpg_cluster.stages.weigh.stage.WeighSettings`).

    Raises:
        EngineError: the judge failed, or answered for another number of steps than it was asked about.
    """
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])}
    steps = steps_from(tables["steps"])
    wanted = _wanted(tables, job, steps)
    cases = [
        JudgeCase(
            prompts[id_.prompt_id].question,
            tuple(step.text for step in of_sample),
            prompts[id_.prompt_id].answer if show_gold else None,
            wanted.get(id_),
        )
        for id_, of_sample in steps.items()
    ]
    judged = _ask(engine, cases, name, job.given_up)
    rows = []
    statuses: Counter[VerdictStatus] = Counter()
    for id_, case, judgements in zip(steps, cases, judged.judgements, strict=True):
        _check_answered(case, judgements, f"judge {name!r}", id_)
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
    asked = [of_sample for of_sample, case in zip(steps.values(), cases, strict=True) if case.is_wanted]
    tokens = sum(of_sample[-1].end for of_sample in asked)  # of the responses judged
    metrics |= {f"judge.{key}": value for key, value in judged.counts.items()}
    if len(asked) < len(cases):
        metrics["samples.not_asked"] = len(cases) - len(asked)
    return StageResult(rows, {**metrics, "steps": len(rows), "samples": len(cases), "tokens": tokens})


def _wanted(tables: Tables, job: StageJob, steps: Mapping[SampleId, Sequence[Step]]) -> dict[SampleId, frozenset[int]]:
    """By response, the steps to ask about; empty where there is no earlier judge, and everything is asked."""
    earlier = {
        table.removeprefix(_EARLIER): verdicts_from(rows)
        for table, rows in tables.items()
        if table.startswith(_EARLIER)
    }
    if not earlier:
        return {}
    settings: WeighSettings = job.parameters["weigh"]
    return {
        id_: wanted_steps(
            {name: of_judge.get(id_, ()) for name, of_judge in earlier.items()},
            settings.thresholds,
            settings.consensus_rule,
            len(of_sample),
        )
        for id_, of_sample in steps.items()
    }


def _ask(engine: Judge, cases: Sequence[JudgeCase], name: str, given_up: str) -> Judged:
    """The judgements on all cases; those of which nothing is wanted are not given to the judge."""
    asked = [case for case in cases if case.is_wanted]
    judged = _unjudged(asked, given_up) if given_up else engine.judge(asked) if asked else Judged(())
    if len(judged.judgements) != len(asked):
        raise EngineError(f"judge {name!r} answered {len(judged.judgements)} of {len(asked)} cases")
    if len(asked) == len(cases):
        return judged
    counts = Counter(judged.counts)
    if isinstance(engine, SavingsCount):
        counts.update(engine.savings([case for case in cases if not case.is_wanted]))
    answers = iter(judged.judgements)
    return Judged(
        tuple(next(answers) if case.is_wanted else (_NOT_ASKED,) * len(case.steps) for case in cases), dict(counts)
    )


def _check_answered(case: JudgeCase, judgements: Sequence[Judgement], judge: str, id_: SampleId) -> None:
    if len(judgements) != len(case.steps):
        raise EngineError(f"{judge} gave {len(judgements)} verdicts on {len(case.steps)} steps of {id_}")
    for index, said in enumerate(judgements):
        if said.status is VerdictStatus.NOT_ASKED and case.wants(index):
            raise EngineError(f"{judge} says it was not asked about step {index} of {id_}, but it was")


def _unjudged(cases: Sequence[JudgeCase], why: str) -> Judged:
    """No verdict on any step that was wanted, for a reason that is not the judge's."""
    lost = Judgement(VerdictStatus.ENGINE_LOST, raw=why)
    return Judged(
        tuple(tuple(lost if case.wants(step) else _NOT_ASKED for step in range(len(case.steps))) for case in cases)
    )
