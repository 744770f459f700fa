"""What the rest of the system asks of an outcome verifier, and what all verifiers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import OutcomeStatus, Prompt, StopReason

THINK_START = "<think>"
THINK_END = "</think>"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verifier found.

    Attributes:
        reward: 1.0 or 0.0; ``None`` exactly with the statuses that carry none (:class:`OutcomeStatus`).
        extracted: the answer as it was read, when one was found.
        is_unparsed: there is an answer, but nothing that could be compared was read from it (it counts as wrong).
        extracted_gold: the gold answer as it was read, where a verifier reads it.
        why: what decided, in a few words for people; empty where a verifier does not say.
    """

    status: OutcomeStatus
    reward: float | None
    extracted: str | None = None
    is_unparsed: bool = False
    extracted_gold: str | None = None
    why: str = ""


class Verifier(Protocol):
    """Compares the final answer of a response with the gold one. Thread-safe and blocking, like engines."""

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """Check one response. Never raises over what a response or a gold answer says.

        ``VERIFIED`` has reward 0 or 1. Without an answer the reward is 0: ``TRUNCATED`` when the token limit cut the
        response off (docs/method.md, paper-faithful), else ``NO_ANSWER``. An aborted generation is ``ENGINE_LOST`` and a
        verifier that fails or runs out of time ``VERIFIER_ERROR``, both without a reward.

        Raises:
            EngineError: the verifier itself cannot be started.
        """
        ...

    def check_gold(self, gold: str) -> None:
        """Look at a gold answer before a run starts.

        Raises:
            DataError: no response could ever be checked against it; a ``LostCheckError`` where another try may say otherwise.
        """
        ...

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        ...


@runtime_checkable
class SampleVerifier(Protocol):
    """What a verifier has, beside :class:`Verifier`, that reads the prompt too."""

    def verify_sample(self, response: str, prompt: Prompt, stop_reason: StopReason) -> Verification:
        """As :meth:`Verifier.verify`, against the prompt's gold answer. A run asks this where it is there."""
        ...


def answer_part(response: str) -> str | None:
    """Where the answer may stand: after the last ``</think>`` if there is one; ``None`` when thinking never ended."""
    before, found, after = response.rpartition(THINK_END)
    if THINK_START in after:
        return None
    return after if found else before + after


def part_to_check(response: str, stop_reason: StopReason, *, prompt_opens_thinking: bool) -> str | Verification:
    """What of a response there is to check, or the verdict where there is nothing.

    Args:
        prompt_opens_thinking: the generation prompt ends with ``<think>``, so a response without ``</think>`` has not come to
            its answer.
    """
    if stop_reason is StopReason.ABORTED:
        return Verification(OutcomeStatus.ENGINE_LOST, None, why="the generation was aborted")
    part = answer_part(response)
    if part is None or not part.strip() or (prompt_opens_thinking and THINK_END not in response):
        return without_answer(stop_reason, "no text after the last </think>" if response.strip() else "no text")
    return part


def check_not_empty(gold: str) -> None:
    """Raises :class:`DataError` for a gold answer without any text."""
    if not gold.strip():
        raise DataError(
            f"the gold answer {gold!r} is empty",
            rule="every prompt needs an answer to compare with",
            remedy="fill it in or leave the prompt out",
        )


def without_answer(stop_reason: StopReason, why: str = "no answer") -> Verification:
    """The verdict on a response in which there is nothing to check."""
    cut_off = stop_reason is StopReason.LENGTH
    return Verification(OutcomeStatus.TRUNCATED if cut_off else OutcomeStatus.NO_ANSWER, 0.0, why=why)
