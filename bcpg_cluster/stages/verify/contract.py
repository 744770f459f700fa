r"""The contract of ``stages.verify.protocol.Verifier`` as checks that anybody can run on a verifier of their own.

>>> failures(Subject(verifier, gold="18", right="so \\\boxed{18}", wrong="so \\\boxed{19}"))   # doctest: +SKIP
[]
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bcpg_cluster.errors import UserError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.counts import REWARDED
from bcpg_cluster.stages.verify.protocol import Verification, Verifier

_ODD = ("\x00\ud83c", "}" * 500, "$" * 999, "```python\n", "</think>" * 9)


@dataclass(frozen=True, slots=True)
class Subject:
    """A verifier with a problem it knows: a gold answer, and responses that say a right answer and a wrong one.

    ``bad_golds`` are gold answers that :meth:`Verifier.check_gold` must refuse.
    """

    verifier: Verifier
    gold: str
    right: str
    wrong: str
    bad_golds: tuple[str, ...] = ("", "  ")


def _verified(subject: Subject, response: str, reward: float) -> None:
    result = subject.verifier.verify(response, subject.gold, StopReason.STOP)
    assert (result.status, result.reward) == (OutcomeStatus.VERIFIED, reward), f"{response!r:.200} gave {result}"
    assert result.extracted is not None, f"{result} says no answer"


def _without(result: Verification, status: OutcomeStatus) -> None:
    assert (result.status, result.reward) == (status, 0.0), f"got {result}, wanted {status} with reward 0"


def right_is_1(subject: Subject) -> None:
    """A right answer has reward 1, also after thinking that said the wrong one."""
    _verified(subject, subject.right, 1.0)
    _verified(subject, subject.wrong + "</think>" + subject.right, 1.0)


def wrong_is_0(subject: Subject) -> None:
    """A wrong answer has reward 0, also after thinking that said the right one."""
    _verified(subject, subject.wrong, 0.0)
    _verified(subject, subject.right + "</think>" + subject.wrong, 0.0)


def nothing_is_no_answer(subject: Subject) -> None:
    """Without text after the last ``</think>``, or with thinking that never ends, there is no answer: reward 0."""
    for response in ("", " \n", "<think>hm</think>", "<think>hm</think>\n\n", "<think>" + subject.right):
        _without(subject.verifier.verify(response, subject.gold, StopReason.STOP), OutcomeStatus.NO_ANSWER)
        _without(subject.verifier.verify(response, subject.gold, StopReason.LENGTH), OutcomeStatus.TRUNCATED)


def aborted_has_no_reward(subject: Subject) -> None:
    """An aborted generation is the engine's failure, whatever it says."""
    for response in (subject.right, ""):
        result = subject.verifier.verify(response, subject.gold, StopReason.ABORTED)
        assert (result.status, result.reward) == (OutcomeStatus.ENGINE_LOST, None), f"got {result}"


def a_bad_gold_is_never_a_label(subject: Subject) -> None:
    """``check_gold`` takes a good gold answer and refuses bad ones with the rule and the remedy."""
    subject.verifier.check_gold(subject.gold)
    for bad in subject.bad_golds:
        try:
            subject.verifier.check_gold(bad)
        except UserError as error:
            assert error.rule and error.remedy, f"{error!r} has no rule or remedy"
        else:
            raise AssertionError(f"check_gold took {bad!r}")


def odd_input_never_raises(subject: Subject) -> None:
    """Whatever stands in a response, there is a reward of 0 or 1 exactly with the statuses that have one."""
    for response in _ODD:
        for stop_reason in (StopReason.STOP, StopReason.LENGTH):
            result = subject.verifier.verify(response, subject.gold, stop_reason)
            assert (result.reward in (0.0, 1.0)) == (result.status in REWARDED), f"{response!r:.40} gave {result}"
            assert (result.reward is None) == (result.status not in REWARDED), f"{response!r:.40} gave {result}"


def threads_get_their_own_answers(subject: Subject) -> None:
    """Several threads may ask at once."""
    responses = [subject.right, subject.wrong] * 8

    def ask(response: str) -> float | None:
        return subject.verifier.verify(response, subject.gold, StopReason.STOP).reward

    with ThreadPoolExecutor(4) as pool:
        rewards = list(pool.map(ask, responses))
    assert rewards == [1.0, 0.0] * 8, f"got {rewards}"


CHECKS: tuple[Callable[[Subject], None], ...] = (
    right_is_1,
    wrong_is_0,
    nothing_is_no_answer,
    aborted_has_no_reward,
    a_bad_gold_is_never_a_label,
    odd_input_never_raises,
    threads_get_their_own_answers,
)


def failures(subject: Subject) -> list[str]:
    """The checks that the verifier does not pass, each with what it did; whatever it raises is a failure too."""
    found = []
    for check in CHECKS:
        try:
            check(subject)
        except Exception as error:  # a verifier under test may raise anything
            found.append(f"{check.__name__}: {type(error).__name__}: {error}")
    return found
