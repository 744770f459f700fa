"""The process behind ``user_function.FunctionVerifier``: one JSON request a line on stdin, one JSON reply on stdout.

Run as a file, it imports nothing of this package by itself. A module that cannot be imported is said in every reply.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BY_NAME = ("prompt", "response", "gold", "metadata")
_TRACE_LINES = 6  # of what a function raised; its end

Call = Callable[[Mapping[str, Any]], Any]


class UnfitError(Exception):
    """What is named is not there, or is no reward function."""


def load(import_path: str, digest: str = "") -> Call:
    """What asks the function that ``package.module:function`` or ``file.py:function`` names. Raises whatever its import raises.

    Args:
        digest: of the file's content; empty takes any.
    """
    place, _, name = import_path.rpartition(":")
    module = _from_file(place, digest) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        is_there = f"{name} is of type {type(function).__name__}, which cannot be called"
        raise UnfitError(is_there if hasattr(module, name) else f"{place} has no {name}")
    names = names_taken(function)
    if names is None:
        return lambda request: function(request["response"], request["gold"])
    return lambda request: function(**{key: request[key] for key in names})


def names_taken(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """Which of ``BY_NAME`` the function takes by name; ``None`` for one that takes the response and the gold answer by place.

    Raises:
        UnfitError: it takes neither.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C: it cannot be asked
        return None
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = tuple(p.name for p in parameters if p.name in BY_NAME and p.kind is not p.POSITIONAL_ONLY)
    if all(p.name in BY_NAME and p.kind is not p.POSITIONAL_ONLY for p in needed) and (named or takes_any):
        return BY_NAME if takes_any else named
    takes_two = len(by_place) >= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if takes_two and all(p in by_place[:2] for p in needed):
        return None
    raise UnfitError(
        f"it takes ({', '.join(p.name for p in parameters)}); a reward function takes any of {', '.join(BY_NAME)} by name, "
        "or two texts: the response and the gold answer"
    )


def _from_file(place: str, digest: str) -> Any:
    path = Path(place).expanduser()
    if digest and hashlib.sha256(path.read_bytes()).hexdigest()[: len(digest)] != digest:
        raise ImportError(f"{path} has changed since the run was started")
    sys.path.insert(0, str(path.absolute().parent))  # it may import what lies beside it, as a script may
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def score(ask: Call, request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request with all of ``BY_NAME``."""
    value = ask(request)
    if value is None:
        return {"status": "no_verdict", "message": "it returned None"}
    number = float(value)
    if not math.isfinite(number) or not 0.0 <= number <= 1.0:
        return {"status": "no_verdict", "message": f"it returned {number}"}
    return {"status": "scored", "score": number}


def _said(error: BaseException) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error)).rstrip().splitlines()
    detail = "\n".join(trace[-_TRACE_LINES:])
    return {"status": "no_verdict", "message": f"{type(error).__name__}: {error}", "detail": detail}


def main() -> None:
    """Answer until stdin ends. Arguments: the import path, and perhaps its file's digest."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing a library prints may pass for a reply
    ask, problem = None, ""
    try:
        ask = load(*sys.argv[1:3])
    except UnfitError as error:
        problem = str(error)
    except Exception as error:  # a user's module may raise anything
        problem = f"{type(error).__name__}: {error}"
    print('{"status": "ready"}', file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if ask is None:
            reply: dict[str, Any] = {"status": "not_importable", "message": problem}
        elif not request:
            reply = {"status": "importable"}
        else:
            try:
                reply = score(ask, request)
            except Exception as error:  # likewise its function
                reply = _said(error)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
