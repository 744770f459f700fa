"""The process behind ``math_answer.MathVerifier``: one JSON request a line on stdin, one JSON reply a line on stdout.

Three limits on a comparison. One of processor time, kept here: an answer that takes more of it is wrong, since only the
answer can be the reason. Whoever asks keeps one of wall time and kills this process: the machine may be the reason, so
there is no verdict. And an alarm some seconds later, whose default action the kernel itself carries out, ends a comparison
whose asker is gone.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import FrameType
from typing import Any, TypeVar

from bcpg_cluster.stages.verify.mathematics.comparison import Compared, compare, expressions, last_expression, lay_rule

_T = TypeVar("_T")


class _TooMuchWork(BaseException):
    """The processor time is used up. No ``Exception``: math-verify swallows those wherever it tries several ways."""


def _too_much_work(signal_number: int, frame: FrameType | None) -> None:
    raise _TooMuchWork


def answer(request: dict[str, str], processor_limit_s: float) -> dict[str, Any]:
    """The reply to ``{"gold"}``, ``{"gold", "said"}`` (both LaTeX without a box) or ``{"response"}`` (a text without a box)."""
    if "response" in request:
        found = _within(processor_limit_s, lambda: last_expression(request["response"]))
        return {"status": "searched", "found": found}
    if not expressions(request["gold"]):
        return {"status": "bad_gold", "message": "no expression found in it"}
    if "said" not in request:
        return {"status": "good_gold"}
    compared = _within(processor_limit_s, lambda: compare(request["gold"], request["said"]))
    if compared is None:
        compared = Compared(False, True, f"more than {processor_limit_s:g} s of work to compare")
    return {"status": "compared", **asdict(compared)}


def _within(processor_limit_s: float, work: Callable[[], _T]) -> _T | None:
    """What ``work`` returns; ``None`` where it takes more processor time than that."""
    signal.setitimer(signal.ITIMER_PROF, processor_limit_s)
    try:
        return work()
    except _TooMuchWork:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def main() -> None:
    """Answer until stdin ends. Arguments: address space in GiB, seconds after which a request ends the process, and seconds
    of processor time for a comparison.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing a library prints may pass for a reply
    logging.disable(logging.CRITICAL)
    memory = int(float(sys.argv[1]) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    last_resort_s = float(sys.argv[2])
    processor_limit_s = float(sys.argv[3])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, _too_much_work)
    lay_rule()
    last_expression("$1$")  # builds the patterns
    print('{"status": "ready"}', file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, last_resort_s)
        try:
            reply = answer(json.loads(line), processor_limit_s)
        except Exception as error:
            reply = {"status": "error", "message": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
