"""Runs programs that may try anything: behind bubblewrap, under limits, without a file of theirs on this machine's disks.

What a program sees is in ``isolation``, what it may use in ``limits``, what it may call in ``seccomp``. Where bubblewrap does
not work, a :class:`Sandbox` is refused unless ``allow_unsandboxed`` is true; then limits (but that on processes), an empty
directory and an empty environment remain, and a program can read, write and send what its user can.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.stages.verify.code import isolation as isolating
from bcpg_cluster.stages.verify.code.inside.payload import Role, payload
from bcpg_cluster.stages.verify.code.isolation import Isolation
from bcpg_cluster.stages.verify.code.limits import Limits, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.running import Running, attend
from bcpg_cluster.stages.verify.code.seccomp import filter_program

START_LIMIT_S = 60.0
DEFAULT_PACKAGES = ("numpy", "scipy", "sympy", "mpmath")


class Sandbox:
    """Starts Python programs (see the module). Thread-safe: every run is its own process and directory.

    Attributes:
        isolation: what is in force.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        packages: Sequence[str] = DEFAULT_PACKAGES,
        allow_unsandboxed: bool = False,
    ) -> None:
        """Find out what works here by running something.

        Args:
            packages: names of installed distributions that programs may import besides the standard library.

        Raises:
            ConfigError: this machine cannot isolate a program, and ``allow_unsandboxed`` is false.
        """
        self.limits = limits or Limits()
        self._packages = tuple(packages)
        self._view = isolating.interpreter_view(packages)
        self._filter = b""
        self.isolation, problem = self._find_isolation()
        if self.isolation is Isolation.NONE and not allow_unsandboxed:
            raise ConfigError(
                f"programs cannot be isolated on this machine: {problem}",
                rule="code in responses runs behind bubblewrap, in namespaces of its own and with a filter for system calls",
                remedy="install bubblewrap 0.8 or newer, libseccomp and util-linux (Debian: bubblewrap, libseccomp2) and allow "
                "user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; in a "
                "container --security-opt seccomp=unconfined), or, on a machine that may be lost, set allow_unsandboxed: true",
            )

    def _find_isolation(self) -> tuple[Isolation, str]:
        """The first that works, or none and why."""
        missing = isolating.missing_programs()
        if missing:
            return Isolation.NONE, f"{' and '.join(missing)} not installed"
        try:
            self._filter = filter_program()
        except OSError as error:
            return Isolation.NONE, f"no filter for system calls: {error}"
        problem = ""
        for self.isolation in isolating.possible_isolations():
            try:
                tried = self.run("print('ok')")
            except EngineError as error:
                problem = str(error)
                continue
            if tried.status is RunStatus.ENDED and tried.stdout == b"ok\n":
                return self.isolation, ""
            problem = tried.message or tried.stderr.decode(errors="replace").strip() or tried.status.value
        return Isolation.NONE, problem

    @property
    def is_isolated(self) -> bool:
        """Whether programs are kept apart from this machine."""
        return self.isolation is not Isolation.NONE

    @contextmanager
    def start(
        self, role: Role, order: Mapping[str, Any], *, limits: Limits | None = None, output_bytes: int | None = None
    ) -> Iterator[Running]:
        """Start a process and stop it, with all it started, at the end of the block.

        Args:
            role: what the process is for (``payload``).
            order: what it is told; ``limits`` and ``packages`` are added.
            limits: where they are not the sandbox's.
            output_bytes: of this run, where they are not those of the limits.

        Raises:
            EngineError: no process can be started at all.
        """
        limits = limits or self.limits
        with contextlib.ExitStack() as stack:
            directory = "/" if self.is_isolated else stack.enter_context(_directory())
            own = {} if self.is_isolated else {"HOME": directory, "TMPDIR": directory}
            packages = isolating.PACKAGES if self.is_isolated else self._installed_packages()
            told = {**order, "limits": limits.for_kernel(isolated=self.is_isolated), "packages": packages}
            is_dropped = self.isolation is Isolation.ROOT_DROPPED
            try:
                rules = os.memfd_create("seccomp", 0)
                stack.callback(os.close, rules)
                os.write(rules, self._filter)
                os.lseek(rules, 0, os.SEEK_SET)
                run = Running(
                    isolating.command(self.isolation, self._view, limits, rules),
                    payload(role, told),
                    limits,
                    environment={**isolating.ENVIRONMENT, **own},
                    directory=directory,
                    start_limit_s=START_LIMIT_S,
                    output_bytes=limits.output_bytes if output_bytes is None else output_bytes,
                    user=isolating.UNPRIVILEGED if is_dropped else None,
                    passed_files=[rules],
                )
            except OSError as error:
                raise EngineError(f"the sandbox's process does not start: {error}") from None
            stack.callback(run.stop)
            yield run

    def run(self, code: str, stdin: bytes = b"", *, prelude: str = "", output_bytes: int | None = None) -> RunResult:
        """Run a Python program to its end.

        Args:
            code: its source.
            stdin: what it reads; then comes the end of the file.
            prelude: source that runs before.
            output_bytes: see :meth:`start`.

        Raises:
            EngineError: no process can be started at all.
        """
        order = {"prelude": prelude, "code": code}
        with self.start("program", order, output_bytes=output_bytes) as run:
            run.send(stdin)
            run.end_input()
            while not run.is_over:
                attend([run])
            return run.result()

    def _installed_packages(self) -> str:
        for package in self._packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return str(importlib.metadata.distribution(package).locate_file(""))
        return isolating.PACKAGES


@contextmanager
def _directory() -> Iterator[str]:
    """A temporary directory whose removal fails on nothing a program may leave there, however deep or write-protected."""
    directory = tempfile.mkdtemp(prefix="bcpg-sandbox-")
    try:
        yield directory
    finally:
        for command in (["chmod", "-R", "u+rwX", "--", directory], ["rm", "-rf", "--", directory]):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
