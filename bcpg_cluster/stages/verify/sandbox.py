"""Runs programs that nobody trusts: under limits, in an empty directory, without a network, killed as a group.

Each run is a fresh process (``sandbox_process.py`` says what is taken from it). Where the kernel does not allow user
namespaces, a :class:`Sandbox` is refused unless ``allow_unsandboxed`` is true; limits, the empty directory and the empty
environment remain then, but the program can read what its user can, write there, and use the network.

Processor time and memory are the program's own doing. Wall time is not on a busy machine, so running out of it is a
status of its own (``OVERDUE``), as is a sandbox that could not be set up.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import ConfigError, EngineError

_LAUNCHER = Path(__file__).with_name("sandbox_process.py")
_PROGRAM_NAME = "program.py"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


class RunStatus(StrEnum):
    """How a program ended. The last three say nothing about the program."""

    ENDED = "ended"  # by itself, with an exit code, or by a signal such as SIGSEGV
    CPU_LIMIT = "cpu_limit"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"  # by a SIGKILL that was not ours: the machine is short of memory
    OVERDUE = "overdue"  # out of wall time
    FAILED = "failed"  # the sandbox could not be set up


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run: output as bytes, processor time in seconds.

    ``exit_code`` is there for ``ENDED`` alone; ``-11`` stands for the end by signal 11.
    """

    status: RunStatus
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    cpu_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_s: processor time of one process, whole seconds.
        wall_s: time on the clock; generous, since a busy machine must not look like a slow program.
        memory_gib: address space of one process.
        output_bytes: of stdout and stderr together, and of every file.
        num_processes: of the whole run, threads included (only where isolated).
    """

    cpu_s: int = 6
    wall_s: float = 60.0
    memory_gib: float = 2.0
    output_bytes: int = 2**20
    num_processes: int = 64

    def for_kernel(self, isolated: bool) -> dict[str, int]:
        """The names and values of ``setrlimit(2)``."""
        limits = {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": int(self.memory_gib * 2**30),
            "RLIMIT_FSIZE": self.output_bytes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }
        # Outside a namespace of its own this would count every process of the user.
        return limits | ({"RLIMIT_NPROC": self.num_processes} if isolated else {})


class Sandbox:
    """Runs Python programs (see the module). Thread-safe: every run is its own process and directory."""

    def __init__(self, limits: Limits | None = None, *, allow_unsandboxed: bool = False) -> None:
        """Try it once.

        Raises:
            ConfigError: this machine cannot isolate a program, and ``allow_unsandboxed`` is false.
        """
        self.limits = limits or Limits()
        self.is_isolated = True
        tried = self.run("print('ok')", start_limit_s=60.0)
        if tried.status is RunStatus.ENDED and tried.stdout == b"ok\n":
            return
        if not allow_unsandboxed:
            raise ConfigError(
                f"programs cannot be isolated on this machine: {tried.message or tried.stderr.decode(errors='replace')}",
                rule="code in responses runs in user, network, mount and process namespaces of its own",
                remedy="allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
                "kernel.apparmor_restrict_unprivileged_userns=0; in a container --security-opt seccomp=unconfined), "
                "or, on a machine that may be lost, set allow_unsandboxed: true",
            )
        self.is_isolated = False

    def run(self, program: str, stdin: bytes = b"", *, start_limit_s: float = 60.0) -> RunResult:
        """Run a Python program to its end.

        Args:
            program: its source.
            stdin: what it reads; then comes the end of the file.
            start_limit_s: for setting up the sandbox, which does not count for the program.

        Raises:
            EngineError: no process can be started at all.
        """
        with tempfile.TemporaryDirectory(prefix="bcpg-sandbox-") as work:
            Path(work, _PROGRAM_NAME).write_bytes(program.encode("utf-8", errors="replace"))
            order = {
                "isolated": self.is_isolated,
                "work": work,
                "limits": self.limits.for_kernel(self.is_isolated),
                "interpreter": _interpreter_directories(),
                "command": [sys.executable, "-I", "-B", _PROGRAM_NAME],
                "environment": _ENVIRONMENT | {"HOME": work, "TMPDIR": work},
            }
            return _Run(order, self.limits, stdin).finish(start_limit_s)


def _interpreter_directories() -> list[str]:
    """Where this Python and its virtual environment lie, as they are called and as they really are; outer ones first."""
    called = {sys.prefix, sys.base_prefix}
    return sorted(called | {os.path.realpath(path) for path in called})


class _Run:
    """One run, watched from outside."""

    def __init__(self, order: Mapping[str, Any], limits: Limits, stdin: bytes) -> None:
        self._limits, self._stdin = limits, stdin
        self._status_in, status_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(order), str(status_out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_ENVIRONMENT,
                pass_fds=(status_out,),
                start_new_session=True,  # so that it can be killed as a group
            )
        except OSError as error:
            os.close(self._status_in)
            raise EngineError(f"the sandbox's process does not start: {error}") from None
        finally:
            os.close(status_out)
        self._stdout, self._stderr, self._reports = bytearray(), bytearray(), bytearray()

    def finish(self, start_limit_s: float) -> RunResult:
        """Feed it, read it, stop it."""
        try:
            why = self._watch(start_limit_s)
            self._drain()
        finally:
            self._kill()
        return self._result(why)

    def _watch(self, start_limit_s: float) -> RunStatus:
        """Until its reports end (the program has ended, or its keeper was killed), or a limit is passed."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        sinks = {
            process.stdout.fileno(): self._stdout,
            process.stderr.fileno(): self._stderr,
            self._status_in: self._reports,
        }
        to_child = process.stdin.fileno()
        os.set_blocking(to_child, False)
        deadline, is_started = time.monotonic() + start_limit_s, False
        with selectors.DefaultSelector() as selector:
            for source in sinks:
                selector.register(source, selectors.EVENT_READ)
            selector.register(to_child, selectors.EVENT_WRITE)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return RunStatus.OVERDUE if is_started else RunStatus.FAILED
                for key, _ in selector.select(left):
                    if key.fd == to_child:
                        self._feed(selector, to_child)
                        continue
                    chunk = os.read(key.fd, 65536)
                    sinks[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                        if key.fd == self._status_in:
                            return RunStatus.ENDED
                if not is_started and b"\n" in self._reports:
                    deadline, is_started = time.monotonic() + self._limits.wall_s, True
                if len(self._stdout) + len(self._stderr) > self._limits.output_bytes:
                    return RunStatus.OUTPUT_LIMIT

    def _drain(self) -> None:
        """Read what is left in the output pipes. Without waiting: what the program left running may hold them open."""
        for pipe, sink in ((self._process.stdout, self._stdout), (self._process.stderr, self._stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while len(sink) <= self._limits.output_bytes and (chunk := os.read(pipe.fileno(), 65536)):
                    sink += chunk

    def _feed(self, selector: selectors.BaseSelector, to_child: int) -> None:
        assert self._process.stdin is not None
        try:
            self._stdin = self._stdin[os.write(to_child, self._stdin[:65536]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it ended without reading everything
            self._stdin = b""
        if not self._stdin:
            selector.unregister(to_child)
            self._process.stdin.close()

    def _kill(self) -> None:
        """Kill the group. Where isolated, the kernel kills the rest of the process namespace with its first process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        os.close(self._status_in)

    def _result(self, why: RunStatus) -> RunResult:
        reports = [json.loads(line) for line in self._reports.splitlines()]
        out, err = bytes(self._stdout), bytes(self._stderr)
        failed = [report["message"] for report in reports if report["state"] == "failed"]
        if failed or not reports or why is RunStatus.FAILED:
            message = failed[0] if failed else err.decode(errors="replace")[-500:] or "it did not start in time"
            return RunResult(RunStatus.FAILED, None, out, err, message=message)
        if why is not RunStatus.ENDED:
            return RunResult(why, None, out, err)
        if reports[-1]["state"] != "ended":
            return RunResult(RunStatus.KILLED, None, out, err, message="its keeper was killed")
        code, cpu_s = reports[-1]["code"], reports[-1]["cpu_s"]
        if len(out) + len(err) > self._limits.output_bytes:
            return RunResult(RunStatus.OUTPUT_LIMIT, None, out, err, cpu_s)
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_s >= self._limits.cpu_s):
            return RunResult(RunStatus.CPU_LIMIT, None, out, err, cpu_s)
        if code == -signal.SIGXFSZ:
            return RunResult(RunStatus.OUTPUT_LIMIT, None, out, err, cpu_s)
        if code == -signal.SIGKILL:
            return RunResult(RunStatus.KILLED, None, out, err, cpu_s, "killed, perhaps for want of memory")
        return RunResult(RunStatus.ENDED, code, out, err, cpu_s)
