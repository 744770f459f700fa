"""What was mined though it is wrong, by round and kind of mistake: do a policy's answers drift into what its judges misread?

    python -m benchmarks.mined_mistakes runs/paper/sums/comparison/arms/bcpg_nsa@-0.5/seed-* --rounds 5

Takes runs of the sums task that measure by true labels (rule ``local``), all of one arm, and asks no judge. Counts steps of wrong
answers in the training data, but for the answer's. The share of the wrong *tokens* that was mined follows from the round reports.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bcpg_cluster.assets.sums.task import parse_question, step_truths
from bcpg_cluster.records import Step
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import UnitQuality
from bcpg_cluster.store.rows import prompts_from, steps_from, weighted_from
from bcpg_cluster.store.shards import Row, read_table
from scripts.sums.make_judges import Response, mistake_of


def wrong_mined(tokens: UnitQuality) -> float | None:
    """The share of the wrong tokens that the labels call right; ``None`` where one of the figures it follows from is unknown."""
    if not tokens.precision or tokens.recall is None or tokens.true_share is None or tokens.true_share == 1:
        return None
    return tokens.recall * tokens.true_share * (1 / tokens.precision - 1) / (1 - tokens.true_share)


def mistakes_of(question: str, steps: Sequence[Step], mined: Sequence[bool]) -> Iterator[tuple[str, bool]]:
    """The kind of every wrong step of an answer but the last, and whether it was mined."""
    texts = tuple(step.text for step in steps)
    truths = tuple(step_truths(question, texts, "local"))
    response = Response(parse_question(question), texts, truths, truths)
    for place, (step, truth) in enumerate(zip(steps[:-1], truths[:-1], strict=True)):
        if not truth.is_correct:
            yield mistake_of(response, place, truth), any(mined[step.start : step.end])


def mistakes(run_dir: Path, round_: int) -> Iterator[tuple[str, bool]]:
    """Those of all wrong answers in a round's training data."""
    state = read_manifest(run_dir)

    def rows(table: str) -> list[Row]:
        return read_table(run_dir, state.receipts(round_, table))

    questions = {prompt.prompt_id: prompt.question for prompt in prompts_from(rows("prompts"))}
    steps = steps_from(rows("steps"))
    for row in weighted_from(rows("weighted")):
        if row.id in steps:  # right answers have none
            yield from mistakes_of(questions[row.id.prompt_id], steps[row.id], row.mined)


def main() -> None:
    """Count, and print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for round_ in range(1, arguments.rounds + 1):
        found = Counter(mistake for run in arguments.runs for mistake in mistakes(run, round_))
        kinds = sorted({kind for kind, _ in found}, key=lambda kind: -found[kind, False] - found[kind, True])
        num_mined = sum(count for (_, is_mined), count in found.items() if is_mined)
        print(f"round {round_}: {num_mined} of {found.total()} wrong steps mined; by kind, mined / all")
        print(
            "  "
            + ", ".join(f"{kind} {found[kind, True]} / {sum(found[kind, m] for m in (True, False))}" for kind in kinds)
        )
        reports = [read_manifest(run).reports[round_] for run in arguments.runs]
        shares = [
            wrong_mined(report.judges.quality["consensus"]["truth"].tokens) for report in reports if report.judges
        ]
        said = ("unknown" if share is None else f"{100 * share:.1f} %" for share in shares)
        print(f"  wrong tokens mined, by run: {', '.join(said)}")


if __name__ == "__main__":
    main()
