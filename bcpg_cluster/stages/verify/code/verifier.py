"""Programs, checked by unit tests in a sandbox (tests: ``code_tests``; the sandbox: ``sandbox``).

What should come out never enters a program's process: outputs and returned values are compared here, and asserts run in a
process of their own that only sends calls to the program. All tests must pass for a reward.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.errors import DataError, EngineError, page
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.code.code_tests import MAX_OUTPUT_BYTES, Case, CodeTests
from bcpg_cluster.stages.verify.code.compare import DEFAULT_TOLERANCE, same_output, same_value
from bcpg_cluster.stages.verify.code.fences import find_code
from bcpg_cluster.stages.verify.code.inside.judge_process import wanted_names
from bcpg_cluster.stages.verify.code.inside.plain_data import encode
from bcpg_cluster.stages.verify.code.isolation import Isolation
from bcpg_cluster.stages.verify.code.limits import MACHINES_DOING, Limits, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.running import Running, attend
from bcpg_cluster.stages.verify.code.sandbox import DEFAULT_PACKAGES, Sandbox
from bcpg_cluster.stages.verify.protocol import Verification, part_to_check, without_answer

_LOG = logging.getLogger(__name__)


class NoVerdictError(Exception):
    """It could not be found out whether a program is right, which is not the program's doing."""


class CodeVerifier:
    """The fenced code block of a response that holds its answer must pass all tests.

    Args:
        limits: of one test case (asserts: of all of them, and as much again for the process that judges).
        tolerance: of floats, absolute or relative (``compare``).
        packages: installed distributions that programs may import.
        num_parallel: programs at once, over all threads that ask; absent: as many as this process has processors.
        overdue_is_wrong: a program that uses up its wall time has reward 0. It has no reward where it spent most of that time
            waiting for a processor.
        allow_unsandboxed: continue where the machine cannot isolate programs (see :class:`Sandbox`).
        prompt_opens_thinking: the generation prompt ends with ``<think>``, so a response without ``</think>`` has not
            come to its answer.

    Attributes:
        counts: why responses had no verdict, by the run's status or the error's name.

    Raises:
        ConfigError: this machine cannot isolate programs, and ``allow_unsandboxed`` is false.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        tolerance: float = DEFAULT_TOLERANCE,
        packages: Sequence[str] = DEFAULT_PACKAGES,
        num_parallel: int | None = None,
        overdue_is_wrong: bool = True,
        allow_unsandboxed: bool = False,
        prompt_opens_thinking: bool = False,
    ) -> None:
        self._sandbox = Sandbox(limits, packages=packages, allow_unsandboxed=allow_unsandboxed)
        self._tolerance, self._overdue_is_wrong = tolerance, overdue_is_wrong
        self._places = threading.BoundedSemaphore(num_parallel or len(os.sched_getaffinity(0)))
        self._prompt_opens_thinking = prompt_opens_thinking
        self.counts: Counter[str] = Counter()

    @property
    def isolation(self) -> Isolation:
        """How programs are kept apart here."""
        return self._sandbox.isolation

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`.

        A program that fails a test, crashes, or uses too much of anything is wrong. There is no reward where the machine is at
        fault, the tests themselves cannot be run, or anything unexpected happens around the program.
        """
        part = part_to_check(response, stop_reason, prompt_opens_thinking=self._prompt_opens_thinking)
        if isinstance(part, Verification):
            return part
        try:
            tests = CodeTests.from_json(gold)
            tests.raise_unless_usable()
        except ValueError as error:
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=f"the gold answer holds no tests: {error}")
        names = tests.entry_points() or wanted_names(tests.check, {}, [])
        code = find_code(part, names)
        if code is None:
            return without_answer(stop_reason)
        try:
            with self._places:
                passed = self._passes(tests, code)
        except EngineError:
            raise
        except NoVerdictError as error:
            self._note(str(error))
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=str(error))
        except Exception as error:  # one program must not end a shard, whatever it made the machine do
            _LOG.exception("unexpected error around a program")
            self._note(type(error).__name__)
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=f"{type(error).__name__}: {error}")
        return Verification(OutcomeStatus.VERIFIED, float(passed), code)

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        try:
            CodeTests.from_json(gold).raise_unless_usable()
        except ValueError as error:
            raise DataError(
                f"the gold answer {gold!r:.200} holds no tests: {error}",
                rule='for code the answer is a JSON text such as {"style": "stdin", "cases": [{"input": "", "output": ""}]}',
                remedy=f"{page('data.md')} has the styles of tests; or use one of the ready-made tasks",
            ) from None

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""

    def _note(self, why: str) -> None:
        self.counts[why] += 1

    def _passes(self, tests: CodeTests, code: str) -> bool:
        """Whether all tests pass. Raises :class:`NoVerdictError`."""
        if tests.style == "asserts":
            return self._asserts_pass(tests, code)
        passes = self._prints if tests.style == "stdin" else self._returns
        return all(passes(tests, case, code) for case in tests.cases)

    def _prints(self, tests: CodeTests, case: Case, code: str) -> bool:
        wanted: str = case.output
        limit = self._sandbox.limits.output_bytes + len(wanted.encode(errors="replace"))
        given = case.input.encode("utf-8", errors="replace")
        result = self._sandbox.run(code, given, prelude=tests.prelude, output_bytes=limit)
        is_equal = self._ended(result) and same_output(result.stdout.decode(errors="replace"), wanted, self._tolerance)
        return is_equal and result.exit_code == 0

    def _returns(self, tests: CodeTests, case: Case, code: str) -> bool:
        order = {"prelude": tests.prelude, "code": code}
        request = {"op": "entry", "name": tests.entry_point, "args": [encode(item) for item in case.input]}
        limit = self._sandbox.limits.output_bytes + len(json.dumps(encode(case.output)))
        with self._sandbox.start("calls", order, output_bytes=limit) as run:
            run.send(_line(request))
            reply = _next_line(run, (run,))
            if reply is None:
                self._ended(run.result())
                return False
        try:
            return same_value(json.loads(reply)["value"], case.output, self._tolerance)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):  # raised an exception, or sent nonsense
            return False

    def _asserts_pass(self, tests: CodeTests, code: str) -> bool:
        order = {"prelude": tests.prelude, "code": code}
        rules = {"prelude": tests.prelude, "check": tests.check, "entry_points": list(tests.entry_points())}
        size = MAX_OUTPUT_BYTES  # of one message
        with (
            self._sandbox.start("judge", rules, output_bytes=size) as judge,
            self._sandbox.start("calls", order, output_bytes=size) as program,
        ):
            both = (judge, program)
            while True:
                line = _next_line(judge, both)
                if line is None:
                    return self._without_verdict(judge, program)
                message: dict[str, Any] = json.loads(line)
                if "verdict" in message:
                    return _verdict(message)
                program.send(line)
                reply = _next_line(program, both)
                if reply is None:
                    return self._without_verdict(judge, program)
                judge.send(reply)

    def _without_verdict(self, judge: Running, program: Running) -> bool:
        """One of the two ended or passed a limit: wrong, unless the machine is at fault."""
        for run in (program, judge):
            if run.is_over:
                self._ended(run.result())
        return False

    def _ended(self, result: RunResult) -> bool:
        """Whether a program came to its end by itself. Raises :class:`NoVerdictError` where it was not its own doing."""
        is_overdue = result.status is RunStatus.OVERDUE and not self._overdue_is_wrong
        if result.status in MACHINES_DOING or is_overdue:
            raise NoVerdictError(result.status.value)
        return result.status is RunStatus.ENDED


def _verdict(message: Mapping[str, Any]) -> bool:
    if message["verdict"] == "broken":
        raise NoVerdictError(f"broken tests: {message['why']}")
    return bool(message["verdict"] == "passed")


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _next_line(run: Running, runs: Sequence[Running]) -> bytes | None:
    """The next line of one of the runs; ``None`` when it has ended, or any of them has passed a limit."""
    for other in runs:
        other.is_awaited = other is run
    while (line := run.take_line()) is None:
        if any(other.is_over for other in runs):
            return run.take_line() if run.is_over else None
        attend(runs)
    return line
