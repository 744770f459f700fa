"""The step-labelled responses of a run as a data set: what every judge said of every step, and what came of it.

One row is one response, with its steps nested. A step's label means nothing without the steps before it, a reward model is
trained on whole responses, and problem and response are then stored once; flattening is one line (the card shows it),
putting loose steps together again is a join. Only wrong responses of kept groups have steps (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bcpg_cluster.errors import StoreError
from bcpg_cluster.exchange.dataset_directory import Card, Column, DataFile, Written, write_dataset
from bcpg_cluster.exchange.run_tables import rounds_with, shards_of
from bcpg_cluster.records import SampleId, Step, Verdict
from bcpg_cluster.stages.weigh.consensus import Consensus, vote_label
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import (
    Row,
    outcomes_from,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)

_VERDICT = pa.struct(
    [
        pa.field("judge", pa.string()),
        pa.field("judge_version", pa.string()),
        pa.field("status", pa.string()),
        pa.field("label", pa.int8()),
        pa.field("score", pa.float32()),
        pa.field("says_right", pa.int8()),
        pa.field("error_type", pa.string()),
    ]
)
_STEP = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("consensus", pa.int8()),
        pa.field("mined_tokens", pa.int32()),
        pa.field("verdicts", pa.list_(_VERDICT)),
    ]
)
COLUMNS = (
    Column("id", pa.string(), "`round/prompt_id/sample`, unique"),
    Column("round", pa.int32(), "round of the run, from 1"),
    Column("prompt_id", pa.string(), "the problem's id in the prompt file"),
    Column("sample", pa.int32(), "number of the response among those to this problem in this round"),
    Column("question", pa.string(), "the problem, as the user's message"),
    Column("gold_answer", pa.string(), "the right answer, as text"),
    Column("response", pa.string(), "the whole response, special tokens left out; the steps' texts join to it"),
    Column("extracted", pa.string(), "the answer found in the response; null where none was"),
    Column(
        "outcome_status", pa.string(), "how the final answer was checked; `truncated` and `no_answer` count as wrong"
    ),
    Column("stop_reason", pa.string(), "`stop` (end token) or `length` (cut off at the token limit)"),
    Column("policy_version", pa.int32(), "weights that answered: 0 the base, n after round n, below 0 made elsewhere"),
    Column("num_tokens", pa.int32(), "response tokens, end token included"),
    Column(
        "steps",
        pa.list_(_STEP),
        "in order. `start`, `end`: response tokens `start..end-1`; `consensus`: 1 the judges' consensus calls the step "
        "right, 0 it does not (null: a last step, never mined, that a judge with `after` was not asked about); "
        "`mined_tokens`: how many of its tokens were trained on as right (null: the response is in no training row of its "
        "own); `verdicts`: one a judge, with `status` (only `judged` carries a verdict), the "
        "judge's own `label` (0/1) or raw `score` in [0, 1], `says_right` (the label, or score above the judge's "
        "threshold; null: it abstained) and, where it labels, `error_type`",
    ),
)
_ABOUT = """
Wrong responses to problems that were also answered rightly, cut into steps, each step judged. One row is one response;
its steps are nested, since a label means nothing without the steps before it. A missing verdict is a status, never a 0.

```python
import datasets
data = datasets.load_dataset("parquet", data_files="data/*.parquet", split="train")  # or load_dataset of this directory
steps = [(row["id"], k, step) for row in data for k, step in enumerate(row["steps"])]  # one a step
```
"""


@dataclass(frozen=True, slots=True)
class JudgeSet:
    """The judges of a run.

    Attributes:
        names: all of them; those in ``voters`` make the consensus.
        thresholds: by judge, for those that score.
        decide: the consensus over the voters' votes on one response's steps (``stages.weigh.consensus.consensus`` with the
            run's rule and thresholds bound).
    """

    names: tuple[str, ...]
    voters: tuple[str, ...]
    thresholds: Mapping[str, float]
    decide: Callable[[Mapping[str, Sequence[Verdict]]], Consensus]
    facts: Mapping[str, str] = field(default_factory=dict)


def export_steps(
    run_dir: RunPath, out: Path, *, run_name: str, judges: JudgeSet, rounds: Sequence[int] = ()
) -> Written:
    """Write the step-labelled responses of a run's rounds (all that were judged, unless chosen) to a new directory.

    Raises:
        RunDirectoryError: a chosen round was not judged yet.
        DataError: no response has steps, or ``out`` is not empty.
        StoreError: tables that do not fit each other.
    """
    state = read_manifest(run_dir)
    verdict_tables = [f"verdicts.{name}" for name in judges.names]
    needed = ["rollouts", "outcomes", "steps", *verdict_tables]
    chosen = rounds_with(state, needed, rounds)

    def batches(round_: int) -> Iterator[list[Row]]:
        tables = ["prompts", *needed]
        if (round_, "weighted") in state.sealed:
            tables.append("weighted")
        for shard in shards_of(run_dir, state, round_, tables):
            yield _rows(shard, judges)

    files = [DataFile("train", f"data/round-{round_:04d}.parquet", batches(round_)) for round_ in chosen]
    facts = {"run": run_name, "rounds": ", ".join(map(str, chosen)), "judges": ", ".join(judges.names)}
    facts |= {"voters of the consensus": ", ".join(judges.voters), **judges.facts}
    tags = ("process-supervision", "step-labels", "reasoning", "bcpg-nsa")
    return write_dataset(out, files, COLUMNS, Card(f"Judged steps of {run_name}", _ABOUT, tags, facts))


def _rows(tables: Mapping[str, list[Row]], judges: JudgeSet) -> list[Row]:
    """The rows of one shard."""
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(tables["prompts"])}
    outcomes = outcomes_from(tables["outcomes"])
    verdicts = {name: verdicts_from(tables[f"verdicts.{name}"]) for name in judges.names}
    mined = {row.id: row.mined for row in weighted_from(tables.get("weighted", []))}
    steps = steps_from(tables["steps"])
    rows: list[Row] = []
    for rollout in rollouts_from(tables["rollouts"]):
        cut = steps.get(rollout.id)
        if cut is None:
            continue
        votes = {name: _votes(of_judge, name, rollout.id, cut) for name, of_judge in verdicts.items()}
        prompt, outcome = prompts[rollout.id.prompt_id], outcomes[rollout.id]
        rows.append(
            {
                "id": f"{rollout.id.round}/{rollout.id.prompt_id}/{rollout.id.sample}",
                "round": rollout.id.round,
                "prompt_id": rollout.id.prompt_id,
                "sample": rollout.id.sample,
                "question": prompt.question,
                "gold_answer": prompt.answer,
                "response": rollout.text,
                "extracted": outcome.extracted,
                "outcome_status": str(outcome.status),
                "stop_reason": str(rollout.stop_reason),
                "policy_version": rollout.policy_version,
                "num_tokens": len(rollout.token_ids),
                "steps": _steps(cut, votes, judges, mined.get(rollout.id)),
            }
        )
    return rows


def _votes(
    verdicts: Mapping[SampleId, Sequence[Verdict]], judge: str, id_: SampleId, cut: Sequence[Step]
) -> Sequence[Verdict]:
    said = verdicts.get(id_, ())
    if len(said) != len(cut):
        raise StoreError(f"{id_} has {len(cut)} steps and {len(said)} verdicts of {judge!r}")
    return said


def _steps(
    cut: Sequence[Step],
    votes: Mapping[str, Sequence[Verdict]],
    judges: JudgeSet,
    mined: Sequence[bool] | None,
) -> list[Row]:
    """The nested steps of one response."""
    decided = judges.decide({name: votes[name] for name in judges.voters})
    return [
        {
            "text": step.text,
            "start": step.start,
            "end": step.end,
            "consensus": None if index in decided.unasked else decided.labels[index],
            "mined_tokens": None if mined is None else sum(mined[step.start : step.end]),
            "verdicts": [_verdict(votes[name][index], judges.thresholds.get(name)) for name in judges.names],
        }
        for index, step in enumerate(cut)
    ]


def _verdict(verdict: Verdict, threshold: float | None) -> Row:
    return {
        "judge": verdict.judge,
        "judge_version": verdict.judge_version,
        "status": str(verdict.status),
        "label": verdict.label,
        "score": verdict.score,
        "says_right": vote_label(verdict, threshold),
        "error_type": None if verdict.error_type is None else str(verdict.error_type),
    }
