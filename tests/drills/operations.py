"""Blows at the disk: the k-th durable operation of a run fails, alone or with all after it, for every k."""

from __future__ import annotations

import errno
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.run.entry import run_rounds
from bcpg_cluster.stages.fakes.disk_faults import DiskFault, WatchedDisk
from tests.drills.compare_runs import compare_runs
from tests.drills.records import Difference, Drill, Outcome, Result
from tests.drills.small_run import ROUNDS, SmallRun

_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO)


def operation_drills(run: SmallRun, folder: Path, every: int, seed: int) -> Iterator[Result]:
    """One operation in ``every``, drawn by the seed; once alone and once with all after it."""
    config = load_config(run.config)
    calm, struck = folder / "calm-disk", folder / "struck"
    with WatchedDisk(calm) as disk:
        run_rounds(config, ROUNDS, calm, inline=True)
    for operation in random.Random(seed).sample(disk.operations, math.ceil(len(disk.operations) / every)):
        for is_lasting in (False, True):
            shutil.rmtree(struck, ignore_errors=True)
            place = (
                Path(operation.path).relative_to(calm) if Path(operation.path).is_relative_to(calm) else operation.path
            )
            how = "and all after it" if is_lasting else "alone"
            drill = Drill("operation", f"{operation.number}, {operation.kind} {place}, {how}", "failed write")
            outcome = Outcome.UNHURT
            fault = DiskFault(operation.number, is_lasting, _ERRORS[operation.number % len(_ERRORS)])
            try:
                with WatchedDisk(struck, fault):
                    run_rounds(config, ROUNDS, struck, inline=True)
            except (BcpgError, OSError):
                outcome = Outcome.RESUMED
            try:
                run_rounds(config, ROUNDS, struck, inline=True)
            except (BcpgError, OSError) as error:
                yield Result(drill, Outcome.BROKEN, Difference(), words=repr(error))
                continue
            yield Result(drill, outcome, compare_runs(struck, calm))
