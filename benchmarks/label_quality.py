"""How good must step labels be? Accuracy after one round on the embedded sums, by the quality of the judges that label it.

    python benchmarks/label_quality.py --out runs/label-quality                       # everything, hours on one core
    python benchmarks/label_quality.py --out runs/label-quality --limit-minutes 40    # a piece of it; run it again for the next
    python benchmarks/label_quality.py --out runs/label-quality --blocks errors       # one question alone
    python benchmarks/label_quality.py --out runs/label-quality --labels-only         # a minute: the labels, and no training
    python benchmarks/label_quality.py --out runs/small --small                       # a check that it all runs

Judges are oracles: the truth, wrong at rates that give the precision and recall asked for ("this step is right"). A seed's arms
share its offline set, reference log-probs, training order and the random numbers of its test; they differ in labels and beta alone.
``<out>/arms.jsonl`` gets a line as each arm is done, and what it has is not done again: block by block, and seed by seed within a
block, so that what is there at any time compares. ``<out>/label-quality.md`` and its picture are written at the end of each piece.
One process, one thread. ``--labels-only`` writes ``<out>/labels.md`` alone: what the labels of all arms are, and what they mine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from label_arms import BETAS, BLOCKS, START, Done, Journal, Labels, Size
from label_pages import write_labels_page, write_pages
from label_round import SharedRound, draw_offline_set, labelled_rows, make_round, run_arm
from measure import facts

from bcpg_cluster.errors import ConfigError

SMALL = Size(prompts=6, samples=4, epochs=1, batch_sequences=8, test_problems=8, test_samples=1)


def missing(blocks: list[str], seeds: range, journal: Journal) -> Iterator[tuple[int, Labels]]:
    """Arms still to be run, in order."""
    for block in blocks:
        for seed in seeds:
            for labels in BLOCKS[block]:
                if (labels.name, seed) not in journal.done:
                    yield seed, labels


def work(size: Size, blocks: list[str], seeds: range, journal: Journal, until: float) -> int:
    """Run what is missing, beginning nothing after ``until`` (monotonic seconds); returns how many arms are left."""
    left = list(missing(blocks, seeds, journal))
    shared: SharedRound | None = None
    while left and time.monotonic() < until:
        seed, labels = left.pop(0)
        if shared is None or shared.offline.seed != seed:
            shared = make_round(size, seed)
            if (START, seed) not in journal.done:
                journal.add(Done(START, seed, shared.start))
        achieved, accuracy, cpu_s = run_arm(shared, labels, size)
        journal.add(Done(labels.name, seed, accuracy, labels, achieved, cpu_s))
    return len(left)


def label_only(size: Size, blocks: list[str], seeds: range) -> list[Done]:
    """The labels of all arms, which are the same at every beta."""
    found = []
    for seed in seeds:
        offline = draw_offline_set(size, seed)
        for labels in dict.fromkeys(replace(arm, beta=BETAS[0]) for block in blocks for arm in BLOCKS[block]):
            _, achieved = labelled_rows(offline, labels, size.step_rule)
            found.append(Done(labels.name, seed, None, labels, achieved))
    return found


def main() -> None:
    """Run the blocks."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/label-quality"))
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--step-rule", choices=("propagated", "local"), default="propagated")
    parser.add_argument("--limit-minutes", type=float, default=120.0, help="begin no arm later (default: %(default)s)")
    parser.add_argument("--labels-only", action="store_true", help="train nothing")
    parser.add_argument("--small", action="store_true", help="6 prompts, 8 problems: a check that it runs")
    for name in ("prompts", "epochs", "test-problems", "test-samples"):
        parser.add_argument(f"--{name}", type=int, help="instead of the published size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = chosen_size(arguments)
    if arguments.labels_only:
        write_labels_page(label_only(size, arguments.blocks, range(arguments.seeds)), arguments.out)
        return
    journal = Journal(arguments.out / "arms.jsonl", {"size": asdict(size)})
    journal.note(machine=facts())
    until = time.monotonic() + 60 * arguments.limit_minutes
    left = work(size, arguments.blocks, range(arguments.seeds), journal, until)
    write_pages(list(journal.done.values()), arguments.out)
    print(f"{len(journal.done)} results in {journal.path}, {left} arms left; tables in {arguments.out}")


def chosen_size(arguments: argparse.Namespace) -> Size:
    """The published size, or what of it was asked for otherwise."""
    base = asdict(SMALL if arguments.small else Size())
    given = {name: value for name in base if (value := getattr(arguments, name, None)) is not None}
    size = Size(**{**base, **given})
    if min(size.prompts, size.epochs, size.test_problems, size.test_samples) < 1:
        raise ConfigError(f"{size}", rule="sizes are at least 1", remedy="give larger numbers")
    return size


if __name__ == "__main__":
    main()
