"""The process behind ``math_answer.MathVerifier``: one JSON request a line on stdin, one JSON reply a line on stdout.

Run as a file, it imports nothing of this package. Whoever asks keeps the time and kills it; an alarm some seconds
later, whose default action the kernel itself carries out, ends a comparison that nobody waits for any more.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

# docs/method.md: boxed answers first, and for rewards the stricter normalisation.
_STRICT = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=False
)
_RESPONSE = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_STRICT), ExprExtractionConfig())
_GOLD = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_LATEX = re.compile(r"(?<!\\)\$|\\boxed|(?<!\\)\\[\[(]")


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    """The gold answer; bare text is wrapped, since LaTeX is only found in an environment."""
    wrapped = gold if _LATEX.search(gold) else f"\\boxed{{{gold}}}"
    return list(parse(wrapped, _GOLD, parsing_timeout=None, raise_on_error=True)) if gold.strip() else []


def _text(parsed: list[Any]) -> str:
    """The answer as it stood in the text (parsed expressions may take forever to print)."""
    return next((item for item in parsed if isinstance(item, str)), "")


def answer(request: dict[str, str]) -> dict[str, Any]:
    """The reply to ``{"gold"}`` or ``{"gold", "response"}``."""
    try:
        gold = _parse_gold(request["gold"])
    except MemoryError:
        raise
    except Exception as error:
        return {"status": "bad_gold", "message": f"{type(error).__name__}: {error}"}
    if all(isinstance(item, str) for item in gold):
        return {"status": "bad_gold", "message": "no expression found in it"}
    if "response" not in request:
        return {"status": "good_gold"}
    try:
        said = list(parse(request["response"], _RESPONSE, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:
        said = []
    if not said:
        return {"status": "no_answer"}
    failure: Exception | None = None
    is_equal = False
    # Where it finds an answer but no expression in it, math-verify keeps its text alone, and compares that.
    found = {"status": "verified", "extracted": _text(said), "is_parsed": not all(isinstance(s, str) for s in said)}
    for wanted in gold:
        for candidate in said:
            try:
                is_equal = verify(wanted, candidate, timeout_seconds=None, raise_on_error=True)
            except Exception as error:
                failure = error
            if is_equal:
                return found | {"is_equal": True}
    if failure is not None:
        raise failure
    return found | {"is_equal": False}


def main() -> None:
    """Answer until stdin ends. Arguments: address space in GiB, seconds after which a comparison ends the process."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing a library prints may pass for a reply
    logging.disable(logging.CRITICAL)
    memory = int(float(sys.argv[1]) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    last_resort_s = float(sys.argv[2])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parse("$1$", _RESPONSE, parsing_timeout=None)  # builds the patterns
    print('{"status": "ready"}', file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, last_resort_s)
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"status": "error", "message": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
