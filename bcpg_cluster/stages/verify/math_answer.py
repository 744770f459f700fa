"""Mathematical answers, read by ``mathematics/`` and compared by math-verify in a process of their own (docs/method.md).

Numbers, times and words are compared here at once. For the rest math-verify keeps time by signals, which do not work off
the main thread, and sympy may hang or eat all memory. So that runs in one long-lived child
(``mathematics/math_process.py``); the time limit is kept from here, by killing it (``line_process.py``). The next call
starts a new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bcpg_cluster.errors import DataError, LostCheckError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.line_process import LineProcess
from bcpg_cluster.stages.verify.mathematics.boxes import answer_boxes, without_placeholders
from bcpg_cluster.stages.verify.mathematics.notation import Reading, plain_text, read_answer, unwrapped, with_unit_after
from bcpg_cluster.stages.verify.mathematics.plain_equality import plainly_equal, same_units
from bcpg_cluster.stages.verify.protocol import Verification, part_to_check, without_answer

_PROGRAM = Path(__file__).parent / "mathematics" / "math_process.py"
_MAX_CHARACTERS = 100_000  # of the answer part; its end is kept
_PROCESSOR_SHARE = 0.5  # of the time limit
_LATEX_INSIDE = re.compile(r"(?<!\\)\$[^$]+\$|(?<!\\)\\[\[(]")


@dataclass(frozen=True, slots=True)
class _Comparison:
    """``is_equal`` is ``None`` where the gold answer cannot be read, or time or memory ran out (``is_lost``)."""

    is_equal: bool | None
    why: str
    is_parsed: bool = True
    is_lost: bool = False


class MathVerifier:
    r"""Equality of mathematical answers; docs/data.md says what is equal to what.

    Only text after the last ``</think>`` is read, and a ``\boxed{}`` answer comes before any other. In a response that
    was cut off only a ``\boxed{}`` answer counts: the last number of an unfinished sentence is no answer.

    Args:
        time_limit_s: for one comparison; without a reward where it runs out. An answer that takes half of it in processor
            time is wrong. Starting the process (importing sympy) does not count.
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
            [str(memory_gib), str(time_limit_s + 5.0), str(_PROCESSOR_SHARE * time_limit_s)],
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
        part = part[-_MAX_CHARACTERS:]
        boxes = answer_boxes(part)
        if boxes:
            last = boxes[-1].content
            said = None if last is None or not last.strip() else tuple(box.content or "" for box in boxes)
            missing = "its last box is empty" if last is not None else "its last box never closes"
        elif stop_reason is StopReason.LENGTH:
            said, missing = None, "cut off before an answer in a box"
        else:
            found = self._search(part)
            if isinstance(found, Verification):
                return found
            said, missing = (None if found is None else (found,)), "no box and no expression"
        if said is None:
            self._counts["no_answer"] += 1
            return without_answer(stop_reason, missing)
        return self._verified(said, gold)

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`. It has to be right as its own answer in a box."""
        wanted, problem = self._gold_text(gold)
        kind = DataError
        if not problem:
            comparison = self._compare(wanted, wanted)
            if comparison.is_equal:
                return
            problem = comparison.why if comparison.is_equal is None else f"it does not equal itself: {comparison.why}"
            kind = LostCheckError if comparison.is_lost else DataError
        raise kind(
            f"the gold answer {gold!r} cannot be used: {problem}",
            rule=f"a response that boxes the gold answer is right: math-verify reads it within {self._time_limit_s:g} s",
            remedy="correct the answer or leave the prompt out",
        )

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        self._process.close()

    def _verified(self, said: tuple[str, ...], gold: str) -> Verification:
        """The verdict on an answer: the content of its boxes."""
        extracted = ", ".join(unwrapped(box) or box for box in dict.fromkeys(said))
        wanted, problem = self._gold_text(gold)
        comparison = _Comparison(None, problem) if problem else self._compare(wanted, extracted)
        if comparison.is_equal is False and len(said) > 1:
            comparison = self._each_equal(wanted, said, comparison)
        if comparison.is_equal is None:
            self._counts["error"] += 1
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, extracted_gold=wanted or None, why=comparison.why)
        self._counts["answer" if comparison.is_parsed else "unparsed"] += 1
        return Verification(
            OutcomeStatus.VERIFIED,
            float(comparison.is_equal),
            extracted,
            is_unparsed=not comparison.is_parsed,
            extracted_gold=wanted,
            why=comparison.why,
        )

    def _each_equal(self, gold: str, said: tuple[str, ...], joined: _Comparison) -> _Comparison:
        """One answer in several forms, "50% or 1/2": right when each of them is."""
        for box in said:
            one = self._compare(gold, box)
            if not one.is_equal:
                return one if one.is_equal is None else joined
        return _Comparison(True, "one answer in several forms")

    def _gold_text(self, gold: str) -> tuple[str, str]:
        """What is read from a gold answer, and why nothing can be (or an empty text)."""
        if len(gold) > _MAX_CHARACTERS:
            return "", f"it has {len(gold)} characters"
        boxes = answer_boxes(gold)
        if boxes:
            content = ", ".join(unwrapped(box.content or "") for box in boxes)
        elif _LATEX_INSIDE.search(unwrapped(gold)):
            found = self._search(gold)
            content = found if isinstance(found, str) else ""
        else:
            content = gold
        text = unwrapped(content)
        return (text, "") if text else ("", "no expression found in it")

    def _search(self, text: str) -> str | Verification | None:
        """The last expression of a text without a box."""
        searched = plain_text(without_placeholders(text))
        reply = self._process.ask({"response": searched})
        if reply["status"] != "searched":
            self._counts["error"] += 1
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=reply.get("message", ""))
        found: str | None = reply["found"]
        return None if found is None else with_unit_after(found, searched)

    def _compare(self, gold: str, said: str) -> _Comparison:
        """Compare all readings of two answers."""
        outcomes = []
        for wanted, found in product(read_answer(gold), read_answer(said)):
            outcomes.append(self._compare_readings(wanted, found))
            if outcomes[-1].is_equal is not False:
                return outcomes[-1]
        return outcomes[0] if outcomes else _Comparison(False, "no answer in the box", is_parsed=False)

    def _compare_readings(self, gold: Reading, said: Reading) -> _Comparison:
        pair = same_units(gold, said)
        if pair is None:
            return _Comparison(False, "units of different kinds")
        is_equal = plainly_equal(*pair)
        if is_equal is None:
            return self._by_algebra(*pair)
        return _Comparison(is_equal, f"{'equal' if is_equal else 'different'} {_what(*pair)}")

    def _by_algebra(self, gold: Reading, said: Reading) -> _Comparison:
        reply = self._process.ask({"gold": gold.text, "said": said.text})
        if reply["status"] != "compared":
            return _Comparison(None, reply["message"], is_lost=reply["status"] == "error")
        return _Comparison(reply["is_equal"], reply["why"], reply["is_parsed"])


def _what(gold: Reading, said: Reading) -> str:
    """What two readings were compared as, in words."""
    if gold.number is not None and said.number is not None:
        return "numbers"
    return {"time": "times of day", "base": "digits, or another base", "words": "words"}.get(
        gold.kind or said.kind, "texts"
    )
