"""What a round costs as it grows: CPU seconds and peak memory of everything that needs no engine, with the exponents.

Five things grow, each alone: rows (shards of a round), the length of responses, the group size, judges, members; and beside them
the prompts that a start reads and checks. A part is measured over all sizes in processes of their own (so its peak memory is its
own), and the exponent is the slope of the logarithms: 1 is linear, 0 flat. Repeats are interleaved, and ± is their deviation.

    stages    verify, segment, weigh: a worker reads a shard, does its work and writes, shard after shard
    readers   disagreements, inspect, calibrate, exports: a finished round is read
    plan      the optimiser steps of the round are laid out
    driver    a receipt on its way through pools, data flow and manifest, with simulated members (``simulated_members.py``)
    prompts   a prompt file is read, checked against the test set, dealt; distinct expressions are checked by math-verify

    python benchmarks/growth.py [--axis rows judges ...] [--repeats 3] [--million] [--small] [--json FILE]
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from generated_round import RoundSize, config_of, job_of, make_run, stage_worker, state_of
from measure import argument_parser, facts, finish, summarise
from scale_simulation import scratch, simulated_round, staff

from bcpg_cluster.exchange.export_steps import export_steps
from bcpg_cluster.exchange.export_weights import WeightSettings, export_weights
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sets import PromptSets, check_sets, round_prompts, split_shards
from bcpg_cluster.stages.train.batching import RowSize, plan_training
from bcpg_cluster.stages.verify.math_answer import MathVerifier
from bcpg_cluster_cli.exchange.export import judge_set
from bcpg_cluster_cli.judging.calibrate import run_calibrate
from bcpg_cluster_cli.judging.disagreements import run_disagreements
from bcpg_cluster_cli.watching.inspect import run_inspect

_LEAST_MIB = 1.0  # a smaller peak is the allocator's, not the part's
_MILLISECOND = 1e-3  # likewise of CPU


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a part took."""

    cpu_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part finds what was made for one size.

    Attributes:
        directory: a run, or an empty directory.
        size: of its round.
        number: the size along the axis.
        seed: of what is drawn.
    """

    directory: Path
    size: RoundSize
    number: int
    seed: int


Part = Callable[[Place], float | None]
"""Does the work of one place; returns CPU seconds in it that are not to be counted."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that grows.

    Attributes:
        sizes: of it, smallest first.
        unit: what a size counts.
        parts: what is measured, by name.
        warm: a size of little work, which every process does before it is measured: libraries are loaded then.
        prepare: makes what the parts of one size read.
    """

    sizes: tuple[int, ...]
    unit: str
    parts: Mapping[str, Part]
    warm: int
    prepare: Part = lambda place: None
    size_of: Callable[[int], RoundSize] = lambda number: RoundSize()


# --- parts ------------------------------------------------------------------------------------------------------------


def write_round(place: Place) -> None:
    """The run that a part reads."""
    make_run(place.directory, place.size, place.seed)


def work_on(stage: str, place: Place) -> None:
    """All shards of the round through one stage."""
    state = state_of(place.directory)
    with stage_worker() as worker:
        for shard in range(place.size.shards):
            worker.run(job_of(place.directory, state, place.size, stage, shard, attempt=f"m{random.random():.9f}"))


def export(kind: str, place: Place) -> None:
    """The round as a data set."""
    out, judges = Path(tempfile.mkdtemp(dir=place.directory.parent)) / "out", judge_set(config_of(place.size))
    if kind == "steps":
        export_steps(place.directory, out, run_name="generated", judges=judges)
    else:
        export_weights(place.directory, out, "verl", WeightSettings("generated", 1.0, judges))
    shutil.rmtree(out.parent)


def quietly(command: Callable[[Path], object], place: Place) -> None:
    """A command without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        command(place.directory)


def lay_out_steps(place: Place) -> None:
    """The steps of a round with as many rows as the real one has samples, by two ranks."""
    draw = random.Random(place.seed)
    sizes = [RowSize((tokens,), tokens) for tokens in (draw.randrange(64, 2048) for _ in range(place.number * 64))]
    plan_training(sizes, epochs=1, rows_per_step=512, micro_batch_tokens=8192, world_size=2, seed=place.seed)


def lead_round(num_shards: int, num_members: int, place: Place) -> None:
    """The data flow of a round whose receipts come one at a time."""
    with scratch(on_disk=False) as run_dir:
        simulated_round(num_shards, staff(num_members), place.seed, run_dir)


def write_prompt_file(place: Place) -> None:
    """Problems of some 200 characters with distinct ids."""
    draw = random.Random(place.seed)
    for name, number in (("train", place.number), ("test", 100)):
        with (place.directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for k in range(number):
                question = f"{name} {k}: " + " ".join(str(draw.randrange(10**6)) for _ in range(28))
                file.write(json.dumps({"prompt_id": f"{name}-{k}", "question": question, "answer": str(k)}) + "\n")


def read_and_deal(place: Place) -> None:
    """As a start does, up to the shards of a round."""
    train, test = (read_prompts(str(place.directory / f"{name}.jsonl")) for name in ("train", "test"))
    check_sets(PromptSets(train, test))
    split_shards(round_prompts(train, 2, min(1000, len(train)), "shuffled", place.seed), 8)


def check_golds(place: Place) -> float:
    """Distinct expressions, by math-verify in its process, whose start is not counted."""
    verifier = MathVerifier()
    verifier.check_gold("x+1")
    (child,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    fields = Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    start_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for k in range(place.number):
        verifier.check_gold(f"{k + 2}\\sqrt{{{k % 89 + 2}}}+{place.seed}")
    verifier.close()
    return start_s


def axes(options: Namespace) -> dict[str, Axis]:
    """All of them; ``--small`` takes the first two sizes of each."""
    stages: dict[str, Part] = {stage: partial(work_on, stage) for stage in ("verify", "segment", "weigh")}
    readers: dict[str, Part] = {
        "disagreements": partial(quietly, lambda run: run_disagreements(run, 1, 3, None, as_json=False)),
        "inspect": partial(quietly, lambda run: run_inspect(run, 1, None, None, 3)),
        "calibrate": partial(quietly, lambda run: run_calibrate(run, "j1", measure="truth", as_json=True)),
        "export steps": partial(export, "steps"),
        "export weights": partial(export, "weights"),
    }
    driver: dict[str, Part] = {"driver": lambda place: lead_round(place.number, 20, place)}
    million = (1_000_000,) if options.million else ()
    return {
        "rows": Axis(
            (4, 8, 16, 32), "shards of 64 responses", {**stages, **readers, "plan": lay_out_steps}, 1, write_round,
            lambda number: RoundSize(shards=number),
        ),
        "length": Axis(
            (512, 2048, 8192, 32_768), "tokens of a response", stages, 64, write_round,
            lambda number: RoundSize(prompts=1, group_size=8, tokens=number),
        ),
        "group size": Axis(
            (8, 16, 32, 64), "responses to a prompt", stages, 4, write_round, lambda number: RoundSize(group_size=number)
        ),
        "judges": Axis(
            (2, 4, 8, 16), "judges", {"weigh": stages["weigh"], **readers}, 2, write_round,
            lambda number: RoundSize(judges=number, prompts=8),
        ),
        "receipts": Axis((250, 500, 1000, 2000), "shards through six stages, 20 members", driver, 5),
        "members": Axis(
            (10, 100, 1000), "members, 500 shards", {"driver": lambda place: lead_round(500, place.number, place)}, 2
        ),
        "prompts": Axis(
            (10_000, 30_000, 100_000, *million), "prompts", {"read, check, deal": read_and_deal}, 100, write_prompt_file
        ),
        "golds": Axis((250, 500, 1000), "distinct expressions", {"check": check_golds}, 1),
    }  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------------------------


def in_child(part: Part, place: Place, warm: Place | None = None) -> Cost:
    """A part in a process of its own, forked off this one, which has imported everything and has no threads."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(part, place, warm, theirs))
    child.start()
    theirs.close()
    try:
        cost: Cost = ours.recv()
    except EOFError:
        raise SystemExit(f"{part} failed on {place}") from None
    finally:
        child.join()
    return cost


def _measure(part: Part, place: Place, warm: Place | None, answer: Any) -> None:
    if warm is not None:
        part(warm)
    gc.collect()
    gc.freeze()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, started = _status_mib("VmRSS"), _cpu_s()
    not_counted = part(place) or 0.0
    answer.send(Cost(_cpu_s() - started - not_counted, max(_status_mib("VmHWM") - before, 0.0)))
    answer.close()


def _cpu_s() -> float:
    """Of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def measure_axis(axis: Axis, seed: int, repeats: int) -> dict[str, list[list[Cost]]]:
    """By part: a list a repeat of the costs at each size."""
    with places_of(axis, seed) as (warm, *places):
        found: dict[str, list[list[Cost]]] = {name: [] for name in axis.parts}
        for _ in range(repeats):
            for name, part in axis.parts.items():
                found[name].append([in_child(part, place, warm) for place in places])
    return found


@contextlib.contextmanager
def places_of(axis: Axis, seed: int) -> Iterator[list[Place]]:
    """The warm one and one for each size, with what its parts read."""
    root = Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        places: list[Place] = []
        for number in (axis.warm, *axis.sizes):
            place = Place(root / f"{len(places)}", axis.size_of(number), number, seed)
            place.directory.mkdir()
            in_child(axis.prepare, place)
            places.append(place)
        yield places
    finally:
        shutil.rmtree(root, ignore_errors=True)


def exponent(sizes: Sequence[int], costs: Sequence[float], least: float) -> float:
    """The slope of the logarithms, by least squares; what is below ``least`` counts as that."""
    slope, _ = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(max(cost, least)) for cost in costs]
    )
    return slope


# --- results ----------------------------------------------------------------------------------------------------------


def rows_of(name: str, axis: Axis, found: Mapping[str, Sequence[Sequence[Cost]]]) -> dict[str, dict[str, Any]]:
    """Summaries over the repeats."""
    rows = {}
    for part, repeats in found.items():
        cpu = [[cost.cpu_s for cost in of_repeat] for of_repeat in repeats]
        mib = [[cost.peak_mib for cost in of_repeat] for of_repeat in repeats]
        title = f"{name}, {part}"
        rows[f"{title}: CPU s at {axis.sizes[-1]}"] = summarise([costs[-1] for costs in cpu])
        rows[f"{title}: CPU exponent"] = summarise([exponent(axis.sizes, costs, _MILLISECOND) for costs in cpu])
        rows[f"{title}: peak MiB at {axis.sizes[-1]}"] = summarise([costs[-1] for costs in mib])
        rows[f"{title}: memory exponent"] = summarise([exponent(axis.sizes, costs, _LEAST_MIB) for costs in mib])
    return rows


def as_table(name: str, axis: Axis, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table."""

    def shown(title: str, digits: int) -> str:
        row = rows[title]
        return f"{row['median']:.{digits}f}" + (f" ± {row['stdev']:.{digits}f}" if row["stdev"] is not None else "")

    sizes = f"{axis.sizes[0]:,} to {axis.sizes[-1]:,} {axis.unit}"
    return [
        f"| {name}: {sizes} | {part} | {shown(f'{name}, {part}: CPU s at {axis.sizes[-1]}', 2)} | "
        f"{shown(f'{name}, {part}: CPU exponent', 2)} | {shown(f'{name}, {part}: peak MiB at {axis.sizes[-1]}', 0)} | "
        f"{shown(f'{name}, {part}: memory exponent', 2)} |"
        for part in axis.parts
    ]


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--axis", nargs="+", metavar="NAME", help="what grows (default: all)")
    parser.add_argument("--million", action="store_true", help="also a million prompts (0.7 GiB, half a minute)")
    parser.add_argument("--small", action="store_true", help="two sizes of each, once: to see that it works")
    options = parser.parse_args()
    started, known = facts(), axes(options)
    unknown = set(options.axis or ()) - set(known)
    if unknown:
        parser.error(f"--axis {', '.join(sorted(unknown))}: known are {', '.join(known)}")
    rows: dict[str, dict[str, Any]] = {}
    table = [
        "| what grows | part | CPU s at the largest | exponent | peak MiB at the largest | exponent |",
        "|" + "---|" * 6,
    ]
    for name in options.axis or known:
        axis = replace(known[name], sizes=known[name].sizes[:2]) if options.small else known[name]
        begun = time.monotonic()
        of_axis = rows_of(name, axis, measure_axis(axis, options.seed, 1 if options.small else options.repeats))
        rows |= of_axis
        table += as_table(name, axis, of_axis)
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    settings = {
        "seed": options.seed,
        "repeats": options.repeats,
        "small": options.small,
        "a round": asdict(RoundSize()),
    }
    finish("what a round costs as it grows", rows, settings=settings, json_file=options.json, started=started)
    print("\n".join(table))


if __name__ == "__main__":
    main()
