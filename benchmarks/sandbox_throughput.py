"""How many programs of responses are checked a second, and what the sandbox costs beside a bare ``subprocess``.

Every program is run once for one test case of style ``stdin`` (a process in the sandbox), and once for asserts (two
processes, one of which judges). The reference starts the same interpreter on the same program with ``subprocess`` and nothing
around it: no isolation, no limits, site packages and all. Both with as many at once as there are processors, in one run, turn by
turn.

    python benchmarks/sandbox_throughput.py [--json FILE] [--repeats 5] [--programs 60] [--parallel N]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from measure import argument_parser, facts, finish, interleave, ratios, summarise

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.verify.code.code_tests import Case, CodeTests
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier

PROGRAM = "import sys\nfrom collections import Counter\nwords = sys.stdin.read().split()\nprint(len(words), len(Counter(words)))"
FUNCTION = "from collections import Counter\ndef count(text):\n    words = text.split()\n    return len(words), len(Counter(words))"
TEXT = "a b c a " * 200
ASSERTS = f"assert count({TEXT!r}) == (800, 3)\nassert count('') == (0, 0)"


def per_second(one: Callable[[int], None], num_programs: int, threads: ThreadPoolExecutor) -> float:
    """Programs a second of the clock."""
    begin = time.monotonic()
    for _ in threads.map(one, range(num_programs)):
        pass
    return num_programs / (time.monotonic() - begin)


def bare(_: int) -> None:
    """The program with nothing around it."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], input=TEXT.encode(), capture_output=True, check=True)
    assert ended.stdout == b"800 3\n"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--programs", type=int, default=60, help="of one measurement (default: %(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=len(os.sched_getaffinity(0)), help="at once (default: %(default)s)"
    )
    options = parser.parse_args()
    started = facts()
    verifier = CodeVerifier(num_parallel=options.parallel)

    def checked(code: str, tests: CodeTests) -> Callable[[int], None]:
        response, gold = f"```python\n{code}\n```", tests.to_json()

        def one(_: int) -> None:
            assert verifier.verify(response, gold, StopReason.STOP).reward == 1.0

        return one

    kinds: dict[str, Callable[[int], None]] = {
        "stdin, one case": checked(PROGRAM, CodeTests("stdin", (Case(TEXT, "800 3\n"),))),
        "asserts": checked(FUNCTION, CodeTests("asserts", check=ASSERTS)),
    }
    rows = {}
    with ThreadPoolExecutor(options.parallel) as threads:

        def measure(one: Callable[[int], None]) -> Callable[[int], float]:
            return lambda _: per_second(one, options.programs, threads)

        for name, one in kinds.items():
            per_second(one, options.parallel, threads)
            per_second(bare, options.parallel, threads)
            ours, reference = interleave(measure(one), measure(bare), options.repeats)
            rows |= _rows(name, ours, reference)
    settings = {"programs": options.programs, "parallel": options.parallel, "isolation": verifier.isolation.value}
    question = "How many programs are checked a second, and what does the sandbox cost?"
    finish(question, rows, settings=settings, json_file=options.json, started=started)


def _rows(name: str, ours: Sequence[float], reference: Sequence[float]) -> dict[str, dict[str, object]]:
    return {
        f"{name}: programs/s": summarise(ours),
        f"{name}: bare subprocess, programs/s": summarise(reference),
        f"{name}: ratio": ratios(ours, reference),
    }


if __name__ == "__main__":
    main()
