"""One started program, watched from outside until it ends or passes a limit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from bcpg_cluster.stages.verify.code.inside.program_process import READY
from bcpg_cluster.stages.verify.code.isolation import WORK
from bcpg_cluster.stages.verify.code.limits import Limits, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.process_tree import descendants, num_oom_kills, use_of

_LOOK_EVERY_S = 0.05
_CHUNK = 2**16
_NUM_PROCESSORS = len(os.sched_getaffinity(0))


class Running:
    """A program between its start and its end.

    Args:
        command: what is started; it must leave the descriptors of ``passed_files`` open for its children.
        to_read: what comes first on its standard input.
        limits: see there. The clock starts when the program says that it is ready.
        start_limit_s: until then.
        output_bytes: how much it may print that has not been taken.
        user: whom to become before anything is started; absent: nobody else.

    Raises:
        OSError: no process can be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        to_read: bytes,
        limits: Limits,
        *,
        environment: Mapping[str, str],
        directory: str,
        start_limit_s: float,
        output_bytes: int,
        user: int | None = None,
        passed_files: Sequence[int] = (),
    ) -> None:
        self._limits, self._output_bytes = limits, output_bytes
        self._to_send, self._closes_input = bytearray(to_read), False
        self._output, self._errors, self.is_ready, self.is_awaited = bytearray(), bytearray(), False, True
        self._fate: RunStatus | None = None
        self._seen_cpu_s: dict[tuple[int, str], float] = {}
        self._cpu_s = self._idle_s = self._starved_s = 0.0
        self._oom_kills, self._num_searched = num_oom_kills(), 0
        self._last_look = time.monotonic()
        self._deadline = self._last_look + start_limit_s
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            cwd=directory,
            pass_fds=passed_files,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in, self._out, self._err = (
            pipe.fileno() for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe, False)
        self._ended = os.pidfd_open(self._process.pid)
        self._open = {self._in, self._out, self._err}

    @property
    def is_over(self) -> bool:
        """Whether it has ended or passed a limit; nothing more comes of it."""
        return self._fate is not None

    def send(self, data: bytes) -> None:
        """Let it read this, after what it was sent before."""
        self._to_send += data

    def end_input(self) -> None:
        """Let it read the end of its input after what it was sent."""
        self._closes_input = True

    def take_line(self) -> bytes | None:
        """The next whole line of its output, when there is one."""
        end = self._output.find(b"\n", self._num_searched) if self.is_ready else -1
        if end < 0:
            self._num_searched = len(self._output) if self.is_ready else 0
            return None
        line = bytes(self._output[: end + 1])
        del self._output[: end + 1]
        self._num_searched = 0
        return line

    def waits_for(self) -> Iterator[tuple[int, int]]:
        """Descriptors and events that something is to be done about."""
        yield self._ended, select.POLLIN
        for pipe in self._open & {self._out, self._err}:
            yield pipe, select.POLLIN
        if self._in in self._open and (self._to_send or self._closes_input):
            yield self._in, select.POLLOUT

    def attend(self, descriptor: int) -> None:
        """Do what is to be done about a descriptor."""
        if descriptor == self._in:
            self._feed()
        elif descriptor == self._ended:
            while self._read(self._out) or self._read(self._err):
                pass
            self._fate = self._fate or RunStatus.ENDED
        else:
            self._read(descriptor)

    def look(self) -> None:
        """Compare what it uses with its limits, if it is time."""
        now = time.monotonic()
        if self._fate is not None or now - self._last_look < _LOOK_EVERY_S:
            return
        passed_s, self._last_look = min(now - self._last_look, 2 * _LOOK_EVERY_S), now
        if not self.is_ready:
            self._fate = RunStatus.FAILED if now > self._deadline else None
            return
        use = use_of(self._process.pid)
        self._seen_cpu_s |= use.own_cpu_s  # children without a parent that waits leave their time nowhere else
        cpu_s = max(use.cpu_s, sum(self._seen_cpu_s.values()), self._cpu_s)
        did_run_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        if 0 < use.num_runnable <= _NUM_PROCESSORS:  # more of them starve each other
            self._starved_s += max(passed_s - did_run_s, 0.0)
        elif not use.num_runnable and not use.num_waiting and self.is_awaited:
            self._idle_s += passed_s
        if self._cpu_s > self._limits.cpu_s + 0.5:  # the kernel's limit, of one process, comes first
            self._fate = RunStatus.CPU_LIMIT
        elif use.memory_bytes > self._limits.memory_bytes:
            self._fate = RunStatus.MEMORY_LIMIT
        elif self._has_too_many_files():
            self._fate = RunStatus.FILE_LIMIT
        elif self._idle_s > self._limits.idle_s:
            self._fate = RunStatus.IDLE
        elif now > self._deadline:
            starved = self._starved_s > self._limits.wall_s / 2
            self._fate = RunStatus.STARVED if starved else RunStatus.OVERDUE

    def result(self) -> RunResult:
        """How it ended. Stops it where it has not."""
        fate = self._fate
        self.stop()
        output, errors, cpu_s = bytes(self._output), bytes(self._errors), self._cpu_s
        if not self.is_ready:
            said = errors.decode(errors="replace").strip()[-500:]
            return RunResult(RunStatus.FAILED, None, output, errors, message=said or "it did not start in time")
        if fate is not RunStatus.ENDED:
            return RunResult(fate or RunStatus.OVERDUE, None, output, errors, cpu_s)
        return self._ended_result(_by_signal(self._process.returncode), output, errors)

    def _ended_result(self, code: int, output: bytes, errors: bytes) -> RunResult:
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and self._cpu_s >= self._limits.cpu_s):
            return RunResult(RunStatus.CPU_LIMIT, None, output, errors, self._cpu_s)
        if code == -signal.SIGXFSZ:
            return RunResult(RunStatus.FILE_LIMIT, None, output, errors, self._cpu_s)
        if code == -signal.SIGKILL and num_oom_kills() > self._oom_kills:
            return RunResult(RunStatus.KILLED, None, output, errors, self._cpu_s, "the machine was out of memory")
        return RunResult(RunStatus.ENDED, code, output, errors, self._cpu_s)

    def stop(self) -> None:
        """End it and all it started. Safe to call twice."""
        if self._process.returncode is not None:
            return
        self._fate = self._fate or RunStatus.OVERDUE
        members = list(descendants(self._process.pid))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for member in members[1:]:  # the kernel ends the rest of a process namespace with its first process
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
        self._process.wait()
        os.close(self._ended)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _feed(self) -> None:
        try:
            del self._to_send[: os.write(self._in, self._to_send[:_CHUNK]) if self._to_send else 0]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it ended without reading everything
            self._to_send.clear()
            self._closes_input = True
        if not self._to_send and self._closes_input:
            self._open.discard(self._in)
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _read(self, pipe: int) -> bool:
        if pipe not in self._open or self._fate is RunStatus.OUTPUT_LIMIT:
            return False
        try:
            chunk = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._open.discard(pipe)
            return False
        (self._output if pipe == self._out else self._errors).extend(chunk)
        if not self.is_ready and self._output.startswith(READY):
            del self._output[: len(READY)]
            self.is_ready, self._deadline = True, time.monotonic() + self._limits.wall_s
        if len(self._output) + len(self._errors) > self._output_bytes:
            self._fate = RunStatus.OUTPUT_LIMIT
        return True

    def _has_too_many_files(self) -> bool:
        *_, last = descendants(self._process.pid)
        try:
            use = os.statvfs(f"/proc/{last}/root{WORK}")
        except OSError:  # it has ended, or has no such directory of its own
            return False
        return use.f_files - use.f_ffree > self._limits.num_files


def _by_signal(code: int) -> int:
    """Bubblewrap ends with 128 and a signal's number where what it ran was ended by that signal."""
    return 128 - code if 128 < code < 128 + signal.NSIG else code


def attend(runs: Sequence[Running]) -> None:
    """Wait for something to happen to any of the runs, and see to it."""
    poller, owners = select.poll(), {}
    for run in runs:
        for descriptor, events in run.waits_for():
            poller.register(descriptor, events)
            owners[descriptor] = run
    for descriptor, _ in poller.poll(_LOOK_EVERY_S * 1000):
        owners[descriptor].attend(descriptor)
    for run in runs:
        run.look()
