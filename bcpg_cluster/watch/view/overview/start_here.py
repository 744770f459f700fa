"""A newcomer's first questions, answered from the rounds and from what was found in some shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from urllib.parse import quote

from bcpg_cluster.records import SampleId
from bcpg_cluster.watch.view.overview.records import Answer, JudgeRound, Round
from bcpg_cluster.watch.view.records import SampleSummary
from bcpg_cluster.watch.view.sample_records import SampleView

_LEAST_FALL = 0.005
"""A smaller fall of precision is named no loss: half a point."""
_SCREEN_TOKENS = 600


def answers_from_rounds(rounds: Sequence[Round]) -> list[Answer]:
    """What the reports alone answer."""
    found = [_worse_judge(rounds)]
    dropped: dict[str, int] = {}
    words: dict[str, str] = {}
    for round_ in rounds:
        for reason in round_.dropped:
            dropped[reason.reason] = dropped.get(reason.reason, 0) + reason.num
            words[reason.reason] = reason.text
    if any(round_.asked is not None for round_ in rounds):
        total, asked = sum(dropped.values()), sum(round_.asked or 0 for round_ in rounds)
        reasons = " ".join(
            f"{num} {reason.replace('_', ' ')}: {words[reason]}"
            for reason, num in sorted(dropped.items(), key=lambda item: -item[1])
        )
        text = f"Of {asked} samples {total} were dropped. {reasons}".strip()
        found.append(Answer(f"Why {total} samples were dropped", text, "#/?at=samples"))
    shares = [
        (r.round, r.mined_gradient_share, r.mined_token_share) for r in rounds if r.mined_gradient_share is not None
    ]
    if shares:
        text = "; ".join(
            f"round {number}: {100 * share:.1f} %"
            + (f" ({100 * tokens:.1f} % of tokens)" if tokens is not None else "")
            for number, share, tokens in shares
        )
        title = "What share of the gradient mined tokens carried"
        found.append(Answer(title, f"Of the gradient mass of wrong answers, {text}.", "#/?at=mined"))
    return found


def _worse_judge(rounds: Sequence[Round]) -> Answer:
    """The sharpest fall of a judge's precision from one round to the next."""
    title, link = "The round in which a judge got worse", "#/?at=judges"
    falls = []
    for before, after in pairwise(rounds):
        earlier = {(judge.judge, judge.against): judge for judge in before.judges}
        for judge in after.judges:
            was = earlier.get((judge.judge, judge.against))
            if was is not None and was.precision is not None and judge.precision is not None:
                falls.append((was.precision - judge.precision, judge, was.precision, after.round))
    if not falls:
        return Answer(title, "There are no two rounds yet in which a judge was measured.", link)
    fall, judge, before_precision, number = max(falls, key=lambda item: item[0])
    if fall < _LEAST_FALL:
        return Answer(title, "No judge got worse from one round to the next by more than half a point.", link)
    return Answer(title, _fall_words(judge, before_precision, number), link)


def _fall_words(judge: JudgeRound, before: float, number: int) -> str:
    return (
        f"Round {number}: the precision of {judge.judge} against {judge.against} fell from {100 * before:.1f} % to "
        f"{100 * (judge.precision or 0.0):.1f} % of the steps it calls right."
    )


# --- samples worth a look


def candidates(samples: Iterable[SampleSummary]) -> dict[str, SampleSummary]:
    """By question, the sample of a shard that shows it best; only questions with one.

    Keys: ``spared`` (a wrong answer with mined steps), ``disputed``, ``mistaken`` (a mined step that a judge which measures
    calls wrong).
    """
    found: dict[str, tuple[float, SampleSummary]] = {}
    for sample in samples:
        for key, rank in _ranks(sample).items():
            if rank > 0.0 and rank > found.get(key, (0.0, sample))[0]:
                found[key] = rank, sample
    return {key: sample for key, (_, sample) in found.items()}


def _ranks(sample: SampleSummary) -> dict[str, float]:
    """How well a sample shows each question; 0 where it does not. Short ones come first: they fit a screen."""
    fits = 1.0 if sample.num_tokens <= _SCREEN_TOKENS else 0.1
    is_spared = sample.drop is None and sample.reward == 0.0 and sample.num_spared > 0
    share = (sample.mined_mass or 0.0) / sample.mass if sample.mass else 0.0
    is_mixed = 1.0 if "x" in sample.strip else 0.5
    return {
        "spared": fits * is_mixed * (1e-6 + share) / (1 + sample.num_spared_wrong) if is_spared else 0.0,
        "disputed": fits * sample.dispute if sample.num_disputed else 0.0,
        "mistaken": fits * sample.num_spared_wrong,
    }


def answer_from_sample(key: str, view: SampleView) -> Answer:
    """The answer that a sample of :func:`candidates` gives, with a link to the step to look at."""
    of_sample = f"Round {view.round}, {view.prompt_id}, sample {view.sample}"
    match key:
        case "spared":
            spared = [step for step in view.steps if step.mined]
            text = (
                f"{of_sample}: the answer {_quoted(view.found)} is wrong (right is {_quoted(view.gold)}), and "
                f"{len(spared)} of its {len(view.steps)} steps are mined."
            )
            return Answer("A wrong answer whose right steps were spared", text, step_link(view, spared[0].index))
        case "disputed":
            step = max(view.steps, key=lambda step: step.dispute)
            said = ", ".join(
                f"{verdict.judge} {_said(verdict.label, verdict.score, verdict.status)}"
                for verdict in step.verdicts
                if verdict.role != "measure"
            )
            return Answer(
                "A step on which the judges disagree",
                f"{of_sample}, step {step.index}: {said}.",
                step_link(view, step.index),
            )
        case _:
            step = next(step for step in view.steps if step.mined and 0 in step.truth.values())
            who = ", ".join(name for name, label in step.truth.items() if label == 0)
            text = f"{of_sample}, step {step.index} was mined, and {who} calls it wrong."
            return Answer("Where the truth disagrees", text, step_link(view, step.index))


def step_link(view: SampleView, step: int) -> str:
    """The permanent link to a step."""
    return f"{sample_link(SampleId(view.round, view.prompt_id, view.sample))}/step/{step}"


def sample_link(id_: SampleId) -> str:
    """The permanent link to a sample."""
    return f"#/sample/{id_.round}/{quote(id_.prompt_id, safe='')}/{id_.sample}"


def _quoted(text: str | None) -> str:
    return "(none)" if text is None else f"“{text[:60]}”"


def _said(label: int | None, score: float | None, status: str) -> str:
    if label is None:
        return f"gave no verdict ({status.replace('_', ' ')})"
    words = "calls it right" if label else "calls it wrong"
    return words if score is None else f"{words} ({score:.2f})"
