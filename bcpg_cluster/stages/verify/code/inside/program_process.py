"""The process a program of style ``stdin`` runs in, and what the other processes in the sandbox share with it.

It is sent to the sandbox's interpreter as compiled code (``payload``). Standard input brings an order, then what the program
reads; standard output takes ``READY`` just before the first line of the response runs, then what the program prints. Nothing
secret is known here. It imports as little as it can: a start should cost no more than Python's own.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would be half of the start
    from typing import Any

READY = b"\0ready\n"
_CLOCK_START_S = 1_700_000_000.0  # what the program's calendar says when it starts
_STACK_BYTES = 2**26


def limit_resources(limits: dict[str, int]) -> None:
    """Put the limits on this process and all that it starts. None of them can be raised again."""
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = value + 1 if name == "RLIMIT_CPU" else value  # the soft limit's signal comes first
        resource.setrlimit(number, (value, hard))
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK_BYTES if most == resource.RLIM_INFINITY else min(most, _STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))


def prepare(order: dict[str, Any]) -> None:
    """What ``site`` would have done, numbers of any length, deep recursion, and the same chance and calendar in every run."""
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D"))
    sys.path.append(order["packages"])
    sys.argv = ["program.py"]
    sys.setrecursionlimit(50_000)
    sys.set_int_max_str_digits(0)
    source = "".join(order.get(part, "") for part in ("prelude", "code", "check"))
    if "random" in source:
        import random

        random.seed(0)
    if "time" in source or "date" in source:
        _fix_clock()
    if "numpy" in source:
        _seed_numpy()


def _fix_clock() -> None:
    """The calendar starts at the same moment in every run and goes on with the processor's own clock."""
    import datetime
    import time

    started, local, utc, strftime = time.monotonic(), time.localtime, time.gmtime, time.strftime

    def now_s() -> float:
        return _CLOCK_START_S + time.monotonic() - started

    def fixed(real: Any, methods: dict[str, Any]) -> Any:
        """A class like ``real`` with methods of its own, of which everything is an instance that is one of ``real``."""

        def is_instance(cls: Any, value: object) -> bool:
            return isinstance(value, real) if cls is made else type.__instancecheck__(cls, value)

        meta = type("FixedClock", (type,), {"__instancecheck__": is_instance})
        made: Any = meta(real.__name__, (real,), {**methods, "__module__": "datetime"})
        return made

    today = classmethod(lambda cls: cls.fromtimestamp(now_s()))
    now = classmethod(lambda cls, tz=None: cls.fromtimestamp(now_s(), tz))
    setattr(datetime, "datetime", fixed(datetime.datetime, {"now": now, "utcnow": now, "today": today}))  # noqa: B010
    setattr(datetime, "date", fixed(datetime.date, {"today": today}))  # noqa: B010
    patched: dict[str, Any] = {
        "time": now_s,
        "time_ns": lambda: int(now_s() * 1e9),
        "localtime": lambda seconds=None: local(now_s() if seconds is None else seconds),
        "gmtime": lambda seconds=None: utc(now_s() if seconds is None else seconds),
        "strftime": lambda layout, moment=None: strftime(layout, local(now_s()) if moment is None else moment),
    }
    for name, function in patched.items():
        setattr(time, name, function)


def _seed_numpy() -> None:
    try:
        import numpy
    except ImportError:  # the program will find out by itself
        return
    numpy.random.seed(0)


def silence() -> None:
    """Nothing to read and nothing printed: standard input and output lead nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def start_module(order: dict[str, Any], name: str) -> dict[str, Any]:
    """The name space of a response, in which the prelude has run. What fails here is not the program's doing."""
    module = type(sys)(name)
    sys.modules[name] = module
    exec(compile(order["prelude"], "<prelude>", "exec"), module.__dict__)
    sys.stdout.flush()
    return module.__dict__


def main(order: dict[str, Any]) -> None:
    """Carry out an order."""
    limit_resources(order["limits"])
    reads, prints = os.dup(0), os.dup(1)
    silence()
    prepare(order)
    space = start_module(order, "__main__")
    os.write(prints, READY)
    os.dup2(reads, 0)
    os.dup2(prints, 1)
    os.close(reads)
    os.close(prints)
    exec(compile(order["code"], "<response>", "exec"), space)
