"""From a shard's rows to one sample as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt, SampleId, Step, StopReason, Verdict, VerdictStatus
from bcpg_cluster.stages.judge.llm.families.families import thought_in
from bcpg_cluster.stages.judge.llm.votes import answers_in, reasons_in
from bcpg_cluster.stages.weigh.consensus import vote_label
from bcpg_cluster.watch.view.records import SampleSummary
from bcpg_cluster.watch.view.rule_words import Decision, decisions
from bcpg_cluster.watch.view.sample_records import ByHand, SampleView, StepView, TokenColumns, VerdictView
from bcpg_cluster.watch.view.samples import labels_at, step_dispute, step_letters
from bcpg_cluster.watch.view.shard_tables import ShardTables, ids_of, lists_of

NOT_STORED = (
    "The probability of each token after training: runs store none. A page with its server works it out for one sample.",
    "How long a judge took over one answer: what is shown is the mean of the answer's shard.",
)
_NO_LOGPROBS = "The sampler's probabilities: these responses were made elsewhere without them."
_NOT_USED = "It would be mined, but this answer is in no training row of its own, so it changes nothing."
_DIGITS = 5  # of a probability, a mass, a drift in nats


@dataclass(frozen=True, slots=True)
class _Row:
    """A sample's own row of ``weighted``."""

    mined: np.ndarray
    weights: np.ndarray
    advantage: float
    group_mean: float
    group_size: int


def sample_view(
    tables: ShardTables,
    config: Config,
    line: SampleSummary,
    *,
    reference: np.ndarray | None = None,
    hand: Mapping[int, ByHand] | None = None,
) -> SampleView:
    """One sample of a shard.

    Args:
        tables: read in full.
        line: the sample's line in the shard's list.
        reference: the trainer's log-probs of its tokens, in nats; ``None`` where there are none.
        hand: what a person said, by step.
    """
    id_ = SampleId(tables.round, line.prompt_id, line.sample)
    place = ids_of(tables.rollouts).index(id_)
    response = tables.rollouts.slice(place, 1)
    texts = response["token_texts"].to_pylist()[0]
    logprobs = lists_of(response["sampler_logprobs"])[0]
    row, outcome = _weighted_row(tables, id_), None if tables.outcomes is None else tables.outcomes[id_]
    prompt = tables.prompts[line.index]
    return SampleView(
        round=tables.round,
        prompt_id=line.prompt_id,
        sample=line.sample,
        question=prompt.question,
        gold=prompt.answer,
        found=line.found,
        status=line.status,
        why="" if outcome is None else outcome.why,
        reward=line.reward,
        stop_reason=line.stop_reason,
        drop=line.drop,
        advantage=line.advantage,
        group_mean=None if row is None else row.group_mean,
        group_size=None if row is None else row.group_size,
        policy_version=response["policy_version"].to_pylist()[0],
        seed=response["seed"].to_pylist()[0],
        num_tokens=len(texts),
        text="".join(texts),
        steps=_steps(id_, tables, config, row, hand or {}, is_cut_off=line.stop_reason == StopReason.LENGTH),
        tokens=_tokens(texts, logprobs, row, reference),
        not_stored=(*NOT_STORED, *([] if len(logprobs) else [_NO_LOGPROBS])),
    )


def _weighted_row(tables: ShardTables, id_: SampleId) -> _Row | None:
    if tables.weighted is None:
        return None
    table = tables.weighted
    rows = table.filter(pc.and_(pc.equal(table["prompt_id"], id_.prompt_id), pc.equal(table["sample"], id_.sample)))
    if not len(rows):
        return None
    return _Row(
        lists_of(rows["mined"])[0].astype(bool),
        lists_of(rows["token_weights"])[0],
        *(rows[name].to_pylist()[0] for name in ("advantage", "group_mean", "group_size")),
    )


def _tokens(texts: Sequence[str], logprobs: np.ndarray, row: _Row | None, reference: np.ndarray | None) -> TokenColumns:
    number, nothing = len(texts), (None,) * len(texts)
    p = np.exp(np.minimum(logprobs, 0.0)) if len(logprobs) == number else None
    drift = reference - logprobs if p is not None and reference is not None and len(reference) == number else None
    weights = row.weights[:number] if row is not None else None
    return TokenColumns(
        text=tuple(texts),
        p=nothing if p is None else rounded(p),
        mass=nothing if p is None else rounded(1.0 - p),
        weight=nothing if weights is None else rounded(weights),
        weight_x_advantage=nothing if weights is None or row is None else rounded(weights * row.advantage),
        drift=nothing if drift is None else rounded(drift),
    )


def rounded(values: np.ndarray) -> tuple[float | None, ...]:
    """As short numbers for the page."""
    return tuple((np.round(values.astype(np.float64), _DIGITS) + 0.0).tolist())  # no -0.0


def _steps(
    id_: SampleId,
    tables: ShardTables,
    config: Config,
    row: _Row | None,
    hand: Mapping[int, ByHand],
    *,
    is_cut_off: bool,
) -> tuple[StepView, ...]:
    steps = (tables.steps or {}).get(id_, ())
    if not steps:
        return ()
    verdicts = {name: (of_judge or {}).get(id_) for name, of_judge in tables.verdicts.items()}
    letters = step_letters(steps, verdicts, None if row is None else row.mined, config)
    decided = decisions(id_, len(steps), verdicts, config, is_cut_off=is_cut_off)
    said = {
        name: _verdicts(name, of_judge, config, _latency_s(tables.receipts.get(f"verdicts.{name}")))
        for name, of_judge in verdicts.items()
        if of_judge is not None
    }
    return tuple(
        _step(
            index,
            step,
            row,
            decided[index],
            is_last=index == len(steps) - 1,
            is_left_out=tables.weighted is not None and row is None,
            dispute=0.0 if index == len(steps) - 1 else step_dispute(verdicts, index, config),
            verdicts=tuple(of_judge[index] for of_judge in said.values()),
            truth=labels_at(verdicts, config.measures, index, config),
            letter=letters[index],
            hand=hand.get(index),
        )
        for index, step in enumerate(steps)
    )


def _step(
    index: int,
    step: Step,
    row: _Row | None,
    decided: Decision,
    *,
    is_last: bool,
    is_left_out: bool,
    dispute: float,
    verdicts: tuple[VerdictView, ...],
    truth: dict[str, int | None],
    letter: str,
    hand: ByHand | None,
) -> StepView:
    weights = set() if row is None else set(row.weights[step.start : step.end].tolist())
    weight = weights.pop() if len(weights) == 1 else None
    return StepView(
        index,
        step.start,
        step.end,
        step.text,
        is_last,
        row is not None and bool(row.mined[step.start : step.end].any()),
        decided.consensus,
        f"{decided.rule} {_NOT_USED}" if decided.is_mined and is_left_out else decided.rule,
        round(dispute, 4),
        weight,
        None if weight is None or row is None else round(weight * row.advantage, _DIGITS) + 0.0,
        verdicts,
        truth,
        letter,
        None if hand is None else hand.label,
        "" if hand is None else hand.note,
    )


def _latency_s(receipt: Receipt | None) -> float | None:
    """Seconds of a shard's judging over the answers in it: they are judged side by side, so no answer has its own."""
    num_samples = 0.0 if receipt is None else receipt.metrics.get("samples", 0.0)
    return receipt.seconds / num_samples if receipt is not None and num_samples else None


def _verdicts(name: str, of_judge: Sequence[Verdict], config: Config, latency_s: float | None) -> list[VerdictView]:
    """One judge's verdicts on a sample. An answer that several steps share is read once."""
    judge = config.judges[name]
    notes_in_raw = judge.kind not in ("llm", "openai")
    reasons = {raw: reasons_in(raw) for raw in {verdict.raw for verdict in of_judge}}
    return [
        VerdictView(
            name,
            judge.role,
            str(verdict.status),
            vote_label(verdict, judge.threshold),
            None if verdict.score is None else round(verdict.score, _DIGITS),
            None if verdict.error_type is None else str(verdict.error_type),
            reasons[verdict.raw].get(verdict.step, "") or _words(verdict, notes_in_raw),
            verdict.raw or None,
            None if latency_s is None else round(latency_s, 4),
            judge.threshold if verdict.score is not None else None,
        )
        for verdict in of_judge
    ]


def _words(verdict: Verdict, notes_in_raw: bool) -> str:
    """What stands in the place of a reason: a trained judge's thought (its first vote's), a failure's message, or what a process
    reward model notes beside its score.
    """
    thought = next(filter(None, map(thought_in, answers_in(verdict.raw))), "")
    if thought:
        return thought
    is_note = (verdict.score is not None and notes_in_raw) or verdict.status not in (
        VerdictStatus.JUDGED,
        VerdictStatus.UNPARSABLE,
    )
    return next(filter(None, answers_in(verdict.raw)), "")[:400] if is_note else ""
