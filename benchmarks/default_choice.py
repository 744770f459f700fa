"""Which beta, learning rate and epochs should the default have? Three rounds of each candidate, on held-out train prompts.

    python benchmarks/default_choice.py --out runs/choice                      # a candidate and seed takes some minutes
    python benchmarks/default_choice.py --out runs/choice --budget-minutes 60  # a piece of it; run it again for the next

Tuning a method (``paper_tables.py``) looks at one round and at sampled accuracy. The default runs three rounds and is read by
both measures, so it is chosen by the mean of the two after the last round. The seeds are none that is measured elsewhere, and the
test problems are not looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from measure import facts
from rich.console import Console

from bcpg_cluster.comparison.setup import Arm, Setup, Tuned, split_validation
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.prompts.files import write_prompts
from bcpg_cluster.watch.report.comparison_report import ArmResult
from bcpg_cluster_cli.runs.compare import make_setup, open_comparison

BETAS = (1.0, 0.5, 0.0, -0.5)
OTHERS = (Tuned(1e-4, 2), Tuned(5e-5, 6), Tuned(2e-4, 6))
"""Learning rates and epochs besides the configuration's own."""


def candidate(beta: float, rounds: int, tuned: Tuned | None = None) -> Arm:
    """The default with another beta, or also with another learning rate and epochs, which the comparison is told of."""
    settings = (f"weigh.beta={beta}",)
    if tuned is None:
        return Arm(f"beta{beta:g}", settings, rounds=rounds)
    name = f"beta{beta:g}-rate{tuned.learning_rate:g}-epochs{tuned.epochs}"
    return Arm(name, settings, tuned_as=str(tuned), rounds=rounds)


def score(result: ArmResult) -> tuple[float, float, float]:
    """Sampled, greedy, and what is chosen by: their mean. Raises :class:`ValueError` for a run that was not measured."""
    report = result.report
    if report is None or report.accuracy is None or report.accuracy_greedy is None:
        raise ValueError(f"{result.arm}, seed {result.seed}, round {result.round} was not measured: {result.note}")
    return report.accuracy, report.accuracy_greedy, (report.accuracy + report.accuracy_greedy) / 2


def rows(found: Sequence[list[ArmResult]]) -> list[str]:
    """A table, best first: means over the seeds there are, of every round. Candidates with a run that diverged come last."""
    by_arm: dict[str, list[list[ArmResult]]] = {}
    for results in found:
        by_arm.setdefault(results[0].arm, []).append(results)
    diverged = {results[0].arm for results in found if any(result.status == "diverged" for result in results)}
    measured = {arm: runs for arm, runs in by_arm.items() if arm not in diverged}

    def mean(runs: list[list[ArmResult]], round_: int, of: int) -> float:
        return 100 * statistics.mean(score(run[round_])[of] for run in runs)

    lines = [
        "| candidate | seeds | sampled by round | greedy by round | mean of both, last round |",
        "|---|---|---|---|---|",
    ]
    for arm, runs in sorted(measured.items(), key=lambda item: -mean(item[1], -1, 2)):
        rounds = range(len(runs[0]))
        sampled, greedy = (", ".join(f"{mean(runs, round_, of):.1f}" for round_ in rounds) for of in (0, 1))
        seeds = ", ".join(str(run[0].seed) for run in runs)
        lines.append(f"| {arm} | {seeds} | {sampled} | {greedy} | {mean(runs, -1, 2):.1f} |")
    return [*lines, *(f"| {arm} | | diverged | | |" for arm in sorted(diverged))]


def make(arguments: argparse.Namespace, console: Console) -> None:
    """Run what is missing, and write the table however far it came."""
    out: Path = arguments.out.absolute()
    setup = setup_of(arguments, out)
    until = time.monotonic() + 60 * arguments.budget_minutes
    arms = [candidate(beta, arguments.rounds) for beta in arguments.betas]
    if arguments.others_at is not None:
        arms += [candidate(arguments.others_at, arguments.rounds, tuned) for tuned in OTHERS]
    seeds = [setup.config.seed + index for index in range(arguments.seeds)]
    found: list[list[ArmResult]] = []
    try:
        with open_comparison(
            out / "comparison", setup, "local", console, inline=False, may_begin=lambda: time.monotonic() < until
        ) as comparison:
            for tuned in OTHERS:
                comparison.take(str(tuned), tuned)
            for results in comparison.runs((arm, seed) for seed in seeds for arm in arms):
                found.append(results)
    except Interrupted as stop:
        console.print(f"{stop}; run the same command again for the rest")
    table = "\n".join(rows(found))
    (out / "choice.md").write_text(f"{table}\n\n```json\n{json.dumps(facts(), indent=1)}\n```\n")
    console.print(table, highlight=False, markup=False, soft_wrap=True)


def setup_of(arguments: argparse.Namespace, out: Path) -> Setup:
    """The default, measured on train prompts that are held out."""
    common = ("1e-4", "1", 0, 1, None)
    first = make_setup("laptop", [], *common)
    train, validation = split_validation(first.prompts.train, arguments.validation_prompts)
    files = {"train": train, "test": validation}
    settings = [f"prompts.{name}={write_prompts(out / f'{name}.jsonl', prompts)}" for name, prompts in files.items()]
    return make_setup("laptop", [*settings, f"seed={arguments.seed}"], *common)


def main() -> None:
    """Run the candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/choice"))
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS))
    parser.add_argument("--others-at", type=float, help="also other learning rates and epochs, at this beta")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2000, help="the first (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--validation-prompts", type=int, default=300)
    parser.add_argument("--budget-minutes", type=float, default=120.0, help="begin no run later (default: %(default)s)")
    make(parser.parse_args(), Console())


if __name__ == "__main__":
    main()
