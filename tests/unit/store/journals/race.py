"""A program: processes that want one run at one moment. Prints, for each attempt, how many got it and what the others were told.

Arguments: the directory, the attempts, and what the directory is when they start: ``new``, ``killed`` (the process before was
killed), ``silent`` (one of another machine fell silent, and all take over) or ``removed`` (one works on it, without its lock).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.journal import check_free
from bcpg_cluster.store.journals.owner import this_process
from bcpg_cluster.store.layout import LOCK
from bcpg_cluster.store.manifest import Manifest, read_manifest

NUM = 8


def want(run_dir: Path, start: Barrier, said: Queue[str], end: Event, *, take_over: bool) -> None:
    """Be one of them; who gets the run adds a line and dies without giving it back."""
    start.wait()
    try:
        check_free(run_dir, take_over=take_over)
        manifest = Manifest(run_dir, take_over=take_over)
        manifest.add_fault(FaultEvent(FaultKind.RETRY, "mine", ""))
    except RunDirectoryError as error:
        said.put("in use" if "is in use by process" in str(error) else str(error))
    except Exception as error:
        said.put(repr(error))
    else:
        said.put("mine")
        end.wait()
        os._exit(9)


def attempt(run_dir: Path, kind: str) -> list[str]:
    """What each was told."""
    if kind != "killed":
        shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(exist_ok=True)
    holder = None
    if kind == "silent":
        sign = {**this_process(), "host": "elsewhere", "machine": "another/pid:[1]", "time": time.time() - 100}
        (run_dir / LOCK).write_text(json.dumps({**sign, "released": False}))
    elif kind == "removed":
        holder = Manifest(run_dir)
        (run_dir / LOCK).unlink()
    context = get_context("fork")
    start, said, end = context.Barrier(NUM), context.Queue(), context.Event()
    several = [
        context.Process(target=want, args=(run_dir, start, said, end), kwargs={"take_over": kind == "silent"})
        for _ in range(NUM)
    ]
    for one in several:
        one.start()
    told = sorted(said.get(timeout=60) for _ in several)
    lines = [fault.what for fault in read_manifest(run_dir).faults]
    end.set()
    for one in several:
        one.join()
    if holder is not None:
        holder.close()
    return [*told, f"{len(lines)} lines"]


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        print(json.dumps(attempt(Path(sys.argv[1]), sys.argv[3])), flush=True)
