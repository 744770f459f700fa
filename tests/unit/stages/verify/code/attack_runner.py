"""Runs attacks in the sandbox and prints what came of each, as one JSON document. Arguments: attacks (JSON lines), home, outside,
outside_tmp. A program of its own, so that it can be started as another user.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.verify.code.limits import Limits
from bcpg_cluster.stages.verify.code.process_tree import descendants
from bcpg_cluster.stages.verify.code.sandbox import Sandbox
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier

LIMITS = Limits(cpu_s=1, wall_s=60.0, idle_s=1.0, memory_gib=1.0, num_processes=24)
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER: what leaves its parent is seen below this process


def run(attack: dict[str, Any], verifier: CodeVerifier, sandbox: Sandbox) -> dict[str, Any]:
    """What came of one attack."""
    started = time.monotonic()
    return {**_run(attack, verifier, sandbox), "seconds": round(time.monotonic() - started, 2)}


def _run(attack: dict[str, Any], verifier: CodeVerifier, sandbox: Sandbox) -> dict[str, Any]:
    if attack["kind"] == "false_pass":
        found = verifier.verify(f"```python\n{attack['program']}\n```", json.dumps(attack["gold"]), StopReason.STOP)
        return {"status": found.status.value, "reward": found.reward}
    result = sandbox.run(attack["program"])
    printed = (result.stdout + result.stderr)[:100_000].decode(errors="replace")
    said = result.stdout[:100_000].decode(errors="replace")
    return {"status": result.status.value, "exit_code": result.exit_code, "said": said, "printed": printed[-2000:]}


def main() -> None:
    """See the module."""
    attacks, home, outside, outside_tmp = sys.argv[1:]
    ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    text = Path(attacks).read_text()
    for name, value in (("@HOME@", home), ("@OUTSIDE@", outside), ("@OUTSIDE_TMP@", outside_tmp)):
        text = text.replace(name, value)
    verifier, sandbox = CodeVerifier(LIMITS), Sandbox(LIMITS)
    rows = [json.loads(line) for line in text.splitlines()]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda attack: run(attack, verifier, sandbox), rows))
    deadline = time.monotonic() + 10  # the kernel takes a moment to end a process namespace
    while (left := list(descendants(os.getpid()))[1:]) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    print(
        json.dumps({"isolation": sandbox.isolation.value, "user": os.getuid(), "results": results, "left": len(left)})
    )


if __name__ == "__main__":
    main()
