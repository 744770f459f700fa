"""The process whose functions are called: loads a response and answers requests, one JSON object a line.

Whatever a program does to this process, it can only change its own answers: what they are compared with never comes here.
"""

from __future__ import annotations

import json
import os

from bcpg_cluster.stages.verify.code.inside.plain_data import decode, encode
from bcpg_cluster.stages.verify.code.inside.program_process import (
    READY,
    limit_resources,
    prepare,
    silence,
    start_module,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


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


def main(order: dict[str, Any]) -> None:
    """Carry out an order."""
    limit_resources(order["limits"])
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence()
    prepare(order)
    space = start_module(order, "response")
    os.write(replies.fileno(), READY)
    exec(compile(order["code"], "<response>", "exec"), space)
    serve(space, requests, replies)
