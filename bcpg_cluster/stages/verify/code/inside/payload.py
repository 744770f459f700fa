"""What the sandbox's interpreter is sent: compiled code on its standard input, so that no file of this package is seen there.

``marshal`` goes one way only, to the sandbox; what comes back from there is text.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

Role = Literal["program", "calls", "judge"]

_HERE = Path(__file__).parent
_PACKAGE = __package__
_MODULES: dict[Role, tuple[str, ...]] = {
    "program": ("program_process",),
    "calls": ("plain_data", "program_process", "call_process"),
    "judge": ("plain_data", "program_process", "judge_process"),
}

# Reads the modules, makes them importable by their names for as long as they import each other, and runs the last one.
BOOT = """
import marshal, os, sys
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
    module = sys.modules[name] = type(sys)(name)
    names.append(name)
    exec(code, module.__dict__)
for name in names: del sys.modules[name]
module.main(marshal.loads(take()))
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
    return _modules(role) + _framed(marshal.dumps(dict(order)))
