"""The vocabulary: ids, rows and statuses. Everything else speaks in these words.

One id, ``(round, prompt_id, sample)``, names a sample through every table. Records are frozen: a stage never edits a
record, it writes a row of another table. What is missing is a *status*, never a zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

StepRule = Literal["propagated", "local"]
"""What it takes for a step to be right. ``propagated``: neither it nor what it builds on is wrong, unless it corrects that (Error
Propagation and Error Termination, the paper's rules). ``local``: it is worked out rightly from what is written before it."""


class StopReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model emitted its end token
    LENGTH = "length"  # the token limit cut it off
    ABORTED = "aborted"  # the engine gave the request up; such a sample has no reward
    PROMPT_TOO_LONG = "prompt_too_long"  # the prompt leaves no room in the model's context: nothing was asked


class OutcomeStatus(StrEnum):
    """Whether a sample could be verified. The first three carry a reward, the others none."""

    VERIFIED = "verified"
    NO_ANSWER = "no_answer"  # nothing to check was found in the response: counts as wrong, reward 0
    TRUNCATED = "truncated"  # cut off before an answer: counts as wrong, reward 0
    ENGINE_LOST = "engine_lost"  # the generation was aborted: no reward
    VERIFIER_ERROR = "verifier_error"  # the verifier failed or ran out of time: no reward
    PROMPT_TOO_LONG = "prompt_too_long"  # there is no response, since the prompt did not fit: no reward


class VerdictStatus(StrEnum):
    """Whether a judge said something usable about a step. Only ``JUDGED`` carries a label or a score."""

    JUDGED = "judged"
    UNPARSABLE = "unparsable"  # the judge answered, but not in its format
    REFUSED = "refused"  # the judge declined, or the step cannot be judged by it (e.g. beyond its context)
    TIMEOUT = "timeout"
    ENGINE_LOST = "engine_lost"
    NOT_ASKED = "not_asked"  # judges before it had decided the step (judges.*.after): nothing is missing

    @property
    def is_missing(self) -> bool:
        """Whether the judge was asked and nothing usable came of it."""
        return self not in (VerdictStatus.JUDGED, VerdictStatus.NOT_ASKED)


class ErrorType(StrEnum):
    """What is wrong with a step (taxonomy: ProcessBench's guide and 'Beyond the First Error', arXiv 2505.14391)."""

    NONE = "none"
    CALCULATION = "calculation"
    ALGEBRA_OR_DERIVATION = "algebra_or_derivation"
    FORMULA_MISUSE = "formula_misuse"
    LOGIC = "logic"
    MISREAD_PROBLEM = "misread_problem"
    UNJUSTIFIED_ASSUMPTION = "unjustified_assumption"
    MISSING_CASE = "missing_case"
    INCONSISTENT_WITH_EARLIER = "inconsistent_with_earlier"
    PROPAGATED = "propagated"
    NO_CONTENT = "no_content"


class DropReason(StrEnum):
    """Why a sample that was asked for does not reach training. Asked = kept + dropped, by these reasons."""

    ALL_CORRECT = "all_correct"  # its whole group is right: advantage 0 everywhere
    ALL_WRONG = "all_wrong"
    PROMPT_TOO_LONG = "prompt_too_long"  # its prompt leaves no room in the model's context
    UNVERIFIED = "unverified"  # this sample has no reward
    GROUP_UNVERIFIED = "group_unverified"  # too few of its group have one
    EMPTY = "empty"  # no response token
    TRUNCATED = "truncated"  # cut off at the token limit, where `weigh.truncated` is mask or drop
    NOT_TRAINED_ON = "not_trained_on"  # the objective takes only right (or only wrong) responses
    UNPAIRED = "unpaired"  # the objective takes pairs, and this response is in none


EXTERNAL_POLICY_VERSION = -1  # of responses that no version of this run has drawn; the manifest names their source
GREEDY_SAMPLE = -1  # the sample number of the greedy response in an evaluation; sampled ones count from 0


@dataclass(frozen=True, slots=True, order=True)
class SampleId:
    """The one id: ``sample`` counts the G responses to ``prompt_id`` in ``round``, from 0."""

    round: int
    prompt_id: str
    sample: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem with its gold answer.

    Attributes:
        prompt_id: unique within the data set.
        question: the problem as the user message of the chat template.
        answer: the gold answer, as text; what counts as equal is the verifier's business.
    """

    prompt_id: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response as the sampler produced it.

    Attributes:
        prompt_token_ids: the templated prompt, generation prompt included.
        token_ids: the response's own ids, end token included when it was emitted. Never re-tokenised.
        sampler_logprobs: one per response token, nats, the model's own distribution at temperature 1; none where they are
            unknown (imported).
        token_texts: what each token adds to the text, so that they join to the response. A special token adds ``""``, and of
            the tokens that share a multi-byte character only the one that completes it adds it.
        policy_version: the snapshot version that answered; below 0, made elsewhere (``EXTERNAL_POLICY_VERSION``).
        seed: the sampling seed of this request; ``None`` when the engine was not seeded per request.
        entropies: one per response token, nats: the sampler's entropy there, from its likeliest tokens
            (``stages.generate.entropy``); none where they were not asked for (no file has the column then).
    """

    id: SampleId
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    token_texts: tuple[str, ...]
    stop_reason: StopReason
    policy_version: int
    seed: int | None
    entropies: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """The response, special tokens left out."""
        return "".join(self.token_texts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final-answer check of one sample. ``reward`` is 0.0 or 1.0, or ``None`` when there is none (see status); ``why`` then
    says what failed.
    """

    id: SampleId
    status: OutcomeStatus
    reward: float | None
    extracted: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a wrong response: tokens ``start..end-1`` of the response, and the text of the step.

    Steps tile the response's tokens and their texts tile its text. ``shares_last_token`` says that the last token also
    holds visible text of the next step, so a label counts for that token only where both steps have it.
    """

    start: int
    end: int
    text: str
    shares_last_token: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge said about one step.

    Attributes:
        label: the judge's 0/1 answer; ``None`` for a judge that scores, or when there is no verdict.
        score: the judge's P(step is right) in [0, 1], raw; ``None`` for a judge that labels, or no verdict.
        raw: the judge's answer as it came (shared by the steps of one call), for inspection.
    """

    id: SampleId
    step: int
    judge: str
    judge_version: str
    status: VerdictStatus
    label: int | None = None
    score: float | None = None
    error_type: ErrorType | None = None
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the driver sees of a finished piece of work: never rows, only their account.

    Attributes:
        attempt: the id of the attempt that wrote the file; a shard is accepted once, by attempt.
        path: the file, relative to the run directory.
        seconds: wall time of the attempt inside the worker.
        metrics: sums and counts of the piece (additive over shards).
    """

    table: str
    round: int
    shard: int
    attempt: str
    path: str
    num_rows: int
    num_bytes: int
    checksum: str
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepCheckpoint:
    """A step checkpoint of a round's training that counts.

    Attributes:
        num_steps: optimiser steps that were done.
        digest: sha256 of its record, which has a digest of every file.
    """

    num_steps: int
    digest: str
