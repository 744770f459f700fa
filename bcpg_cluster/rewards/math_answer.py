"""Mathematical answers, compared by math-verify in a process of their own (docs/method.md).

math-verify keeps time by signals, which do not work off the main thread, and sympy may hang or eat all memory. So the
comparison runs in one long-lived child (``math_process.py``); the time limit is enforced from here, by killing it. The
next call starts a new one.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import DataError, EngineError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.rewards.protocol import THINK_END, Verification, answer_part, without_answer

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
        self._start_limit_s = start_limit_s
        self._prompt_opens_thinking = prompt_opens_thinking
        self._memory_gib = memory_gib
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.rewards.protocol.Verifier`."""
        if stop_reason is StopReason.ABORTED:
            return Verification(OutcomeStatus.ENGINE_LOST, None)
        part = answer_part(response)
        if part is None or not part.strip() or (self._prompt_opens_thinking and THINK_END not in response):
            return without_answer(stop_reason)
        if stop_reason is StopReason.LENGTH and not _has_boxed_answer(part):
            return without_answer(stop_reason)
        reply = self._ask({"gold": gold, "response": part[-_MAX_CHARACTERS:]})
        if reply["status"] == "no_answer":
            return without_answer(stop_reason)
        if reply["status"] != "verified":
            return Verification(OutcomeStatus.VERIFIER_ERROR, None)
        return Verification(OutcomeStatus.VERIFIED, float(reply["is_equal"]), reply["extracted"])

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.rewards.protocol.Verifier`."""
        reply = self._ask({"gold": gold})
        if reply["status"] != "good_gold":
            raise DataError(
                f"the gold answer {gold!r} cannot be used: {reply['message']}",
                rule=f"math-verify must be able to parse every gold answer within {self._time_limit_s:g} s",
                remedy="correct the answer or leave the prompt out",
            )

    def close(self) -> None:
        """See :class:`bcpg_cluster.rewards.protocol.Verifier`."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        """One request to the child; ``status`` is ``error`` after a crash or when the time is over.

        Raises:
            EngineError: the child cannot be started, which is not the response's doing.
        """
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this verifier is closed")
            try:
                if self._child is None:
                    self._start()
                reply = self._exchange((json.dumps(request) + "\n").encode(), self._time_limit_s)
            except (OSError, ValueError) as error:  # broken pipe, time over, or half a line
                self._stop()
                return {"status": "error", "message": str(error) or type(error).__name__}
            if reply["status"] == "error":  # out of memory, or out of stack: do not go on with what is left
                self._stop()
            return reply

    def _start(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(self._memory_gib), str(self._time_limit_s + 5.0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        try:
            self._exchange(b"", self._start_limit_s)
        except (OSError, ValueError) as error:
            self._stop()
            hint = "is math-verify installed?"
            raise EngineError(f"the math verifier's process does not start ({error}); {hint}") from None

    def _exchange(self, request: bytes, limit_s: float) -> dict[str, Any]:
        """Send a line and wait for a line, both under one deadline.

        Raises:
            OSError: the child is gone, or the time is over (``TimeoutError``).
        """
        assert self._child is not None and self._child.stdin is not None and self._child.stdout is not None
        deadline = time.monotonic() + limit_s
        to_child, from_child = self._child.stdin.fileno(), self._child.stdout.fileno()
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(from_child, selectors.EVENT_READ)
            if request:
                selector.register(to_child, selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise TimeoutError(f"no reply within {limit_s:g} s")
                for key, _ in ready:
                    if key.fd == to_child:
                        request = request[os.write(to_child, request) :]
                        if not request:
                            selector.unregister(to_child)
                    else:
                        chunk = os.read(from_child, 65536)
                        if not chunk:
                            raise BrokenPipeError("the process ended")
                        received += chunk
        reply: dict[str, Any] = json.loads(received)
        return reply

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _has_boxed_answer(part: str) -> bool:
    r"""Whether a ``\boxed{...}`` stands there whole."""
    start = part.rfind("\\boxed{")
    depth = 0
    for character in part[start:] if start >= 0 else "":
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return True
    return False
