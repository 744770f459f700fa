"""The process in front of a program that nobody trusts (see ``sandbox.Sandbox``, which starts it).

Run as a file, with the standard library alone: it puts itself into namespaces of its own, starts the program under its
limits, waits, and writes one JSON line a state to the status pipe: ``{"state": "ready"}`` just before the program
starts (anything without it is a failure of the sandbox, never of the program), then ``{"state": "ended", ...}``.

Namespaces (user, network, mount, process ids, IPC): no network device but a loopback that is down, every file system
read-only but the program's own directory, ``/tmp`` and ``/run`` hidden, no other process visible, and the end of the
program is the end of everything it started. See ``namespaces(7)``, ``user_namespaces(7)``, ``mount_setattr(2)``.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1  # the same number on every architecture
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_HIDDEN = ("/tmp", "/run")
_NOBODY = 65534  # not 0: an ordinary user loses all capabilities of the namespace when the program starts

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    text = [None if part is None else part.encode() for part in (source, target, kind)]
    _check(_libc.mount(*text, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _read_only(path: str, flags: int, *, on: bool) -> None:
    attributes = struct.pack("4Q", _ATTR_RDONLY if on else 0, 0 if on else _ATTR_RDONLY, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        path.encode(),
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _check(result, "mount_setattr")


def enter_namespaces() -> None:
    """Leave the machine's network, processes and mounts. Raises ``OSError`` where the kernel does not allow it."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_MOUNTS | _NEW_PIDS | _NEW_IPC), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1")


def arrange_mounts(work: str, interpreter: list[str]) -> None:
    """Hide and write-protect everything but ``work``. Called by the first process of the new process namespace.

    Args:
        interpreter: directories the program's Python needs; they stay visible where they lie in what is hidden.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    kept = [path for path in interpreter if path.startswith(tuple(f"{hidden}/" for hidden in _HIDDEN))]
    shown = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (*kept, work)}
    for hidden in _HIDDEN:
        if Path(hidden).is_dir():
            _mount("tmpfs", hidden, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path, directory in shown.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{directory}", path, None, _MS_BIND)
        os.close(directory)
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError:  # inside containers that mask parts of /proc; empty hides the machine's processes as well
        _mount("tmpfs", "/proc", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=555")
    try:
        _read_only("/", _AT_RECURSIVE, on=True)
        _read_only(work, 0, on=False)
    except OSError as error:  # a kernel before 5.12: files stay protected by their permissions only
        if error.errno != 38:  # ENOSYS
            raise


def _start(order: dict[str, Any], status: int) -> None:
    """Become the program. Never returns."""
    os.chdir(order["work"])
    for name, value in order["limits"].items():
        number = getattr(resource, name)
        hard = value + 1 if name == "RLIMIT_CPU" else value  # the soft limit's signal comes first
        resource.setrlimit(number, (value, hard))
    _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    os.write(status, b'{"state": "ready"}\n')
    os.execve(order["command"][0], order["command"], order["environment"])


def _run(order: dict[str, Any], status: int) -> None:
    """Start the program, wait for its end, say how it ended."""
    child = os.fork()
    if child == 0:
        try:
            _start(order, status)
        except BaseException as error:
            os.write(status, json.dumps({"state": "failed", "message": str(error)}).encode() + b"\n")
        finally:
            os._exit(127)
    while True:
        ended, code, usage = os.wait4(-1, 0)  # as the first process of its namespace it also gets the orphans
        if ended == child:
            break
    seconds = usage.ru_utime + usage.ru_stime
    report = {"state": "ended", "code": os.waitstatus_to_exitcode(code), "cpu_s": seconds}
    os.write(status, json.dumps(report).encode() + b"\n")


def main() -> None:
    """Carry out the order in the first argument (JSON); the second is the status pipe's descriptor."""
    order, status = json.loads(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(status, False)
    try:
        _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if not order["isolated"]:
            _run(order, status)
            return
        enter_namespaces()
        first = os.fork()
        if first == 0:
            _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            arrange_mounts(order["work"], order["interpreter"])
            _run(order, status)
            os._exit(0)
        os.waitpid(first, 0)
    except OSError as error:
        os.write(status, json.dumps({"state": "failed", "message": str(error)}).encode() + b"\n")
        os._exit(1)


if __name__ == "__main__":
    main()
