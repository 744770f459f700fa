"""A newcomer's first questions, answered from the rounds and from what was found in some shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from bcpg_cluster.records import SampleId
from bcpg_cluster.watch.view.overview.records import Answer, Round
from bcpg_cluster.watch.view.records import SampleSummary
from bcpg_cluster.watch.view.rule_words import listed
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
    total, asked = sum(dropped.values()), sum(round_.asked or 0 for round_ in rounds)
    if total:
        reasons = " ".join(
            f"{num:,} {reason.replace('_', ' ')}: {words[reason]}"
            for reason, num in sorted(dropped.items(), key=lambda item: -item[1])
        )
        text = f"Of {asked:,} samples {total:,} were dropped. {reasons}".strip()
        found.append(Answer(f"Why {total:,} samples were dropped", text, "#/?at=samples"))
    if any(round_.mined_gradient_share is not None for round_ in rounds):
        found.append(Answer("What share of the gradient mined tokens hold", _mined_words(rounds), "#/?at=mined"))
    return found


def _mined_words(rounds: Sequence[Round]) -> str:
    """How much of the gradient mass of wrong answers lies on mined tokens, and what becomes of it."""
    known = [round_ for round_ in rounds if round_.mined_gradient_share is not None]
    shares = [
        f"{_percent(round_.mined_gradient_share)}{' lies on mined tokens' if round_ is known[0] else ''} in round {round_.round}"
        + (f" ({_percent(round_.mined_token_share)} of tokens)" if round_.mined_token_share is not None else "")
        for round_ in known
    ]
    weight = known[-1].mined_weight
    if weight is None:
        effect = "the objective takes no token weights, so this is only counted"
    elif weight == 0.0:
        effect = "at beta 0 they are spared all of it"
    elif weight == 1.0:
        effect = "at beta 1 all of it counts"
    else:
        effect = f"at beta {weight:g} it is weighted by {weight:g}" + (", a reward" if weight < 0.0 else "")
    return f"Of the gradient mass (1 − p) of wrong answers, {', '.join(shares)}: {effect}."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True)
class _Fall:
    """A judge's precision against one measure, from a round to the next."""

    judge: str
    against: str | None
    round: int
    before: float
    after: float

    @property
    def size(self) -> float:
        """As a share: 0.1 is ten points."""
        return self.before - self.after


def _worse_judge(rounds: Sequence[Round]) -> Answer:
    """The sharpest fall of a judge's precision from one round to the next, and which other falls there were."""
    title, link = "The round in which a judge got worse", "#/?at=judges"
    judges = [judge for round_ in rounds for judge in round_.judges]
    if judges and all(judge.against is None for judge in judges):
        unmeasured = "No judge is measured in this run: that takes one that knows the truth (role: measure)."
        return Answer(title, unmeasured, link)
    changes = _changes(rounds)
    if not changes:
        return Answer(title, "There are no two rounds yet in which a judge was measured.", link)
    falls = sorted((change for change in changes if change.size >= _LEAST_FALL), key=lambda fall: -fall.size)
    if not falls:
        return Answer(title, "No judge got worse from one round to the next by more than half a point.", link)
    return Answer(title, _fall_words(falls[0]) + _other_falls(falls[1:]), link)


def _changes(rounds: Sequence[Round]) -> list[_Fall]:
    """What every judge's precision did from each round to the next; a rise is a fall below 0."""
    found = []
    for before, after in pairwise(rounds):
        earlier = {(judge.judge, judge.against): judge.precision for judge in before.judges}
        for judge in after.judges:
            was = earlier.get((judge.judge, judge.against))
            if was is not None and judge.precision is not None:
                found.append(_Fall(judge.judge, judge.against, after.round, was, judge.precision))
    return found


def _fall_words(fall: _Fall) -> str:
    return (
        f"Round {fall.round}: the precision of {_called(fall.judge)} against {fall.against} fell from {_percent(fall.before)} to "
        f"{_percent(fall.after)} of the steps it calls right."
    )


def _other_falls(falls: Sequence[_Fall]) -> str:
    """A short sentence about all of them; empty without one."""
    by_judge: dict[str, set[int]] = {}
    for fall in falls:
        by_judge.setdefault(_called(fall.judge), set()).add(fall.round)
    if not by_judge:
        return ""
    parts: list[str] = []
    for judge, numbers in by_judge.items():
        verb = "" if parts else " fell"
        parts.append(
            f"{judge}{verb} in {'rounds' if len(numbers) > 1 else 'round'} {listed([*map(str, sorted(numbers))])}"
        )
    words = "; ".join(parts)
    return f" {words[0].upper() + words[1:] if words.startswith('the ') else words}, too."


def _called(judge: str) -> str:
    return "the consensus" if judge == "consensus" else judge


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
