"""A long-lived child process that answers one JSON line with one JSON line, under a time limit kept from outside.

For code that may hang, crash or eat all memory: the child is killed when the time is over, and the next request starts a
new one.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import EngineError

_OURS = str(Path(__file__).parents[3])  # where this package lies, last: the program may import from it


class LineProcess:
    """Asks a Python program. Thread-safe: one request at a time.

    The program writes one line when it is ready, then one for every line it reads. A reply's ``status`` is its own business
    except for ``error``: it then cannot be trusted to go on, and a new one is started for the next request.

    Args:
        program: a Python file, run with this interpreter and its module path.
        arguments: its command line.
        name: for messages, such as "the math verifier".
        hint: what to look at when it does not start.
        time_limit_s: for one request. Starting does not count.
        start_limit_s: for starting.
    """

    def __init__(
        self,
        program: Path,
        arguments: Sequence[str],
        *,
        name: str,
        hint: str,
        time_limit_s: float,
        start_limit_s: float,
    ) -> None:
        self._command = [sys.executable, "-P", str(program), *arguments]
        self._name, self._hint = name, hint
        self._time_limit_s, self._start_limit_s = time_limit_s, start_limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id; ``None`` when there is none now."""
        child = self._child
        return None if child is None else child.pid

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request to the child; ``status`` is ``error`` after a crash or when the time is over.

        Raises:
            EngineError: the child cannot be started, which is not the request's doing.
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

    def close(self) -> None:
        """End the child for good. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def _start(self) -> None:
        path = os.pathsep.join([*(entry for entry in sys.path if entry), _OURS])
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # Ctrl-C asks the parent for a clean stop, and must not end the answer under way
        )
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        try:
            self._exchange(b"", self._start_limit_s)
        except (OSError, ValueError) as error:
            self._stop()
            raise EngineError(f"{self._name}'s process does not start ({error}); {self._hint}") from None

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
