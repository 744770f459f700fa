"""What the driver can drive: the real coordinator, pools and store with members that only answer, sleep and write.

Five questions, each a part:

    driver   the whole coordinator over 10 million samples' worth of receipts (512 a shard, four rounds, 1,000 members that
             answer at once): receipts/s, memory by round, manifest, seconds to resume
    turns    the same data flow when receipts come one at a time, as they do when members work: CPU seconds a receipt
    judges   wall time of a round as judges go from too few to too many, and the busy share of each pool, in simulated time
    inline   the whole coordinator with 1,000 members that are threads, sleep and write real shards
    ray      20 real Ray actors against as many threads: what Ray costs a lease

    python benchmarks/scale_simulation.py [--part driver judges ...] [--small] [--json FILE] [--figures DIR]
    python benchmarks/scale_simulation.py --against CHECKOUT    # driver and turns, in turns with another checkout's code
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, summarise
from simulated_members import (
    SAMPLES,
    Instant,
    SimulatedRuntime,
    SimulatedTime,
    Sleepers,
    bound_s,
    receipt_of,
)

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.layout import MANIFEST
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.watch.observer import Event, RoundFinished, SilentObserver

Summary = dict[str, Any]
PARTS = ("driver", "turns", "judges", "inline", "ray")
PROMPTS_PER_SHARD = 8  # times a group of 64 samples
STAGES = data_stages({"llm": "judge.llm", "prm": "judge.prm"})
POOL_STAGES = {
    "rollout": ("generate",),
    "judge.llm": ("judge.llm",),
    "judge.prm": ("judge.prm",),
    "cpu": ("verify", "segment", "weigh"),
}


def configuration(num_shards: int, members: Mapping[str, int]) -> Config:
    """A run of fakes with rounds of ``num_shards`` shards and pools of the given sizes."""
    content = {
        "name": "simulated",
        "policy": {"kind": "fake", "model": "fake"},
        "prompts": {"train": "given", "test": "given", "per_round": num_shards * PROMPTS_PER_SHARD},
        "generate": {
            "group_size": SAMPLES // PROMPTS_PER_SHARD,
            "max_tokens": 100,
            "prompts_per_shard": PROMPTS_PER_SHARD,
        },
        "judges": {name: {"kind": "fake", "pool": f"judge.{name}"} for name in ("llm", "prm")},
        "objective": {"tau": 0.1},
        "train": {"kind": "fake", "learning_rate": 1e-4},
        "evaluate": {"num_samples": 4, "prompts_per_shard": 16},
        "pools": {pool: {"members": number, "num_cpus": 0.0} for pool, number in members.items()},
    }
    if "pipeline" in Config.model_fields:  # an earlier version, given by --against, has one order alone
        content["pipeline"] = "serial"  # simulated trainers do nothing beside the pools
    return parse_config(content, "scale_simulation")


def prompt_sets(number: int) -> PromptSets:
    """Problems that nobody reads."""
    return PromptSets(
        [Prompt(f"a{k}", f"What is {k} and {k + 1}, modulo 100?", str(k % 100)) for k in range(number)],
        [Prompt(f"t{k}", f"What is {k} times 2?", str(k)) for k in range(64)],
    )


@contextmanager
def scratch(on_disk: bool = True) -> Iterator[Path]:
    """A directory for a run; in memory where only simulated time counts and there is such a place."""
    memory = Path("/dev/shm")
    place = None if on_disk or not os.access(memory, os.W_OK) else memory
    path = Path(tempfile.mkdtemp(prefix="scale-", dir=place))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def resident_mib() -> float:
    """Of this process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def staff(scale: int) -> dict[str, int]:
    """``scale`` members, dealt out about as the stages need them."""
    few = {"judge.llm": 0.22, "judge.prm": 0.08, "cpu": 0.05}
    sizes = {pool: max(round(scale * share), 1) for pool, share in few.items()}
    return {"rollout": max(scale - sum(sizes.values()), 1), **sizes}


class MemoryByRound:
    """Looks at the driver's memory when a round is reported."""

    def __init__(self) -> None:
        self.mib: list[float] = []

    def hear(self, event: Event) -> None:
        """Another round."""
        if isinstance(event, RoundFinished):
            self.mib.append(resident_mib())


# --- the parts: each gives what it measured, one number a name --------------------------------------------------------


def driver(num_shards: int, num_members: int, rounds: int) -> dict[str, float]:
    """The whole coordinator on members that answer at once; ``num_shards`` over all rounds."""
    per_round = num_shards // rounds
    config, sets = configuration(per_round, staff(num_members)), prompt_sets(per_round * PROMPTS_PER_SHARD)
    memory = MemoryByRound()
    with scratch() as run_dir:
        before = resident_mib()
        with open_run(run_dir, config) as manifest:
            coordinator = build_coordinator(config, manifest, Instant(), memory, lambda: False, sets)
            wall, cpu = time.perf_counter(), time.process_time()
            reports = coordinator.run(rounds)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            flow = sum(report.seconds.get("data", 0.0) for report in reports.values())
        size = (run_dir / MANIFEST).stat().st_size
        resumed, resumed_cpu = time.perf_counter(), time.process_time()
        state = read_manifest(run_dir)
        resumed, resumed_cpu = time.perf_counter() - resumed, time.process_time() - resumed_cpu
        receipts = sum(len(shards) for shards in state.shards.values())
        assert receipts > per_round * rounds * (len(STAGES) + 1)
        assert all(reports[r].samples.asked == per_round * SAMPLES for r in range(1, rounds + 1))
    return {
        "million samples": per_round * rounds * SAMPLES / 1e6,
        "receipts": receipts,
        "receipts/s, wall": receipts / wall,
        "receipts/s, CPU": receipts / cpu,
        "data half of the rounds, s": flow,
        "memory before, MiB": before,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory after the first round, MiB": memory.mib[1],
        "memory after the last round, MiB": memory.mib[-1],
        "memory growth after the first round, bytes a receipt": (memory.mib[-1] - memory.mib[1])
        * 2**20
        / max(receipts * (rounds - 1) / rounds, 1),
        "manifest, MiB": size / 2**20,
        "resume, s": resumed,
        "resume, CPU s": resumed_cpu,
    }


def simulated_round(
    num_shards: int, members: Mapping[str, int], seed: int, run_dir: Path
) -> tuple[float, dict[str, float], float]:
    """A round's data flow in simulated time: its wall seconds, each pool's busy share, and the CPU seconds it really took."""
    time_ = SimulatedTime()
    runtime = SimulatedRuntime(time_, seed)
    pools = {
        name: Pool(
            name, runtime, lambda k, name=name: MemberSpec(f"{name}/{k}", dict, {}), PoolLimits(), clock=time_.clock
        )
        for name in members
    }
    for name, pool in pools.items():
        pool.resize(members[name])
    with Manifest(run_dir) as manifest:
        for shard in range(num_shards):
            manifest.accept(receipt_of(StageJob("", "prompts", "prompts", 1, shard, f"{shard:08x}", {}), 0.0))
        cpu = time.process_time()
        flow = Dataflow(
            manifest, pools, STAGES, 1, num_shards, {"policy_version": 0},
            observer=SilentObserver(), clock=time_.clock, bell=time_,
        )  # fmt: skip
        flow.run()
        cpu = time.process_time() - cpu
    shares = {name: sum(runtime.worked_s(name)) / (members[name] * time_.now) for name in members}
    return time_.now, shares, cpu


def turns(num_shards: int, num_members: int, seed: int) -> dict[str, float]:
    """What a receipt costs when each comes alone."""
    with scratch(on_disk=False) as run_dir:
        _, _, cpu = simulated_round(num_shards, staff(num_members), seed, run_dir)
    return {"CPU ms a receipt, one at a time": 1000 * cpu / (num_shards * len(STAGES))}


def judges(num_shards: int, num_rollouts: int, sizes: list[int], seeds: range) -> dict[int, dict[str, Summary]]:
    """Wall time and busy shares by the number of LLM judges."""
    found: dict[int, dict[str, Summary]] = {}
    for size in sizes:
        members = {"rollout": num_rollouts, "judge.llm": size, "judge.prm": num_rollouts // 8, "cpu": num_rollouts // 8}
        rounds = []
        for seed in seeds:
            with scratch(on_disk=False) as run_dir:
                rounds.append(simulated_round(num_shards, members, seed, run_dir))
        found[size] = {
            "wall": summarise([wall for wall, _, _ in rounds]),
            "bound": summarise([bound_s(num_shards, members, POOL_STAGES)]),
        } | {pool: summarise([shares[pool] for _, shares, _ in rounds]) for pool in members}
    return found


def sleepers(runtime: Any, num_shards: int, members: Mapping[str, int], seed: int, scale: float) -> dict[str, float]:
    """The whole coordinator, one round, on members that sleep and write."""
    config, sets = configuration(num_shards, members), prompt_sets(num_shards * PROMPTS_PER_SHARD)
    staffed = Sleepers(runtime, seed=seed, time_scale=scale)
    with scratch() as run_dir, open_run(run_dir, config) as manifest:
        started = time.perf_counter()
        coordinator = build_coordinator(config, manifest, staffed, SilentObserver(), lambda: False, sets)
        reports = coordinator.run(0)
        begun, cpu = time.perf_counter(), time.process_time()
        coordinator.run(1)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        receipts = sum(len(shards) for (round_, _), shards in manifest.state.shards.items() if round_ == 1)
        faults, threads = len(manifest.state.faults), threading.active_count()
    assert reports and not faults, f"{faults} faults"
    bound = scale * bound_s(num_shards, members, POOL_STAGES)
    return {
        "start and evaluation of the base, s": begun - started,
        "round, s": wall,
        "round / its longest pool's work": wall / bound,
        "receipts/s": receipts / wall,
        "driver's CPU, s": cpu,
        "threads of the driver": threads,
    }


def run_ray(num_shards: int, members: Mapping[str, int], seed: int, scale: float) -> dict[str, float]:
    """The same on Ray actors of a local cluster."""
    from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime

    choice = ClusterChoice("local", "asked for")
    runtime = RayRuntime(choice, namespace="scale-simulation", dashboard=False)
    try:
        return sleepers(runtime, num_shards, members, seed, scale)
    finally:
        runtime.shutdown()


def run_inline(num_shards: int, members: Mapping[str, int], seed: int, scale: float) -> dict[str, float]:
    """The same on threads."""
    runtime = InlineRuntime()
    try:
        return sleepers(runtime, num_shards, members, seed, scale)
    finally:
        runtime.shutdown()


# --- running them -----------------------------------------------------------------------------------------------------


def in_process_of_its_own(checkout: Path, part: str, *arguments: object) -> dict[str, float]:
    """A part in a fresh interpreter with the package of ``checkout``: memory is its own, and old code can be asked too."""
    code = f"import json, scale_simulation as s; print(json.dumps(s.{part}(*{arguments!r})))"
    path = os.pathsep.join([str(checkout), str(checkout / "cli"), str(Path(__file__).parent)])
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def collected(prefix: str, measured: list[dict[str, float]]) -> dict[str, Summary]:
    """Repeats of a part, as rows of the table."""
    return {f"{prefix}: {key}": summarise([found[key] for found in measured]) for key in measured[0]}


def against(options: Namespace) -> dict[str, Summary]:
    """The driver's own limits with this code and another's, alternating; ratios are this code's over the other's."""
    rows: dict[str, Summary] = {}
    here = Path(__file__).resolve().parent.parent
    for num_shards in (1000, 2000, 4000):
        pairs = []
        for pair in range(options.repeats):
            order = [options.against, here] if pair % 2 else [here, options.against]
            found = {place: in_process_of_its_own(place, "driver", num_shards, 1000, 1) for place in order}
            pairs.append((found[here], found[options.against]))
        for key in ("receipts/s, wall", "receipts/s, CPU"):
            name = f"{num_shards} shards, {key}"
            rows[f"{name}: this"] = summarise([new[key] for new, _ in pairs])
            rows[f"{name}: other"] = summarise([old[key] for _, old in pairs])
            rows[f"{name}: ratio"] = summarise([new[key] / old[key] for new, old in pairs])
    return rows


def figure(found: Mapping[int, Mapping[str, Summary]], path: Path, title: str) -> None:
    """Wall time over the number of judges, and how busy the pools are."""
    from matplotlib.figure import Figure

    sizes = list(found)
    drawn = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    walls = [found[size]["wall"] for size in sizes]
    errors = [[w["median"] - w["min"] for w in walls], [w["max"] - w["median"] for w in walls]]
    left.errorbar(sizes, [w["median"] for w in walls], yerr=errors, marker="o", color="#0072B2", label="simulated")
    left.plot(sizes, [found[s]["bound"]["median"] for s in sizes], "--", color="#6b6b6b", label="longest pool's work")
    left.set(xscale="log", yscale="log", xlabel="LLM judges", ylabel="data half of a round, s")
    low, high = min(found[s]["bound"]["median"] for s in sizes), max(w["max"] for w in walls)
    ticks = [t for k in range(1, 6) for t in (10**k, 2 * 10**k, 5 * 10**k) if low / 2 < t < high * 2]
    left.set_yticks(ticks, [str(t) for t in ticks])
    left.set_ylim(low / 1.3, high * 1.3)
    for pool, colour, marker in (
        ("rollout", "#D55E00", "s"),
        ("judge.llm", "#0072B2", "o"),
        ("judge.prm", "#009E73", "^"),
    ):
        right.plot(sizes, [100 * found[s][pool]["median"] for s in sizes], marker=marker, color=colour, label=pool)
    right.set(xscale="log", xlabel="LLM judges", ylabel="busy share, %", ylim=(0, 102))
    for panel in (left, right):
        shown = [size for k, size in enumerate(sizes) if not k or size >= 1.3 * sizes[k - 1] or k == len(sizes) - 1]
        panel.set_xticks(shown, [str(size) for size in shown])
        panel.minorticks_off()
        panel.legend(frameon=False)
    drawn.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--small", action="store_true", help="all but ray, in seconds: to see that it works")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout's package")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw judges.png there")
    options = parser.parse_args()
    started, small = facts(), options.small
    repeats, here = (1 if small else options.repeats), Path(__file__).resolve().parent.parent
    rows: dict[str, Summary] = {}
    settings: dict[str, Any] = {"samples a shard": SAMPLES, "seed": options.seed, "repeats": repeats, "small": small}
    parts = [] if options.against else [part for part in options.part if not (small and part == "ray")]
    if options.against:
        rows = against(options)
    if "driver" in parts:
        size = (60, 100, 2) if small else (19_532, 1000, 4)
        runs = [in_process_of_its_own(here, "driver", *size) for _ in range(repeats)]
        rows |= collected("driver", runs)
        settings["driver"] = f"{size[0]} shards in {size[2]} rounds, {size[1]} members"
    if "turns" in parts:
        for members in (100,) if small else (10, 100, 1000):
            shards = 50 if small else 1000
            rows |= collected(
                f"turns, {members} members", [turns(shards, members, options.seed + k) for k in range(repeats)]
            )
    if "judges" in parts:
        shards, rollouts, sizes = (
            (40, 8, [1, 2, 8]) if small else (1024, 128, [4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128])
        )
        found = judges(shards, rollouts, sizes, range(options.seed, options.seed + repeats))
        for judges_, summaries in found.items():
            rows |= {f"{judges_} LLM judges: {key}": summary for key, summary in summaries.items()}
        settings["judges"] = f"{shards} shards, {rollouts} rollout members, {rollouts // 8} PRM, {rollouts // 8} cpu"
        if options.figures:
            figure(found, options.figures / "judges.png", f"Simulated: {settings['judges']} members")
    if "inline" in parts:
        shards, members, scale = (20, 40, 0.002) if small else (2000, 1000, 1.0)
        runs = [run_inline(shards, staff(members), options.seed + k, scale) for k in range(1 if small else repeats)]
        rows |= collected("inline", runs)
        settings["inline"] = f"{shards} shards, {members} members, latencies x {scale:g}"
    if "ray" in parts:
        shards, members, scale = 60, staff(20), 0.1
        pairs = [
            (run_ray(shards, members, options.seed + k, scale), run_inline(shards, members, options.seed + k, scale))
            for k in range(repeats)
        ]
        rows |= collected("ray", [on_ray for on_ray, _ in pairs]) | collected("ray's twin", [twin for _, twin in pairs])
        rows["ray / threads: round, s"] = summarise([a["round, s"] / b["round, s"] for a, b in pairs])
        settings["ray"] = f"{shards} shards, 20 members, latencies x {scale:g}"
    finish("what the driver can drive", rows, settings=settings, json_file=options.json, started=started)


if __name__ == "__main__":
    main()
