"""A round's wall seconds against its longest stage: how much of a round is spent on anything else?

Reads the reports in a finished run's manifest and starts nothing. If everything overlapped perfectly the ratio would be 1; the
stages that must follow each other (data, then training, then the push, then the evaluation) keep it above. The second ratio
looks at the data half alone, where generation, verification, segmentation, judging and weighing do overlap. In the first round
of a process the seconds of a stage contain the start of its engine, so take a run of several rounds.

    python benchmarks/round_overlap.py --run-dir runs/laptop [--json FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, summarise

from bcpg_cluster.store.manifest import read_manifest

_NOT_STAGES = {"round", "data"}  # sums over stages
_AFTER_DATA = {"train", "push", "proof", "evaluate", "verify_evaluation"}


def round_figures(seconds: dict[str, float]) -> dict[str, Any]:
    """What one report's seconds say."""
    stages = {name: value for name, value in seconds.items() if name not in _NOT_STAGES}
    data = {name: value for name, value in stages.items() if name not in _AFTER_DATA}
    longest = max(stages, key=lambda name: stages[name])
    return {
        "wall": seconds["round"],
        "longest": stages[longest],
        "longest_name": longest,
        "ratio": seconds["round"] / stages[longest],
        "data": seconds["data"],
        "data_longest": max(data.values()),
        "data_ratio": seconds["data"] / max(data.values()),
        "data_sum_ratio": sum(data.values()) / seconds["data"],
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()
    reports = read_manifest(options.run_dir).reports
    complete = {r: report for r, report in sorted(reports.items()) if "generate" in report.seconds}
    left_out = sorted(r for r in reports if r and r not in complete)
    if not complete:
        sys.exit(f"{options.run_dir}: no round whose report has the seconds of all its stages")
    rounds = {round_: round_figures(report.seconds) for round_, report in complete.items()}

    def over_rounds(key: str) -> dict[str, Any]:
        return summarise([figures[key] for figures in rounds.values()])

    finish(
        f"wall seconds of a round against its longest stage ({len(rounds)} rounds)",
        {
            "round, s": over_rounds("wall"),
            "its longest stage, s": over_rounds("longest"),
            "ratio round / longest stage": over_rounds("ratio"),
            "data half, s": over_rounds("data"),
            "its longest stage, s ": over_rounds("data_longest"),
            "ratio data half / its longest stage": over_rounds("data_ratio"),
            "stages under way at once in the data half": over_rounds("data_sum_ratio"),
        },
        settings={
            "run": options.run_dir.name,
            "longest stage by round": {round_: figures["longest_name"] for round_, figures in rounds.items()},
            "rounds left out (resumed in the middle)": left_out or "none",
            "note": "the facts below are those of this machine now, not of the run",
        },
        json_file=options.json,
        started=facts(),
    )


if __name__ == "__main__":
    main()
