"""Does the default learn? Runs it with several seeds and writes the table of docs/results.md.

    python benchmarks/learning.py --seeds 5 --out runs/learning

Every seed is an ordinary ``bcpg-cluster iterate`` in its own run directory; a run that is there already is not run again, so
the command can be stopped and repeated. ``--arm oracle`` takes the true step labels instead of the judges' consensus,
``--arm bcpg`` takes none (beta = 1).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import JudgeQuality, RoundReport

ARMS = {
    "default": [],
    "oracle": ["judges.llm.role=measure", "judges.prm.role=measure", "judges.truth.role=vote"],
    "bcpg": ["weigh.beta=1.0"],
}


def run_seed(seed: int, rounds: int, arm: str, run_dir: Path) -> dict[int, RoundReport]:
    """Reports by round of one seed's run, run now unless it is there."""
    reports = read_manifest(run_dir).reports if run_dir.exists() else {}
    if not all(round_ in reports for round_ in range(rounds + 1)):
        program = str(Path(sys.executable).parent / "bcpg-cluster")
        command = [program, "iterate", "--rounds", str(rounds), "--config", "laptop", "--address", "local"]
        command += ["--seed", str(seed), "--run-dir", str(run_dir)]
        for setting in ARMS[arm]:
            command += ["--set", setting]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        started = time.monotonic()
        with (run_dir.parent / f"{run_dir.name}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "PATH": path})
        (run_dir.parent / f"{run_dir.name}.seconds").write_text(f"{time.monotonic() - started:.0f}")
        reports = read_manifest(run_dir).reports
    return {round_: reports[round_] for round_ in range(rounds + 1)}


def mean_and_error(values: list[float]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def shown(values: list[float]) -> str:
    """In percentage points."""
    mean, error = mean_and_error(values)
    return f"{100 * mean:+.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def table(runs: dict[int, dict[int, RoundReport]], rounds: int) -> list[str]:
    """The runs as Markdown: one row a seed, then the mean changes."""
    head = [
        "seed",
        *(f"v{r} sampled / greedy" for r in range(rounds + 1)),
        "change sampled",
        "change greedy",
        "minutes",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for seed, reports in runs.items():
        cells = [f"{100 * (r.accuracy or 0.0):.1f} / {100 * (r.accuracy_greedy or 0.0):.1f}" for r in reports.values()]
        change = reports[rounds].change_from_base
        moved = [
            f"{100 * change[key].mean:+.1f} ± {100 * (change[key].stderr or 0.0):.1f}"
            for key in ("accuracy", "accuracy_greedy")
        ]
        minutes = sum(report.round_seconds for report in reports.values()) / 60
        lines.append("| " + " | ".join([str(seed), *cells, *moved, f"{minutes:.1f}"]) + " |")
    lines.append("")
    for key, name in (("accuracy", "sampled"), ("accuracy_greedy", "greedy")):
        steps = [
            f"round {r}: {shown([reports[r].change[key].mean for reports in runs.values()])}"
            for r in range(1, rounds + 1)
        ]
        whole = shown([reports[rounds].change_from_base[key].mean for reports in runs.values()])
        lines.append(
            f"- {name}: {whole} points over the base after round {rounds} (mean over seeds ± its standard "
            f"error); by round (paired over problems): {', '.join(steps)}"
        )
    return lines


def quality_of(report: RoundReport) -> dict[str, dict[str, JudgeQuality]]:
    """By judge and measure; a round that learned has it."""
    return {} if report.judges is None else report.judges.quality


def judges(runs: dict[int, dict[int, RoundReport]], rounds: int) -> list[str]:
    """Judge quality by round, averaged over seeds, by tokens."""
    lines = ["| round | judge | precision | recall | mined share |", "|---|---|---|---|---|"]
    for round_ in range(1, rounds + 1):
        names = list(quality_of(runs[min(runs)][round_]))
        for name in names:
            facts = [quality_of(reports[round_])[name]["truth"].tokens for reports in runs.values()]
            precision = [f.precision for f in facts if f.precision is not None]
            recall = [f.recall for f in facts if f.recall is not None]
            mined = [reports[round_].mined_share or 0.0 for reports in runs.values()]
            lines.append(
                f"| {round_} | {name} | {sum(precision) / len(precision):.3f} | {sum(recall) / len(recall):.3f} | "
                + (f"{sum(mined) / len(mined):.3f} |" if name == "consensus" else " |")
            )
    return lines


def main() -> None:
    """Run the seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=sorted(ARMS), default="default")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {
        seed: run_seed(seed, arguments.rounds, arguments.arm, arguments.out / f"{arguments.arm}-{seed}")
        for seed in range(arguments.seeds)
    }
    lines = [*table(runs, arguments.rounds), ""]
    if any("truth" in facts for facts in quality_of(runs[0][1]).values()):
        lines += judges(runs, arguments.rounds)
    print("\n".join(lines))
    (arguments.out / f"{arguments.arm}.json").write_text(
        json.dumps({str(seed): {r: report.plain() for r, report in reports.items()} for seed, reports in runs.items()})
    )


if __name__ == "__main__":
    main()
