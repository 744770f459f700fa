"""The paper's comparisons in miniature, on the embedded task: who wins, with which labels, beta, rounds, data and judges.

    python benchmarks/paper_tables.py --seeds 5 --out runs/paper                          # everything, some hours
    python benchmarks/paper_tables.py --seeds 5 --out runs/paper --budget-minutes 110     # a piece of it; run it again for the next
    python benchmarks/paper_tables.py --task chain --set-of-arms main --out runs/paper    # the old task, as a second table
    python benchmarks/paper_tables.py --small --seeds 1 --out runs/paper-small            # a check that it all runs

What is done is not done again, so it can be stopped at any time. ``<out>/<task>.json`` has the raw numbers, a run and round a line,
small enough to commit: another machine that is given the file adds to it. Every set writes ``<out>/<task>/<set>.md`` and
pictures; ``claims.md`` says what became of the paper's claims, losses included.

All sets share a seed's offline set, the start, the test sets and what was tuned: learning rate and epochs of each method,
chosen on a validation split with data of another seed. Ablations of BCPG-NSA train as chosen for it. The sets of arms are in
``paper_arms.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pkgutil
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import facts
from paper_arms import ALL, DEFAULT, FEW, NSA, SETS, Points, Titled, method_arm, with_spares
from paper_pages import write_claims, write_set
from paper_store import Numbers
from rich.console import Console

from bcpg_cluster.comparison.runner import Comparison
from bcpg_cluster.comparison.setup import Arm, Setup
from bcpg_cluster.errors import Interrupted
from bcpg_cluster.prompts.files import write_prompts
from bcpg_cluster.records import Prompt
from bcpg_cluster_cli.runs.compare import make_setup, open_comparison

SMALL = ("prompts.per_round=32", "generate.prompts_per_shard=16", "evaluate.num_prompts=20", "evaluate.num_samples=2")
MOST_SHARES = 8  # the offline set has at least as many shards, so that an eighth of it is a share


@dataclass(frozen=True)
class Task:
    """Where problems come from.

    Attributes:
        config: the configuration of the task's models and judges.
        draw: ``module:function`` of (random, fewest, most operations), with ``question`` and ``answer``.
        lengths: fewest and most operations in training and test; ``longer`` ones are measured only.
    """

    config: str
    draw: str
    lengths: tuple[int, int]
    longer: tuple[int, int]


TASKS = {
    "sums": Task("laptop", "bcpg_cluster.assets.sums.task:draw_sum", (5, 7), (8, 8)),
    "chain": Task("ablations/chain", "bcpg_cluster.assets.chain.task:draw_chain", (4, 5), (6, 6)),
}


def draw_problems(task: Task, folder: Path, *, small: bool) -> dict[str, Path]:
    """Fresh problems, all different: to train and test on, and longer ones to see what carries over."""
    rng, taken, files = random.Random(20), set(), {}
    draw = pkgutil.resolve_name(task.draw)
    num_longer, num_test, num_train = (20, 40, 256) if small else (200, 400, 4096)
    for name, number, lengths in (
        ("test", num_test, task.lengths),
        ("longer", num_longer, task.longer),
        ("train", num_train, task.lengths),
    ):
        prompts: list[Prompt] = []
        while len(prompts) < number:
            drawn = draw(rng, *lengths)
            if drawn.question not in taken:
                taken.add(drawn.question)
                prompts.append(Prompt(f"{name}-{len(prompts):05d}", drawn.question, drawn.answer))
        files[name] = write_prompts(folder / f"{name}.jsonl", prompts)
    return files


def setup_of(task: Task, files: dict[str, Path], arguments: argparse.Namespace) -> Setup:
    """The task's configuration on these problems, with the further judges."""
    source = arguments.config or task.config
    settings = [f"prompts.train={files['train']}", f"prompts.test={files['test']}"]
    settings += [f"prompts.more_tests={{longer: {files['longer']}}}"]
    settings += SMALL if arguments.small else ()
    first = make_setup(source, settings, "1e-4", "1", 0, 1, None).config
    per_shard = min(first.generate.prompts_per_shard, math.ceil(first.prompts.per_round / MOST_SHARES))
    settings += [f"generate.prompts_per_shard={per_shard}", *with_spares(first), *arguments.set]
    rates = f"{first.train.learning_rate!r}" if arguments.small else arguments.learning_rates
    epochs = "1" if arguments.small else arguments.epochs
    return make_setup(source, settings, rates, epochs, 20 if arguments.small else 200, arguments.seeds, 1000)


def made_with(setup: Setup, files: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """What numbers must share to stand in one table; nothing of it depends on where files lie."""
    content = setup.config.model_dump(mode="json", exclude={"prompts": {"train", "test", "more_tests"}})
    for never in ("pools", "tracking", "storage", "autoscaling", "placement"):
        content.pop(never, None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for path in files.values():
        digest.update(path.read_bytes())
    return {
        "task": arguments.task,
        "config": setup.config.name,
        "digest": digest.hexdigest()[:16],
        "learning_rates": sorted(setup.learning_rates),
        "epochs": sorted(setup.epochs),
        "validation_prompts": setup.validation_prompts,
        "tuning_seed": setup.tuning_seed,
        "prompts_per_round": setup.config.prompts.per_round,
        "group_size": setup.config.generate.group_size,
    }


def tune(comparison: Comparison, setup: Setup, names: Sequence[str], numbers: Numbers) -> None:
    """Have what was chosen for the methods; it is chosen once for all sets."""
    for method, tuned in numbers.tuned().items():
        comparison.take(method, tuned)
    for name in names:
        if name in numbers.chosen:
            continue
        tuned = comparison.tune(method_arm(setup.config, name)[0])[name]
        said = numbers.path.parent / numbers.made_with["task"] / "comparison" / "tuning" / name / "chosen.json"
        validation = json.loads(said.read_text())["validation"] if said.exists() else []
        numbers.chosen[name] = {
            "learning_rate": tuned.learning_rate,
            "epochs": tuned.epochs,
            "validation": validation,
        }
        numbers.write()


def missing(sets: dict[str, list[Titled]], seeds: Sequence[int], numbers: Numbers) -> Iterator[tuple[Arm, int]]:
    """The runs that are still to be made, set by set; an arm of several sets once, with the most rounds that one asks for."""
    longest: dict[str, Arm] = {}
    for arms in sets.values():
        for arm, _ in arms:
            if arm.name not in longest or arm.rounds > longest[arm.name].rounds:
                longest[arm.name] = arm
    given = set()
    for arms in sets.values():
        for seed in seeds:
            for arm, _ in arms:
                arm = longest[arm.name]
                if (arm.name, seed) not in given and not numbers.has(arm.name, seed, arm.rounds):
                    given.add((arm.name, seed))
                    yield arm, seed


def make(arguments: argparse.Namespace, out: Path, console: Console) -> None:
    """Tune, train and measure what is missing, and write the pages, however far it came."""
    task, at = TASKS[arguments.task], FEW if arguments.small else ALL
    pages, seeds = out / arguments.task, range(arguments.seeds)
    pages.mkdir(parents=True, exist_ok=True)
    files = draw_problems(task, pages / "prompts", small=arguments.small)
    setup = setup_of(task, files, arguments)
    numbers = Numbers.open(out / f"{arguments.task}.json", made_with(setup, files, arguments), facts())
    names = list(dict.fromkeys(name for s in arguments.set_of_arms for name in SETS[s].tuned(at)))
    ended = "everything is done"
    try:
        if is_unfinished(setup, arguments, at, numbers, names):
            work(setup, arguments, at, numbers, names, console)
    except Interrupted as stop:
        ended = f"{stop}; run the same command again for the rest"
    sets = arms_of(setup, arguments, at, numbers)
    for name, arms in sets.items():
        write_set(name, arms, numbers, seeds, at, pages)
    write_claims(setup.config, numbers, seeds, at, pages)
    left = sum(1 for _ in missing(sets, seeds, numbers))
    text = f"{ended}: {len(numbers.runs)} results in {numbers.path}, {left} runs left; tables in {pages}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def is_unfinished(
    setup: Setup, arguments: argparse.Namespace, at: Points, numbers: Numbers, names: Sequence[str]
) -> bool:
    """Whether there is anything to tune, to train or to measure."""
    if any(name not in numbers.chosen for name in names):
        return True
    seeds = range(arguments.seeds)
    sets = arms_of(setup, arguments, at, numbers)
    return any(True for _ in missing(sets, seeds, numbers)) or not all(numbers.has("start", s, 0) for s in seeds)


def work(
    setup: Setup, arguments: argparse.Namespace, at: Points, numbers: Numbers, names: Sequence[str], console: Console
) -> None:
    """Do what is missing. Raises :class:`Interrupted` at the end of the time given, or when a stop is asked for."""
    until, seeds = time.monotonic() + 60 * arguments.budget_minutes, range(arguments.seeds)
    with open_comparison(
        numbers.path.parent / arguments.task / "comparison",
        setup,
        None if arguments.inline else "local",
        console,
        inline=arguments.inline,
        one_at_a_time=arguments.one_at_a_time,
        may_begin=lambda: time.monotonic() < until,
    ) as comparison:
        tune(comparison, setup, [NSA, *(name for name in names if name != NSA)], numbers)
        for seed in seeds:
            if not numbers.has("start", seed, 0):
                numbers.add([comparison.start(seed)])
        for results in comparison.runs(missing(arms_of(setup, arguments, at, numbers), seeds, numbers)):
            numbers.add(results)


def arms_of(setup: Setup, arguments: argparse.Namespace, at: Points, numbers: Numbers) -> dict[str, list[Titled]]:
    """The arms of the sets asked for; some depend on what was chosen."""
    return {name: SETS[name].arms(setup.config, at, numbers.tuned()) for name in arguments.set_of_arms}


def main() -> None:
    """Run the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="sums")
    parser.add_argument("--set-of-arms", nargs="+", choices=list(SETS), default=list(DEFAULT))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", default="1e-4,3e-4,1e-3")
    parser.add_argument("--epochs", default="1,2,5")
    parser.add_argument("--budget-minutes", type=float, default=120.0, help="begin no run later (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--config", help="instead of the task's own configuration")
    parser.add_argument("--set", action="append", default=[], help="override one key of it: section.key=value")
    parser.add_argument("--small", action="store_true", help="32 prompts, 20 problems, nothing tuned, few points")
    parser.add_argument("--one-at-a-time", action="store_true", help="do not interleave")
    parser.add_argument("--inline", action="store_true", help="in this process without Ray (for fakes)")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    make(arguments, out, Console())


if __name__ == "__main__":
    main()
