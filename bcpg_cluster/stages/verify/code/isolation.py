"""The command lines that put a program behind bubblewrap: what it sees, as a list of what is allowed.

It sees the shared libraries, this Python without its installed packages, the packages the config names, ``/dev/null`` and
``/dev/urandom``, and an empty directory in memory. No ``/proc``, ``/etc``, ``/home``, ``/var``, no run directory, no file of
this package; all of it read-only but the directory. Namespaces of its own for users, processes, network, IPC, host name and
mounts; a filter for system calls (``seccomp``); addresses that are the same in every run.

Root is given up before bubblewrap starts. Where Python lies in a directory that only root may enter, a first bubblewrap (as
root) makes a root directory out of the same list, and the second starts inside it without root.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bcpg_cluster.stages.verify.code.inside.payload import BOOT
from bcpg_cluster.stages.verify.code.limits import Limits

WORK, PACKAGES = "/bcpg-program", "/packages"  # the first is no directory of any machine: running.py looks for it
UNPRIVILEGED = 65534  # the user and group of programs
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": WORK,
    "TMPDIR": WORK,
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_NAMESPACES = ("user", "pid", "net", "ipc", "uts")
_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64")


class Isolation(StrEnum):
    """How a program is kept apart."""

    AS_USER = "bubblewrap"
    ROOT_DROPPED = "bubblewrap, root given up before"
    ROOT_DROPPED_INSIDE = "bubblewrap, root given up inside a first one (Python lies where only root may look)"
    NONE = "none"


def possible_isolations() -> tuple[Isolation, ...]:
    """What to try here, the plainest first."""
    return (Isolation.ROOT_DROPPED, Isolation.ROOT_DROPPED_INSIDE) if os.geteuid() == 0 else (Isolation.AS_USER,)


def missing_programs() -> list[str]:
    """What must be installed and is not."""
    needed = ("bwrap", "setarch", *(("setpriv",) if os.geteuid() == 0 else ()))
    return [name for name in needed if shutil.which(name) is None]


def interpreter() -> str:
    """This Python itself, not its virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def python_command() -> list[str]:
    """Starts the interpreter on what comes over its standard input; no site packages, no directory of its own, hash seed kept."""
    return [interpreter(), "-S", "-s", "-P", "-B", "-c", BOOT]


@dataclass(frozen=True, slots=True)
class View:
    """The part of the file system that is shown.

    Attributes:
        shown: what is bound, by where it appears.
        links: symbolic links, by where they appear.
        emptied: directories inside of what is shown that appear empty.
    """

    shown: dict[str, str]
    links: dict[str, str]
    emptied: tuple[str, ...]

    def arguments(self) -> list[str]:
        """For bubblewrap."""
        made: list[str] = []
        for target in (*self.shown, *self.links):
            made += [folder for folder in _parents(target) if folder not in made and not self._is_inside(folder)]
        arguments = [part for folder in made for part in ("--dir", folder)]
        for target, source in self.shown.items():
            arguments += ["--ro-bind", source, target]
        for target, link in self.links.items():
            arguments += ["--symlink", link, target]
        for folder in self.emptied:
            arguments += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
        return arguments

    def _is_inside(self, folder: str) -> bool:
        return any(folder == shown or folder.startswith(f"{shown}/") for shown in self.shown)


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in reversed(Path(path).parents) if str(parent) != "/"]


def interpreter_view(packages: Sequence[str]) -> View:
    """What a program needs of this machine.

    Args:
        packages: names of installed distributions it may import; those not installed are left out.
    """
    shown, links = {}, {}
    for library in _LIBRARIES:
        if Path(library).is_symlink():
            links[library] = os.readlink(library)  # noqa: PTH115 - the text, relative as it is
        elif Path(library).is_dir():
            shown[library] = library
    if Path("/etc/ld.so.cache").exists():
        shown["/etc/ld.so.cache"] = "/etc/ld.so.cache"
    prefix = os.path.realpath(sys.base_prefix)
    for folder in (f"{prefix}/lib", f"{prefix}/lib64"):
        if Path(folder).is_dir() and not Path(folder).is_symlink() and folder not in shown:
            shown[folder] = folder
    shown[interpreter()] = interpreter()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": prefix, "base": prefix}))
    candidates = [stdlib / "site-packages", stdlib / "dist-packages", Path("/usr/lib/python3/dist-packages")]
    candidates.append(Path(prefix, "local", "lib", stdlib.name, "dist-packages"))
    inside = [str(folder) for folder in candidates if folder.is_dir() and not folder.is_symlink()]
    emptied = tuple(folder for folder in inside if any(folder.startswith(f"{path}/") for path in shown))
    for name, path in package_paths(packages):
        shown[f"{PACKAGES}/{name}"] = path
    return View(shown, links, emptied)


def package_paths(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The top-level files and directories of installed distributions, by name."""
    for package in packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in sorted(tops):
            path = os.path.realpath(str(distribution.locate_file(top)))
            if Path(path).exists():
                yield top, path


def command(isolation: Isolation, view: View, limits: Limits, seccomp_file: int) -> list[str]:
    """What is started for one program.

    Args:
        seccomp_file: descriptor of a file with the filter, inherited by the command.
    """
    if isolation is Isolation.NONE:
        return python_command()
    is_inside = isolation is Isolation.ROOT_DROPPED_INSIDE
    seen = View({target: target for target in view.shown}, view.links, view.emptied) if is_inside else view
    inner = [*_fixed_addresses(), *_bubblewrap(seen, limits, seccomp_file), "--", *python_command()]
    if not is_inside:
        return inner
    tools = {tool: tool for tool in (_program("bwrap"), _program("setarch"), _program("setpriv"))}
    outer = View(view.shown | tools, view.links, view.emptied)
    drop = [_program("setpriv"), f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups", "--"]
    mounts = ["--dir", "/tmp", "--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"]  # bubblewrap needs a /tmp
    return [_program("bwrap"), "--die-with-parent", *outer.arguments(), *mounts, "--", *drop, *inner]


def _fixed_addresses() -> list[str]:
    """Addresses decide the order of sets of objects whose hash is their address."""
    return [_program("setarch"), platform.machine(), "-R"]


def _bubblewrap(view: View, limits: Limits, seccomp_file: int) -> list[str]:
    own = [f"--unshare-{name}" for name in _NAMESPACES]
    user = ["--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED), "--hostname", "sandbox"]
    devices = [part for name in ("null", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    memory = ["--size", str(limits.file_mib * 2**20), "--tmpfs", WORK]
    end = ["--symlink", WORK[1:], "/tmp", "--remount-ro", "/", "--chdir", WORK, "--seccomp", str(seccomp_file)]
    start = [_program("bwrap"), *own, "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    return [*start, *user, *view.arguments(), *devices, *memory, *end]


def _program(name: str) -> str:
    return shutil.which(name) or name
