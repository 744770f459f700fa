"""`make drills`: hit small runs on fakes in every way there is, and see that nothing is lost and nothing is false.

python -m tests.drills --members 40 --drivers 10 --cluster 4 --seed 0 --json drills.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

from tests.drills.catalog import cluster_drills, driver_drills, link_drills, member_drills, sampled, store_drills
from tests.drills.files import file_drills
from tests.drills.full_store import store_place
from tests.drills.links import link_place
from tests.drills.operations import operation_drills
from tests.drills.processes import own_ray_place, ray_place
from tests.drills.records import Drill, Outcome, Result
from tests.drills.small_run import write_small_run
from tests.drills.strikes import Place, strike
from tests.drills.summary import as_data, summary

_NAMES = (
    ("members", "members of pools"),
    ("drivers", "the driver"),
    ("cluster", "raylet and GCS"),
    ("store", "Ray's object store"),
    ("links", "links between hosts (root, and the packages of tests/cluster/hosts.py)"),
)


def main() -> int:
    """The drills that were asked for; exit code 1 when one of them ended badly."""
    asked = _arguments()
    started, load = time.monotonic(), os.getloadavg()[0]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="drill", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        at_rest = write_small_run(folder, dict(os.environ), latency_s=0.0)
        for every, drills in ((asked.files, file_drills), (asked.operations, operation_drills)):
            for result in drills(at_rest, folder, every, asked.seed) if every else ():
                _say(len(results), result)
                results.append(result)
        for name, place_at, drills, jobs in _under_way(asked):
            if drills:
                (folder / name).mkdir()
                with place_at(folder / name) as place:
                    results += _at(place, drills, jobs)
    print(summary(results))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"{len(results)} drills, seed {asked.seed}, {time.monotonic() - started:.0f} s on {os.cpu_count()} cores, load {load:.1f} "
        f"before; commit {commit or 'unknown'}, Ray {version('ray')}, Python {platform.python_version()}"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"seed": asked.seed, "results": as_data(results)}, indent=1))
    bad = [result for result in results if result.outcome is Outcome.BROKEN or not result.difference.is_none]
    for result in bad:
        print(f"\nBAD {result.drill}: {result.outcome}, {result.difference}\n{result.words}")
    return 1 if bad else 0


def _under_way(
    asked: argparse.Namespace,
) -> list[tuple[str, Callable[..., AbstractContextManager[Place]], list[Drill], int]]:
    """Drills of runs on a Ray, by where: a name, how it is made, the drills, and how many at once."""
    on_one_ray = [
        *sampled(member_drills(), asked.members, asked.seed),
        *sampled(driver_drills(), asked.drivers, asked.seed),
    ]
    return [
        ("r", ray_place, on_one_ray, asked.jobs),
        ("c", own_ray_place, sampled(cluster_drills(), asked.cluster, asked.seed), asked.jobs),
        ("s", store_place, sampled(store_drills(), asked.store, asked.seed), 1),
        ("n", link_place, sampled(link_drills(), asked.links, asked.seed), 1),
    ]


def _say(number: int, result: Result) -> None:
    print(f"{number + 1:4} {result.drill}: {result.outcome}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    for name, what in _NAMES:
        parser.add_argument(f"--{name}", type=int, default=0, help=f"drills at {what}, drawn by the seed")
    for name, what in (("files", "files of a run at rest"), ("operations", "durable operations of a run")):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=f"one in N drills at {what}; 0 is none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="drills on Ray at once")
    parser.add_argument("--json", type=Path, help="where to write every result")
    return parser.parse_args()


def _at(place: Place, drills: list[Drill], jobs: int) -> list[Result]:
    def drilled(number: int) -> Result:
        own = place.calm.parent / f"{number}"
        own.mkdir()
        result = strike(drills[number], place, own)
        shutil.rmtree(own, ignore_errors=True)
        _say(number, result)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(drilled, range(len(drills))))


if __name__ == "__main__":
    sys.exit(main())
