"""Child processes do their work, and none is left behind by a parent that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bcpg_cluster.cluster.child_processes import child_processes

PARENT = """
import os, sys, time
from bcpg_cluster.cluster.child_processes import child_processes
if __name__ == "__main__":
    with child_processes(2) as pool:
        print(*{future.result() for future in [pool.submit(os.getpid) for _ in range(20)]}, flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def test_work_is_done_after_the_initializer():
    with child_processes(1, os.putenv, ("CHILD_SAYS", "begun")) as pool:
        assert pool.submit(abs, -3).result() == 3
        assert pool.submit(subprocess.check_output, ["printenv", "CHILD_SAYS"]).result() == b"begun\n"


def test_a_killed_parent_leaves_no_child(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert children
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, children))


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
