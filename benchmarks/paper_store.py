"""The raw numbers of ``paper_tables.py``: one JSON file a task, small enough to commit, a run and round a line.

A run that the file has is not made again, on whatever machine: copy the file and run further sets or seeds elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcpg_cluster.comparison.setup import Tuned
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.report.comparison_report import START, ArmResult

_DIGITS = 6


@dataclass
class Numbers:
    """What is known of one task.

    Attributes:
        made_with: the configuration's name, its sizes, the grid and the problems; another comparison has another.
        machines: device, load, commit and versions of each session that added runs.
        chosen: what was tuned, by method: learning rate, epochs, and what the validation split said of all that was tried.
        runs: by arm, seed and round.
    """

    path: Path
    made_with: dict[str, Any]
    machines: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, made_with: dict[str, Any], machine: dict[str, Any]) -> Numbers:
        """What the file has, and a line for this session.

        Raises:
            RunDirectoryError: the file is of another comparison.
        """
        numbers = cls(path, json.loads(json.dumps(made_with)))
        if path.exists():
            content = json.loads(path.read_text())
            different = [key for key in numbers.made_with if content["made_with"].get(key) != numbers.made_with[key]]
            if different:
                raise RunDirectoryError(
                    f"{path} has the numbers of another comparison; different: {', '.join(different)}",
                    rule="runs are added to those of the same configuration, grid and problems",
                    remedy="give another --out",
                )
            numbers.machines, numbers.chosen = content["machines"], content["chosen"]
            numbers.runs = {(run["arm"], run["seed"], run["round"]): run for run in content["runs"]}
        numbers.machines.append(machine)
        return numbers

    def tuned(self) -> dict[str, Tuned]:
        """What was chosen for each method."""
        return {name: Tuned(said["learning_rate"], said["epochs"]) for name, said in self.chosen.items()}

    def has(self, arm: str, seed: int, rounds: int) -> bool:
        """Whether an arm's last round is there."""
        return (arm, seed, rounds) in self.runs

    def add(self, results: Iterable[ArmResult]) -> None:
        """Take runs in and write the file."""
        for result in results:
            self.runs[result.arm, result.seed, result.round] = {
                "arm": result.arm,
                "seed": result.seed,
                "round": result.round,
                "status": result.status,
                "learning_rate": result.learning_rate,
                "epochs": result.epochs,
                "note": result.note,
                "machine": len(self.machines) - 1,
                "numbers": None if result.report is None else short(result.report),
            }
        self.write()

    def write(self) -> None:
        """The whole file, or nothing of it."""
        head = {"made_with": self.made_with, "machines": self.machines, "chosen": self.chosen}
        lines = [json.dumps(self.runs[key], separators=(",", ":")) for key in sorted(self.runs)]
        body = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + ",\n".join(lines) + "\n ]\n}\n"
        write_whole(self.path, body.encode())

    def results(self, arms: Mapping[str, str], seeds: Iterable[int], last_round: int) -> list[ArmResult]:
        """The runs of some arms and of the start, in the order of ``arms``, as :func:`compare` takes them."""
        wanted, order = set(seeds), [START, *arms]
        found = [
            ArmResult(arm, seed, round_, run["status"], run["learning_rate"], _long(run), run["note"], run["epochs"])
            for (arm, seed, round_), run in sorted(self.runs.items())
            if seed in wanted and round_ <= last_round and arm in order
        ]
        return sorted(found, key=lambda result: order.index(result.arm))


def short(report: RoundReport) -> dict[str, Any]:
    """What tables and figures read of a report."""
    found: dict[str, Any] = {
        "accuracy": report.accuracy,
        "accuracy_greedy": report.accuracy_greedy,
        "pass_at_k": {k: {"mean": round(estimate.mean, _DIGITS)} for k, estimate in report.pass_at_k.items()},
        "more_tests": {
            name: {"accuracy": test.accuracy, "accuracy_greedy": test.accuracy_greedy}
            for name, test in report.more_tests.items()
        },
        "mined_share": report.mined_share,
        "mined_gradient_share": report.mined_gradient_share,
        "uncertain_right_share": report.uncertain_right_share,
    }
    if report.judges is not None:
        for measure in report.judges.quality.get("consensus", {}).values():
            found |= {"consensus_precision": measure.tokens.precision, "consensus_recall": measure.tokens.recall}
    if report.train is not None:
        found["steps"] = report.train.steps
    return {key: round(value, _DIGITS) if isinstance(value, float) else value for key, value in found.items()}


def _long(run: Mapping[str, Any]) -> RoundReport | None:
    return None if run["numbers"] is None else RoundReport.read({"round": run["round"], **run["numbers"]})
