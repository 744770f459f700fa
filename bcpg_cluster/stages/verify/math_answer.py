"""Mathematical answers, compared by math-verify in a process of their own (docs/method.md).

math-verify keeps time by signals, which do not work off the main thread, and sympy may hang or eat all memory. So the
comparison runs in one long-lived child (``math_process.py``); the time limit is kept from here, by killing it
(``line_process.py``). The next call starts a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.line_process import LineProcess
from bcpg_cluster.stages.verify.protocol import Verification, part_to_check, without_answer

_PROGRAM = Path(__file__).with_name("math_process.py")
_MAX_CHARACTERS = 100_000  # of the answer part; its end is kept


class MathVerifier:
    r"""Equality of mathematical expressions by math-verify, gold answer first.

    Only text after the last ``</think>`` is read, and a ``\boxed{}`` answer comes before any other. In a response that
    was cut off only a ``\boxed{}`` answer counts: the last number of an unfinished sentence is no answer.

    Args:
        time_limit_s: for one comparison. Starting the process (importing sympy) does not count.
        prompt_opens_thinking: the generation prompt ends with ``<think>``, so a response without ``</think>`` has not
            come to its answer.
        start_limit_s: for starting the process.
        memory_gib: address space of the process.
    """

    def __init__(
        self,
        time_limit_s: float = 10.0,
        *,
        prompt_opens_thinking: bool = False,
        start_limit_s: float = 120.0,
        memory_gib: float = 4.0,
    ) -> None:
        self._time_limit_s = time_limit_s
        self._prompt_opens_thinking = prompt_opens_thinking
        self._process = LineProcess(
            _PROGRAM,
            [str(memory_gib), str(time_limit_s + 5.0)],
            name="the math verifier",
            hint="is math-verify installed?",
            time_limit_s=time_limit_s,
            start_limit_s=start_limit_s,
        )
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """How responses came out so far.

        ``answer`` (an expression), ``unparsed`` (an answer stands there, but it is no expression to math-verify, which
        compared it as text: wrong unless that is equal), ``no_answer``, and ``error`` (time, memory, a crash: no reward).
        """
        return dict(self._counts)

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        part = part_to_check(response, stop_reason, prompt_opens_thinking=self._prompt_opens_thinking)
        if isinstance(part, Verification):
            return part
        if stop_reason is StopReason.LENGTH and not _has_boxed_answer(part):
            return without_answer(stop_reason)
        reply = self._process.ask({"gold": gold, "response": part[-_MAX_CHARACTERS:]})
        self._counts[_kind(reply)] += 1
        if reply["status"] == "no_answer":
            return without_answer(stop_reason)
        if reply["status"] != "verified":
            return Verification(OutcomeStatus.VERIFIER_ERROR, None)
        return Verification(
            OutcomeStatus.VERIFIED, float(reply["is_equal"]), reply["extracted"], is_unparsed=not reply["is_parsed"]
        )

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        reply = self._process.ask({"gold": gold})
        if reply["status"] != "good_gold":
            raise DataError(
                f"the gold answer {gold!r} cannot be used: {reply['message']}",
                rule=f"math-verify must be able to parse every gold answer within {self._time_limit_s:g} s",
                remedy="correct the answer or leave the prompt out",
            )

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        self._process.close()


def _kind(reply: Mapping[str, Any]) -> str:
    """What to count a reply as."""
    if reply["status"] == "verified":
        return "answer" if reply["is_parsed"] else "unparsed"
    return "no_answer" if reply["status"] == "no_answer" else "error"


def _has_boxed_answer(part: str) -> bool:
    r"""Whether a ``\boxed{...}`` stands there whole."""
    start = part.rfind("\\boxed{")
    depth = 0
    for character in part[start:] if start >= 0 else "":
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return True
    return False
