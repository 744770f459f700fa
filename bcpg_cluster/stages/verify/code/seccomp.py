"""The system calls a program may make, as a filter for ``bwrap --seccomp``: a list of those allowed, built by libseccomp.

What is missing here does not exist for the program (``ENOSYS``, for which C libraries have an older call to fall back on): no
sockets but pairs, no namespaces, mounts, tracing, keys, kernel modules, io_uring or BPF, no memory outside what is counted
(``memfd_create``, System V shared memory). Of four functions of libseccomp a binding of our own is shorter than one more
package (decisions.md, 2026-11-28).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache

_ALLOW, _NO_SUCH_CALL = 0x7FFF0000, 0x00050000 | 38
_NOT_EQUAL, _EQUAL, _MASKED_EQUAL = 1, 4, 7  # enum scmp_compare
_NAMESPACE_FLAGS = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of clone(2)

_CALL_NAMES = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat openat2 creat close close_range
    stat fstat lstat newfstatat statx access faccessat faccessat2 lseek sendfile copy_file_range fadvise64 readahead
    mmap mprotect munmap mremap madvise mincore msync brk membarrier
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack restart_syscall
    pipe pipe2 select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 dup dup2 dup3 fcntl flock pause nanosleep clock_nanosleep getitimer setitimer alarm
    getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgid getpgrp setpgid getsid setsid
    getrandom getcpu sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min getpriority
    fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill
    uname sysinfo times getrusage getrlimit setrlimit prlimit64 arch_prctl
    set_tid_address set_robust_list get_robust_list futex rseq
    gettimeofday time clock_gettime clock_getres
    fsync fdatasync sync_file_range truncate ftruncate fallocate getdents getdents64 getcwd chdir fchdir rename renameat
    renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat readlink readlinkat chmod fchmod fchmodat
    umask utime utimes utimensat futimesat statfs fstatfs
    socketpair shutdown sendto recvfrom sendmsg recvmsg getsockname getpeername getsockopt
"""
_SET_DUMPABLE = 4
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("how", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@cache
def filter_program() -> bytes:
    """The filter as classic BPF for this machine's processor.

    Raises:
        OSError: libseccomp is not installed or cannot build it.
    """
    name = ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    library = ctypes.CDLL(name, use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    context = library.seccomp_init(_NO_SUCH_CALL)
    if not context:
        raise OSError("libseccomp has no filter for this processor")
    try:
        _add_rules(library, context)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add_rules(library: ctypes.CDLL, context: int) -> None:
    for call in _CALL_NAMES.split():
        _allow(library, context, call)
    _allow(library, context, "clone", _Comparison(0, _MASKED_EQUAL, _NAMESPACE_FLAGS, 0))
    _allow(library, context, "prctl", _Comparison(0, _NOT_EQUAL, _SET_DUMPABLE, 0))  # it would hide what it uses
    for request in _IOCTLS:
        _allow(library, context, "ioctl", _Comparison(1, _EQUAL, request, 0))


def _allow(library: ctypes.CDLL, context: int, call: str, *comparisons: _Comparison) -> None:
    number = library.seccomp_syscall_resolve_name(call.encode())
    if number < 0:  # this processor has no such call
        return
    array = (_Comparison * len(comparisons))(*comparisons)
    result = library.seccomp_rule_add_array(context, _ALLOW, number, len(comparisons), array)
    if result != 0:
        raise OSError(-result, f"libseccomp does not take the rule for {call}: {os.strerror(-result)}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    file = os.memfd_create("seccomp")
    try:
        result = library.seccomp_export_bpf(context, file)
        if result != 0:
            raise OSError(-result, f"libseccomp does not write the filter: {os.strerror(-result)}")
        size = os.lseek(file, 0, os.SEEK_CUR)
        return os.pread(file, size, 0)
    finally:
        os.close(file)
