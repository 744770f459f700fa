"""The process behind ``user_function.FunctionVerifier``: one JSON request a line on stdin, one JSON reply on stdout.

Run as a file, it imports nothing of this package by itself. A module that cannot be imported is said in every reply.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any


def load(import_path: str) -> Callable[[str, str], Any]:
    """The function that ``package.module:function`` names. Raises whatever its import raises."""
    module, _, name = import_path.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{name} is a {type(function).__name__}, which cannot be called")
    return function  # type: ignore[no-any-return]


def score(function: Callable[[str, str], Any], request: dict[str, str]) -> dict[str, Any]:
    """The reply to ``{"response", "gold"}``."""
    value = function(request["response"], request["gold"])
    if value is None:
        return {"status": "no_verdict"}
    number = float(value)
    if not math.isfinite(number) or not 0.0 <= number <= 1.0:
        return {"status": "no_verdict", "message": f"it returned {number}"}
    return {"status": "scored", "score": number}


def main() -> None:
    """Answer until stdin ends. Argument: the import path."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing a library prints may pass for a reply
    function, problem = None, ""
    try:
        function = load(sys.argv[1])
    except Exception as error:  # a user's module may raise anything
        problem = f"{type(error).__name__}: {error}"
    print('{"status": "ready"}', file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if function is None:
            reply: dict[str, Any] = {"status": "not_importable", "message": problem}
        elif not request:
            reply = {"status": "importable"}
        else:
            try:
                reply = score(function, request)
            except Exception as error:  # likewise its function
                reply = {"status": "no_verdict", "message": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
