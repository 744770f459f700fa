"""Each check in a process of its own: one that fails, hangs, dies or runs out of memory ends nothing but itself."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu_check.budget import turn
from scripts.gpu_check.catalogue import Check, check_named
from scripts.gpu_check.record import CheckFailed, CheckResult

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("bcpg_cluster", "bcpg_cluster_cli", "benchmarks", "scripts", "tests")


def run_all(checks: Sequence[Check], *, device: str, is_small: bool, total_s: float, began: float) -> list[CheckResult]:
    """All of them in order, within ``total_s`` of ``began`` (``time.monotonic``); those that time is too short for are skipped."""
    results: list[CheckResult] = []
    shares = [check.share_s for check in checks]
    starts = time.monotonic()  # what installing and importing took is shared by all, not the first one's loss
    left_s = total_s - (starts - began)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as shared:
        for index, check in enumerate(checks):
            elapsed_s = time.monotonic() - starts
            its_turn = turn(shares, index, total_s=left_s, elapsed_s=elapsed_s, least_s=check.least_s)
            if its_turn.starts:
                result = run_check(
                    check, device=device, is_small=is_small, limit_s=its_turn.limit_s, shared=Path(shared)
                )
            else:
                result = CheckResult(
                    check.name,
                    "skipped",
                    f"time: {its_turn.limit_s:.0f} s are left of its turn, it needs {check.least_s:.0f}",
                )
            results.append(result)
            print(f"{result.status:8}{result.name:18}{result.seconds:6.1f} s  {result.reason}", flush=True)
    return results


def run_check(check: Check, *, device: str, is_small: bool, limit_s: float, shared: Path) -> CheckResult:
    """One check in a process of its own; stopped after ``limit_s``, with all that it started."""
    missing = [package for package in check.needs if importlib.util.find_spec(package) is None]
    if missing:
        return CheckResult(check.name, "skipped", "; ".join(map(lacks, missing)))
    with tempfile.TemporaryDirectory(prefix=f"gpu-check-{check.name}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "scripts.gpu_check", "--one", check.name, "--device", device]
        command += ["--small"] if is_small else ["--full"]
        command += ["--folder", str(folder), "--shared", str(shared)]
        began = time.monotonic()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(is_small), stdout=log, stderr=log, start_new_session=True
            )
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        return _result(check.name, folder, code, time.monotonic() - began, limit_s)


def lacks(package: str) -> str:
    """That a package is missing, and how to carry it where that is prepared."""
    listed = (Path(__file__).with_name("wheels.txt")).read_text().splitlines()
    is_carried = any(re.split(r"[^\w-]", line)[0] == package.replace("_", "-") for line in listed)
    return f"{package} is not installed" + (": carry its wheel (--wheels DIR)" if is_carried else "")


def _environment(is_small: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1"} if is_small else {}
    return {**threads, **os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _end(process: subprocess.Popen[Any]) -> None:
    """The check's process group, of which it is the leader, and with it what outlived it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _result(name: str, folder: Path, code: int | None, seconds: float, limit_s: float) -> CheckResult:
    figures = _read(folder / "figures.json")
    outcome = _read(folder / "outcome.json")
    if not outcome:
        lines = (folder / "log").read_bytes().decode(errors="replace").split("\n")
        last = [line.rsplit("\r", 1)[-1] for line in lines if line.strip()][-2:]  # a progress bar's last state
        how = (
            f"stopped after {limit_s:.0f} s, its share of the time"
            if code is None
            else f"its process ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        )  # fmt: skip
        outcome = {"status": "failed", "reason": "; ".join([how, *last])}
    return CheckResult(name, outcome["status"], outcome["reason"], round(seconds, 2), figures)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def run_here(name: str, *, device: str, is_small: bool, folder: Path, shared: Path) -> None:
    """Run a check in this process and write what came of it."""
    from scripts.gpu_check.bench import Bench

    try:
        check_named(name).run(Bench(device, is_small, folder, shared))
        status, reason = "ok", ""
    except Exception as error:
        traceback.print_exc()
        status, reason = judged(error)
    (folder / "outcome.json").write_text(json.dumps({"status": status, "reason": reason}))


def judged(error: Exception) -> tuple[str, str]:
    """The status and reason of a check that raised."""
    if isinstance(error, CheckFailed):
        return "failed", str(error)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) not in _OURS:
        return "skipped", lacks(package)
    where = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())[:500]
    return "failed", f"{type(error).__name__}: {words} ({Path(where.filename).name}:{where.lineno})"
