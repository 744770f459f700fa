"""The process that runs a problem's asserts. What they test is in another process and answers over a pipe.

Sent to a sandbox of its own like ``program_process``. The names that the asserts use and neither they nor the prelude define
stand for the response's; a call sends its arguments and gets plain data back. Whether two values are equal or the same is
decided here, on built-in types alone: an object of the response's is never more than a reference, which equals itself.

Each line it writes is a request for the program or the verdict: ``passed``, ``failed``, or ``broken`` when the tests themselves
cannot be run, which says nothing of the response.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import sys

from bcpg_cluster.stages.verify.code.inside.plain_data import NotPlain, decode, encode
from bcpg_cluster.stages.verify.code.inside.program_process import READY, limit_resources, prepare, silence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class BrokenTests(BaseException):
    """The tests cannot be run; no ``except Exception`` of theirs stops it."""


class Program:
    """The other side of the pipe."""

    def __init__(self, requests: Any, replies: Any) -> None:
        self._requests, self._replies = requests, replies

    def send(self, line: dict[str, Any]) -> None:
        """Write one line."""
        self._requests.write(json.dumps(line) + "\n")
        self._requests.flush()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply. Raises what the program raised, as the closest built-in exception."""
        self.send(request)
        line = self._replies.readline()
        if not line:
            os._exit(1)  # the verifier has seen the program end
        reply: dict[str, Any] = json.loads(line)
        if "raised" in reply:
            _raise(reply["raised"], str(reply.get("text", "")), is_next=request["op"] == "next")
        return reply

    def value(self, request: dict[str, Any], *, has_methods: bool = False) -> Any:
        """The decoded value of a reply."""
        return self.decoded(self.ask(request)["value"], has_methods=has_methods)

    def decoded(self, content: Any, *, has_methods: bool = False) -> Any:
        """A value that came over the pipe."""
        return decode(content, lambda parts: remote(self, parts, has_methods))


def _raise(lineage: list[str], text: str, *, is_next: bool) -> NoReturn:
    """The closest built-in exception, but for those that mean something else here: the end of a ``map`` of the tests', a test
    that cannot be run.
    """
    never = (ImportError,) if is_next else (ImportError, StopIteration, StopAsyncIteration)
    for name in lineage:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, never):
            try:
                error = kind(text)
            except TypeError:  # UnicodeDecodeError and its kin want more
                continue
            raise error
    raise RuntimeError(text)


class Remote:
    """An object of the program's: it can be called, and asked for its items, length and text. It equals only itself."""

    def __init__(self, program: Program, number: int) -> None:
        self.__dict__["_remote"] = (program, number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return _call(self, args, kwargs)

    def __iter__(self) -> Any:
        return _plain(self, "iter")

    def __next__(self) -> Any:
        return _plain(self, "next")

    def __len__(self) -> int:
        return int(_plain(self, "len"))

    def __str__(self) -> str:
        return str(_plain(self, "str"))

    def __repr__(self) -> str:
        return str(_plain(self, "repr"))

    def __bool__(self) -> bool:
        return bool(_plain(self, "bool"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and _number(self) == _number(other)

    def __hash__(self) -> int:
        return hash(_number(self))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the result of a function has no attribute {name}")


class RemoteInstance(Remote):
    """An object of a class that the tests made one of: it has attributes and methods as well."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        program, number = self.__dict__["_remote"]
        return program.value({"op": "attribute", "object": [number], "name": name}, has_methods=True)

    def __setattr__(self, name: str, value: Any) -> None:
        program, number = self.__dict__["_remote"]
        program.ask({"op": "assign", "object": [number], "name": name, "args": [_sent(value)]})


def _number(thing: Remote) -> int:
    return int(thing.__dict__["_remote"][1])


def _call(target: Remote, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    program, number = target.__dict__["_remote"]
    sent = [_sent(item) for item in args]
    request = {"op": "call", "object": [number], "args": sent, "kwargs": {k: _sent(v) for k, v in kwargs.items()}}
    reply = program.ask(request)
    value = program.decoded(reply["value"], has_methods=isinstance(target, RemoteInstance))
    if value is None:  # else a function could empty the list that its answer is computed from
        for ours, theirs in zip(args, reply.get("args", ()), strict=False):
            _take_over(ours, program.decoded(theirs))
    return value


def _plain(target: Remote, operation: str) -> Any:
    program, number = target.__dict__["_remote"]
    return program.value({"op": operation, "object": [number]})


def _sent(value: Any) -> Any:
    def keep(thing: Any) -> list[Any]:
        if isinstance(thing, Remote):
            return ["h", _number(thing)]
        raise BrokenTests(f"the tests pass a {type(thing).__name__} to the response")

    try:
        return encode(value, keep)
    except NotPlain as error:
        raise BrokenTests(str(error)) from None


def _take_over(ours: Any, theirs: Any) -> None:
    """What a function that returned ``None`` did to an argument."""
    if type(ours) is not type(theirs):
        return
    if isinstance(ours, (list, bytearray)):
        ours[:] = theirs
    elif isinstance(ours, (dict, set)):
        ours.clear()
        ours.update(theirs)


def remote(program: Program, parts: list[Any], has_methods: bool) -> Remote:
    """A reference that came over the pipe."""
    return (RemoteInstance if has_methods else Remote)(program, int(parts[0]))


def wanted_names(check: str, space: dict[str, Any], entry_points: list[str]) -> list[str]:
    """The names in a test's code that stand for the response's.

    A name that the tests or the prelude define is theirs, unless it is an entry point. A built-in name is Python's, unless the
    tests use no other: ``assert sum(1, 2) == 3``.
    """
    tree = ast.parse(check)
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    free = loaded - _bound(tree) - {name for name in space if name not in entry_points}
    own = {name for name in free if not hasattr(builtins, name)} | (set(entry_points) & loaded)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return sorted(own or free & called)


def _bound(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def judge(order: dict[str, Any], program: Program) -> tuple[str, str]:
    """The verdict and why."""
    module = type(sys)("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    try:
        exec(compile(order["prelude"], "<prelude>", "exec"), space)
        names = wanted_names(order["check"], space, order["entry_points"])
        check = compile(order["check"], "<check>", "exec")
    except Exception as error:  # a problem's own code may raise anything
        return "broken", f"{type(error).__name__}: {error}"
    try:
        for name, content in program.ask({"op": "define", "names": names})["defined"].items():
            if name in names:
                space[name] = program.decoded(content, has_methods=name[:1].isupper())
        exec(check, space)
    except ImportError as error:  # what the program raises is never one
        return "broken", str(error)
    except BrokenTests as error:
        return "broken", str(error)
    except SystemExit as error:  # `unittest.main()` ends so
        return ("passed", "") if not error.code else ("failed", f"exit {error.code}")
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "passed", ""


def main(order: dict[str, Any]) -> None:
    """Carry out an order."""
    limit_resources(order["limits"])
    replies, requests = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence()
    prepare(order)
    os.write(requests.fileno(), READY)
    program = Program(requests, replies)
    verdict, why = judge(order, program)
    program.send({"verdict": verdict, "why": why[:500]})
