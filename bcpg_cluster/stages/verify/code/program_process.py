"""The process a program runs in: runs it, or calls its functions as asked line by line. Nothing secret is known here.

It is sent to the sandbox's interpreter as compiled code (``payload``), with ``plain_data`` beside it. Standard input brings an
order, then what the program reads (style ``stdin``) or requests, one JSON object a line; standard output takes ``READY`` just
before the first line of the response runs, then what the program prints or the replies. Whatever a program does to this
process, it can only change its own answers: what they are compared with never comes here.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

from bcpg_cluster.stages.verify.code.plain_data import decode, encode

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


class Objects:
    """What is not plain data stays here under a number."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def keep(self, value: Any) -> list[Any]:
        """The reference to a value; the same for the same object."""
        number = self._numbers.setdefault(id(value), len(self._kept))  # what is kept keeps its id
        if number == len(self._kept):
            self._kept.append(value)
        return ["h", number]

    def find(self, reference: list[Any]) -> Any:
        """The value of a reference."""
        return self._kept[reference[0]]


def entry_point(space: dict[str, Any], name: str) -> Any:
    """What a response calls ``name``: a function or class of its own, or a method of its class ``Solution``."""
    return space[name] if name in space else getattr(space["Solution"](), name)


def _defined(space: dict[str, Any], names: list[str], objects: Objects) -> Any:
    found = {}
    for name in names:
        try:
            found[name] = entry_point(space, name)
        except (KeyError, AttributeError, TypeError):
            continue
    return {name: encode(value, objects.keep) for name, value in found.items()}


def answer(request: dict[str, Any], space: dict[str, Any], objects: Objects) -> dict[str, Any]:
    """The reply to one request. What the program raises is raised here."""
    operation = request["op"]
    if operation == "define":
        return {"defined": _defined(space, request["names"], objects)}
    if operation == "entry":
        target = entry_point(space, request["name"])
    else:
        target = objects.find(request["object"])
    given = [decode(item, objects.find) for item in request.get("args", ())]
    named = {key: decode(item, objects.find) for key, item in request.get("kwargs", {}).items()}
    if operation in ("call", "entry"):
        value = target(*given, **named)
        reply = {"value": encode(value, objects.keep)}
        if value is None:  # a function that changes what it is given
            reply["args"] = [encode(item, objects.keep) for item in given]
        return reply
    plain: dict[str, Callable[[], Any]] = {
        "assign": lambda: setattr(target, request["name"], given[0]),
        "attribute": lambda: getattr(target, request["name"]),
        "iter": lambda: iter(target),
        "next": lambda: next(target),
        "len": lambda: len(target),
        "str": lambda: str(target),
        "repr": lambda: repr(target),
        "bool": lambda: bool(target),
    }
    return {"value": encode(plain[operation](), objects.keep)}


def serve(space: dict[str, Any], requests: Any, replies: Any) -> None:
    """Answer until there are no more requests."""
    objects = Objects()
    for line in requests:
        request = json.loads(line)
        try:
            reply = answer(request, space, objects)
        except Exception as error:
            reply = {"raised": _lineage(type(error)), "text": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _lineage(kind: type) -> list[str]:
    """The names of an exception's built-in classes, the closest first."""
    return [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]


def silence() -> None:
    """Nothing to read and nothing printed: standard input and output lead nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def main(order: dict[str, Any]) -> None:
    """Carry out an order."""
    limit_resources(order["limits"])
    is_program = order["style"] == "stdin"
    requests, output = os.dup(0), os.dup(1)
    silence()
    prepare(order)
    module = types.ModuleType("__main__" if is_program else "response")
    sys.modules[module.__name__] = module
    exec(
        compile(order["prelude"], "<prelude>", "exec"), module.__dict__
    )  # what fails before READY is not the program's doing
    sys.stdout.flush()
    os.write(output, READY)
    if is_program:
        os.dup2(requests, 0)
        os.dup2(output, 1)
        os.close(requests)
        os.close(output)
    exec(compile(order["code"], "<response>", "exec"), module.__dict__)
    if not is_program:
        with os.fdopen(requests, encoding="utf-8") as lines, os.fdopen(output, "w", encoding="utf-8") as replies:
            serve(module.__dict__, lines, replies)
