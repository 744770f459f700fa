"""Programs, checked by unit tests in a sandbox (tests: ``code_tests``; the sandbox: ``sandbox``).

What should come out never enters the sandbox (but for asserts, which are code): a program cannot read its way to the
answer. Asserts share an interpreter with the program they test; leaving early does not pass them, but a program written
to deceive could. All tests must pass for a reward.
"""

from __future__ import annotations

import json
import re
import secrets
from decimal import Decimal, InvalidOperation

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.code_tests import CodeTests
from bcpg_cluster.stages.verify.protocol import Verification, part_to_check, without_answer
from bcpg_cluster.stages.verify.sandbox import Limits, RunResult, RunStatus, Sandbox

_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})([^\n`]*)\n(.*?)^[ ]{0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_MAX_NUMBER_CHARACTERS = 100

_HARNESS = """
import json, os, sys, types
order = json.loads({order!r})
sys.setrecursionlimit(50_000)
style = order["style"]
module = types.ModuleType("__main__" if style == "stdin" else "response")
sys.modules[module.__name__] = module
space = module.__dict__
if style != "stdin":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
if style == "function":
    arguments = json.load(sys.stdin)
exec(compile(order["prelude"], "<prelude>", "exec"), space)
exec(compile(order["code"], "<response>", "exec"), space)
if style == "function":
    target = space.get(order["entry_point"]) or getattr(space["Solution"](), order["entry_point"])
    replies.write(json.dumps(target(*arguments)))
    replies.flush()
if style == "asserts":
    exec(compile(order["check"], "<check>", "exec"), space)
    replies.write(sys.stdin.readline())
    replies.flush()
"""


def find_code(part: str) -> str | None:
    """The last closed fenced block of an answer, ``None`` without one; a block of ``python`` comes before any other."""
    blocks = [(match.group(2).strip().lower(), match.group(3)) for match in _FENCE.finditer(part)]
    blocks = [(language, code) for language, code in blocks if code.strip()]
    python = [code for language, code in blocks if language.split(" ")[0] in ("python", "python3", "py")]
    return python[-1] if python else blocks[-1][1] if blocks else None


class CodeVerifier:
    """The last fenced code block of a response must pass all tests.

    Args:
        limits: of one test case (asserts: of all of them).
        allow_unsandboxed: go on where the machine cannot isolate programs (see :class:`Sandbox`).
        prompt_opens_thinking: the generation prompt ends with ``<think>``, so a response without ``</think>`` has not
            come to its answer.

    Raises:
        ConfigError: this machine cannot isolate programs, and ``allow_unsandboxed`` is false.
    """

    def __init__(
        self, limits: Limits | None = None, *, allow_unsandboxed: bool = False, prompt_opens_thinking: bool = False
    ) -> None:
        self._sandbox = Sandbox(limits, allow_unsandboxed=allow_unsandboxed)
        self._prompt_opens_thinking = prompt_opens_thinking

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`.

        A program that fails a test, crashes, or uses too much processor time or output is wrong. One that runs out of wall
        time (it sleeps, or the machine is busy) or is killed for want of memory has no reward.
        """
        part = part_to_check(response, stop_reason, prompt_opens_thinking=self._prompt_opens_thinking)
        if isinstance(part, Verification):
            return part
        code = find_code(part)
        if code is None:
            return without_answer(stop_reason)
        try:
            tests = CodeTests.from_json(gold)
        except ValueError:
            return Verification(OutcomeStatus.VERIFIER_ERROR, None)
        passed = self._passes(tests, code)
        if passed is None:
            return Verification(OutcomeStatus.VERIFIER_ERROR, None)
        return Verification(OutcomeStatus.VERIFIED, float(passed), code)

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        try:
            CodeTests.from_json(gold)
        except ValueError as error:
            raise DataError(
                f"the gold answer {gold!r:.200} holds no tests: {error}",
                rule='for code the answer is a JSON text such as {"style": "stdin", "cases": [{"input": "", "output": ""}]}',
                remedy="see bcpg_cluster/stages/verify/code_tests.py, or use one of the ready-made tasks",
            ) from None

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""

    def _passes(self, tests: CodeTests, code: str) -> bool | None:
        """Whether all tests pass; ``None`` when that could not be found out."""
        order = {"style": tests.style, "prelude": tests.prelude, "code": code}
        program = _HARNESS.format(order=json.dumps(order | {"entry_point": tests.entry_point, "check": tests.check}))
        if tests.style == "asserts":
            nonce = secrets.token_hex(16).encode()
            result = self._sandbox.run(program, nonce + b"\n")
            return _passed(result, result.stdout.strip() == nonce)
        for case in tests.cases:
            given = case.input if tests.style == "stdin" else json.dumps(case.input)
            result = self._sandbox.run(program, given.encode("utf-8", errors="replace"))
            if tests.style == "stdin":
                is_equal = same_output(result.stdout.decode(errors="replace"), case.output)
            else:
                is_equal = _same_value(result.stdout, case.output)
            passed = _passed(result, is_equal)
            if not passed:
                return passed
        return True


def same_output(printed: str, wanted: str) -> bool:
    """Whether two outputs agree line by line, but for spaces around lines, empty lines at the end, and ways to write numbers."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (printed, wanted))
    return len(ours) == len(theirs) and all(_same_line(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_line(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    a, b = ours.split(), theirs.split()
    return len(a) == len(b) and all(x == y or _same_number(x, y) for x, y in zip(a, b, strict=True))


def _same_number(ours: str, theirs: str) -> bool:
    if max(len(ours), len(theirs)) > _MAX_NUMBER_CHARACTERS:
        return False
    try:
        return Decimal(ours) == Decimal(theirs)  # exact; a NaN equals nothing
    except InvalidOperation:
        return False


def _same_value(printed: bytes, wanted: object) -> bool:
    try:
        return bool(json.loads(printed) == wanted)
    except (ValueError, RecursionError):
        return False


def _passed(result: RunResult, is_equal: bool) -> bool | None:
    if result.status in (RunStatus.KILLED, RunStatus.OVERDUE, RunStatus.FAILED):
        return None
    return result.status is RunStatus.ENDED and result.exit_code == 0 and is_equal
