"""What a program may use, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RunStatus(StrEnum):
    """How a program ended. The last three are the machine's doing and say nothing about the program."""

    ENDED = "ended"  # by itself, with an exit code, or by a signal such as SIGSEGV
    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    FILE_LIMIT = "file_limit"
    IDLE = "idle"  # it slept or waited for what never comes
    OVERDUE = "overdue"  # out of wall time, though it could have run
    STARVED = "starved"  # out of wall time, most of it spent waiting for a processor
    KILLED = "killed"  # by the kernel, for want of memory on the machine
    FAILED = "failed"  # the sandbox could not be set up


MACHINES_DOING = (RunStatus.STARVED, RunStatus.KILLED, RunStatus.FAILED)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run: output as bytes, processor time in seconds as last seen.

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
    """What a program and all it starts may use together.

    Attributes:
        cpu_s: processor time, whole seconds.
        wall_s: time on the clock; generous, since a busy machine must not look like a slow program.
        idle_s: time in which no part of the program ran, wanted to run, or waited for a disk.
        memory_gib: memory, shared memory included; also the address space of each process.
        output_bytes: of stdout and stderr together.
        file_mib: everything in its directory, which is kept in memory.
        num_files: likewise.
        num_processes: threads included (only where isolated).
    """

    cpu_s: int = 6
    wall_s: float = 60.0
    idle_s: float = 10.0
    memory_gib: float = 2.0
    output_bytes: int = 2**20
    file_mib: int = 64
    num_files: int = 4096
    num_processes: int = 64

    @property
    def memory_bytes(self) -> int:
        """``memory_gib`` in bytes."""
        return int(self.memory_gib * 2**30)

    def for_kernel(self, *, isolated: bool) -> dict[str, int]:
        """The names and values of ``setrlimit(2)``."""
        limits = {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_mib * 2**20,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }
        # Outside a user namespace of its own this would count every process of the user.
        return limits | ({"RLIMIT_NPROC": self.num_processes} if isolated else {})
