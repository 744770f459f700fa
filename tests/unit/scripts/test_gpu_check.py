"""scripts/gpu_check: the time each check may use, what the JSON says, and that a check that goes wrong ends only itself."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bcpg_cluster.stages.train.batching import RowSize
from scripts.gpu_check import runner
from scripts.gpu_check.budget import STOPPING_S, turn
from scripts.gpu_check.catalogue import CHECKS, Check
from scripts.gpu_check.layouts import computed_tokens, full_rectangles
from scripts.gpu_check.record import ON_CPU, CheckFailed, CheckResult, Machine, Record, write_record
from scripts.gpu_check.runner import ROOT, judged, run_all, run_check
from scripts.gpu_check.shapes import Shape, mixed_rows
from scripts.gpu_check.throughput import peak_tflops
from tests.trainer_contract import is_near, report_faults

MACHINE = Machine("a processor", False, None, None, None, "3.11", {"torch": "2"}, "abc", (0.0,))


# --- the time


@pytest.mark.parametrize(
    ("index", "elapsed_s", "limit_s", "starts"),
    [
        (0, 0.0, 20.0, True),
        (1, 5.0, 45.0, True),  # 15 s are left over by the first
        (1, 20.0, 30.0, True),
        (1, 45.0, 5.0, False),  # less than it needs
        (2, 100.0, 0.0, False),
        (2, 130.0, 0.0, False),
    ],
)
def test_a_check_may_use_its_share_and_what_earlier_ones_left(
    index: int, elapsed_s: float, limit_s: float, starts: bool
) -> None:
    found = turn((2, 3, 5), index, total_s=100 + STOPPING_S, elapsed_s=elapsed_s, least_s=10)
    assert found.limit_s == pytest.approx(limit_s)
    assert found.starts is starts


def test_checks_that_all_hang_end_within_the_limit_and_each_has_its_turn() -> None:
    shares, elapsed_s = [check.share_s for check in CHECKS], 0.0
    for index, check in enumerate(CHECKS):
        its_turn = turn(shares, index, total_s=480, elapsed_s=elapsed_s, least_s=check.least_s)
        assert its_turn.starts, check.name
        elapsed_s += its_turn.limit_s
    assert elapsed_s == pytest.approx(480 - STOPPING_S)


# --- the catalogue


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_is_there_and_takes_its_options(check: Check) -> None:
    inspect.signature(check.function()).bind("a bench", **check.options)


# --- the file


def test_the_record_counts_and_says_where_no_gpu_was_used(tmp_path: Path) -> None:
    checks = [
        CheckResult("a", "ok", seconds=1.5, figures={"s": 2}),
        CheckResult("b", "skipped", "ray is not installed"),
    ]
    record = Record("2026-11-29T17:00:00+0000", 9.0, 480.0, True, MACHINE, checks)
    write_record(record, tmp_path / "deep" / "found.json")
    content = json.loads((tmp_path / "deep" / "found.json").read_text())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["found.json"]
    assert (content["schema"], content["note"]) == (1, ON_CPU)
    assert content["counts"] == {"ok": 1, "failed": 0, "skipped": 1}
    assert content["checks"][0] == {"name": "a", "status": "ok", "reason": "", "seconds": 1.5, "figures": {"s": 2}}
    assert content["machine"]["device"] == "a processor" and content["machine"]["is_gpu"] is False
    assert not record.has_failed()
    assert Record("", 0, 0, True, MACHINE, [CheckResult("c", "failed", "why")]).has_failed()


def test_what_a_check_raised_becomes_a_status_with_a_reason() -> None:
    assert judged(CheckFailed("off by 3")) == ("failed", "off by 3")
    status, reason = judged(ModuleNotFoundError("No module named 'peft.x'", name="peft.x"))
    assert (status, reason) == ("skipped", "peft is not installed: carry its wheel (--wheels DIR)")
    assert judged(ModuleNotFoundError("No module named 'vllm'", name="vllm")) == ("skipped", "vllm is not installed")
    try:
        raise ModuleNotFoundError("No module named 'tests.gone'", name="tests.gone")
    except ModuleNotFoundError as error:
        assert judged(error)[0] == "failed", "this project's own"
    try:
        raise MemoryError("CUDA out of memory:\n 3 GiB")
    except MemoryError as error:
        status, reason = judged(error)
    assert (status, reason[:40]) == ("failed", "MemoryError: CUDA out of memory: 3 GiB (")


# --- processes


def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Have every check's process run ``script`` in place of the check; ``folder`` is the check's."""
    file = tmp_path / "python"
    file.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys, time\n"
        f"folder = pathlib.Path(sys.argv[sys.argv.index('--folder') + 1])\n{script}\n"
    )
    file.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(file))


def _run(check: Check, tmp_path: Path, limit_s: float = 30.0) -> CheckResult:
    return run_check(check, device="cpu", is_small=True, limit_s=limit_s, shared=tmp_path)


def test_a_check_that_dies_keeps_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = "(folder / 'figures.json').write_text(json.dumps({'mib': 3}))\n"
    _stand_in(monkeypatch, tmp_path, noted + "print('the last word', flush=True); os.kill(os.getpid(), 9)")
    found = _run(CHECKS[0], tmp_path)
    assert (found.status, found.figures) == ("failed", {"mib": 3})
    assert found.reason == f"its process ended by signal {int(signal.SIGKILL)}; the last word"


def test_a_check_that_hangs_is_stopped_with_what_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = tmp_path / "started"
    _stand_in(
        monkeypatch, tmp_path,
        f"import subprocess; child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); time.sleep(600)",
    )  # fmt: skip
    found = _run(CHECKS[0], tmp_path, limit_s=8.0)
    assert (found.status, found.reason) == ("failed", "stopped after 8 s, its share of the time")
    child = Path("/proc", started.read_text(), "stat")
    until = time.monotonic() + 20  # what is killed is gone when its new parent has waited for it
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        os.sched_yield()
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_one_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = "json.dumps({'status': 'ok', 'reason': ''})"
    _stand_in(
        monkeypatch, tmp_path,
        f"if 'digest' in sys.argv: raise SystemExit('broken')\n(folder / 'outcome.json').write_text({answer})",
    )  # fmt: skip
    by_name = {check.name: check for check in CHECKS}
    late = Check("late", "digests:check_digest", 1, least_s=1e6)
    lacking = Check("lacking", "digests:check_digest", 1, ("no_such_package",))
    checks = [by_name["digest"], by_name["area_cut"], late, lacking]
    found = run_all(checks, device="cpu", is_small=True, total_s=600, began=time.monotonic())
    assert [result.status for result in found] == ["failed", "ok", "skipped", "skipped"]
    assert found[0].reason == "its process ended with code 1; broken"
    assert found[2].reason.startswith("time: ")
    assert found[3].reason == "no_such_package is not installed"


def test_the_command_answers_and_refuses_without_torch(tmp_path: Path) -> None:
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/gpu_check.sh"], env={**os.environ, "PYTHON": str(without)}, capture_output=True, text=True
    )
    assert (done.returncode, "has no torch" in done.stderr) == (2, True)


# --- what the checks compare with


def test_rectangles_are_filled_to_the_budget() -> None:
    """10 x 1; 6 and 5 fit 12 as two of 6; 2, 2, 2 as three of 2: 10 + 12 + 6 tokens."""
    sizes = [RowSize((length,), 1) for length in (2, 6, 10, 2, 5, 2)]
    cut = full_rectangles(sizes, 12)
    assert cut == ((2,), (1, 4), (0, 3, 5))
    assert computed_tokens(sizes, cut) == 28
    assert full_rectangles(sizes[2:3], 4) == ((0,),), "a row beyond the budget has one of its own"


def test_operations_of_a_step_by_hand() -> None:
    """One layer of width 4 with 2 heads, 1 of them for keys: 4 x (8 + 4) + 3 x 4 x 5 = 108 weights, and a head of 7 x 4."""
    of = Shape(7, 4, 5, 1, 2, 1, num_rows=1, longest=32, micro_batch_tokens=64)
    (row,) = mixed_rows(of)
    length, response = len(row.prompt_token_ids) + len(row.token_ids), len(row.token_ids)
    assert of.step_flops([row]) == 6 * 108 * length + 6 * 28 * response + 6 * 4 * length**2


def test_peaks_are_known_by_the_most_exact_name() -> None:
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989.0
    assert peak_tflops("NVIDIA L40S") == 362.0
    assert peak_tflops("a processor") is None


def test_tolerances_are_relative_above_one_and_none_is_itself_alone() -> None:
    assert is_near(100.05, 100.0, 1e-3) and not is_near(100.2, 100.0, 1e-3)
    assert is_near(0.0005, 0.0, 1e-3) and not is_near(float("nan"), 0.0, 1e-3)
    assert is_near(None, None, 1e-3) and not is_near(None, 0.0, 1e-3) and not is_near(4, 5, 1.0)
    assert report_faults([], [None], 1.0) == ["0 steps instead of 1"]  # type: ignore[list-item]


def test_the_wheels_are_all_that_trainers_need_beside_torch() -> None:
    lines = (ROOT / "scripts/gpu_check/wheels.txt").read_text().splitlines()
    named = {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}
    needed: set[str] = set()
    waiting = ["deepspeed", "transformers", "peft", "xxhash"]
    while waiting:
        if (name := canonicalize_name(waiting.pop())) in needed | {"torch"}:
            continue
        needed.add(name)
        found = map(Requirement, distribution(name).requires or [])
        waiting += [each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert named == needed
