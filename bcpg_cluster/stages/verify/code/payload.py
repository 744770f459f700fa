"""What the sandbox's interpreter is sent: compiled code on its standard input, so that no file of this package is seen there."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

Role = Literal["program", "judge"]

_HERE = Path(__file__).parent
_PACKAGE = __package__
_MODULES: dict[Role, tuple[str, ...]] = {
    "program": ("plain_data", "program_process"),
    "judge": ("plain_data", "program_process", "judge_process"),
}

# Reads the modules, makes them importable by their names for as long as they import each other, and runs the last one.
BOOT = """
import json, marshal, os, sys, types
def take():
    left, parts = int(os.read(0, 10)), []
    while left:
        part = os.read(0, min(left, 1 << 20))
        if not part: os._exit(97)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
names = []
for name, code in marshal.loads(take()):
    module = sys.modules[name] = types.ModuleType(name)
    names.append(name)
    exec(code, module.__dict__)
for name in names: del sys.modules[name]
module.main(json.loads(take()))
"""


@cache
def _modules(role: Role) -> bytes:
    compiled = []
    for name in _MODULES[role]:
        path = _HERE / f"{name}.py"
        compiled.append((f"{_PACKAGE}.{name}", compile(path.read_bytes(), f"<{name}>", "exec", dont_inherit=True)))
    return _framed(marshal.dumps(compiled))


def _framed(content: bytes) -> bytes:
    return b"%10d" % len(content) + content


def payload(role: Role, order: Mapping[str, Any]) -> bytes:
    """The bytes that come before everything else on the process's standard input."""
    return _modules(role) + _framed(json.dumps(order).encode())
