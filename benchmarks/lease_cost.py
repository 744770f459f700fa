"""What a lease costs beside its work: the real pools, data flow and manifest on real Ray actors.

A round's stages run over shards that take no time, first on members that have just started, then again on the same ones:

    empty     members answer with a receipt that nobody wrote: the driver, Ray and the manifest
    written   members read and write real, empty shards: what their files cost comes on top
    threads   `written` on threads of this process: the same without Ray

The listeners are those of a run (live status, metrics over Ray). Beside them in every repeat:

    bare      the floor: as many calls of as many plain Ray actors, as fast as Ray takes them
    real      a round whose shards take their fitted times (simulated_members.py), against the same round on a simulated clock,
              where the driver, Ray, the manifest and the files take no time

    python benchmarks/lease_cost.py [--members 20] [--shards 100] [--json FILE]
    python benchmarks/lease_cost.py --against CHECKOUT    # empty, written, threads in turns with another checkout's package
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, summarise
from simulated_members import SimulatedRuntime, SimulatedTime, host_empty, host_simulated, receipt_of

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec, Runtime
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.run.recovery.prompt_tables import write_prompt_shard
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.live_status import LiveStatus
from bcpg_cluster.watch.observer import Observers, SilentObserver

STAGES = data_stages({"llm": "judge.llm", "prm": "judge.prm"})
SHARES = {"rollout": 0.4, "judge.llm": 0.25, "judge.prm": 0.15, "cpu": 0.2}
MODES = ("bare", "empty", "written", "threads", "real")
REAL_SHARDS = 60


class TimedManifest(Manifest):
    """A manifest that knows how long its writes of receipts took, and how many there were."""

    write_s = 0.0
    num_writes = 0

    def accept_all(self, receipts: Sequence[Receipt]) -> list[bool]:
        """As it was."""
        begun = time.perf_counter()
        try:
            return super().accept_all(receipts)
        finally:
            self.write_s += time.perf_counter() - begun
            self.num_writes += bool(receipts)


class Others:
    """Processor time of the processes that members run in: all below this one that have our actors' names."""

    def __init__(self) -> None:
        import psutil

        self._members = [each for each in psutil.Process().children(recursive=True) if "ray::" in each.name()]

    def cpu_s(self) -> float:
        """So far."""
        return sum(sum(each.cpu_times()[:2]) for each in self._members)


def pools_of(
    runtime: Runtime, num_members: int, factory: Any, time_scale: float = 0.0, clock: Any = time.monotonic
) -> dict[str, Pool]:
    """Pools with members that are ready."""
    arguments: Mapping[str, Any] = {"policy_version": 0, "seed": 0, "time_scale": time_scale}

    def spec(name: str, member: int) -> MemberSpec:
        return MemberSpec(f"{name}/{member}", factory, arguments, work_threads=2)

    pools = {name: Pool(name, runtime, partial(spec, name), PoolLimits(), clock=clock) for name in SHARES}
    for name, pool in pools.items():
        pool.resize(max(round(num_members * SHARES[name]), 1))
    while any(len(pool.members()) < pool.size for pool in pools.values()):
        for pool in pools.values():
            pool.poll(assign=False)
        time.sleep(0.05)
    return pools


def one_round(
    manifest: TimedManifest, pools: Mapping[str, Pool], round_: int, num_shards: int, observer: Any, on_ray: bool
) -> dict[str, float]:
    """Milliseconds a lease of one round, and what they were spent on."""
    prompts = [write_prompt_shard(manifest.run_dir, "prompts", round_, shard, []) for shard in range(num_shards)]
    manifest.accept_all(prompts)
    manifest.write_s, manifest.num_writes = 0.0, 0
    others = Others() if on_ray else None
    before = others.cpu_s() if others else 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    Dataflow(manifest, pools, STAGES, round_, num_shards, {"policy_version": 0}, observer=observer).run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    num_leases = num_shards * len(STAGES)
    found = {
        "wall, ms": wall,
        "driver's CPU, ms": cpu,
        "waiting for the manifest's disk, ms": manifest.write_s,
    } | ({"members' CPU, ms": others.cpu_s() - before} if others else {})
    return {key: 1000 * value / num_leases for key, value in found.items()} | {
        "receipts a write to the manifest": num_leases / manifest.num_writes
    }


def measured(mode: str, num_members: int, num_shards: int) -> dict[str, float]:
    """A first round and a second one on the same members."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lease-")))
        runtime, listeners = InlineRuntime(), []
        if mode != "threads":
            runtime, listeners = ray_runtime(stack)
        stack.callback(runtime.shutdown)
        manifest = stack.enter_context(TimedManifest(folder))
        live = stack.enter_context(LiveStatus(folder))
        observer = Observers([SilentObserver(), live, *listeners])
        begun = time.perf_counter()
        pools = pools_of(runtime, num_members, host_empty if mode == "empty" else host_simulated)
        found = {"start of the members, s": time.perf_counter() - begun}
        for round_, name in ((1, "first"), (2, "second")):
            of_round = one_round(manifest, pools, round_, num_shards, observer, on_ray=mode != "threads")
            found |= {f"{name} round, {key}": value for key, value in of_round.items()}
        return found


def ray_runtime(stack: ExitStack) -> tuple[Any, list[Any]]:
    """A local Ray, and the listener of a run on it."""
    from bcpg_cluster.cluster.on_ray.metrics import RayMetrics
    from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
    from bcpg_cluster.watch.prometheus.catalog import METRICS
    from bcpg_cluster.watch.prometheus.run_metrics import RunMetrics

    runtime = RayRuntime(ClusterChoice("local", "asked for"), namespace="lease-cost", dashboard=False)
    sink = stack.enter_context(RayMetrics(METRICS, "lease-cost"))
    return runtime, [RunMetrics(sink, voters=["llm"], measures=["prm"])]


def real(num_members: int) -> dict[str, float]:
    """A round at its fitted times on Ray, and the same where nothing but they take time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lease-")))
        runtime, listeners = ray_runtime(stack)
        stack.callback(runtime.shutdown)
        manifest = stack.enter_context(TimedManifest(folder / "run"))
        live = stack.enter_context(LiveStatus(folder / "run"))
        pools = pools_of(runtime, num_members, host_simulated, time_scale=1.0)
        found = one_round(manifest, pools, 1, REAL_SHARDS, Observers([SilentObserver(), live, *listeners]), on_ray=True)
        round_s = found["wall, ms"] * REAL_SHARDS * len(STAGES) / 1000
        time_ = SimulatedTime()
        ideal = stack.enter_context(Manifest(folder / "simulated"))
        jobs = (StageJob("", "prompts", "prompts", 1, shard, f"{shard:08x}", {}) for shard in range(REAL_SHARDS))
        ideal.accept_all([receipt_of(job, 0.0) for job in jobs])
        simulated = pools_of(SimulatedRuntime(time_, 0), num_members, dict, clock=time_.clock)
        Dataflow(
            ideal, simulated, STAGES, 1, REAL_SHARDS, {"policy_version": 0},
            observer=SilentObserver(), clock=time_.clock, bell=time_,
        ).run()  # fmt: skip
    return {
        "round, s": round_s,
        "round where only the work takes time, s": time_.now,
        "what the rest adds, %": 100 * (round_s / time_.now - 1),
        "driver's CPU of the round, %": 100 * found["driver's CPU, ms"] / found["wall, ms"],
    }


def bare(num_members: int, num_calls: int) -> dict[str, float]:
    """As many calls of plain actors that take a job and give a receipt, two at a time on each."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Plain:
        def run(self, job: StageJob) -> Receipt:
            return receipt_of(job, 0.0)

    inputs = {table: receipt_of(StageJob("", "segment", table, 1, 0, "0" * 8, {}), 0.0) for table in ("a", "b")}
    job = StageJob("", "segment", "steps", 1, 0, "0" * 8, inputs, {"policy_version": 0})
    actors = [ray.remote(Plain).options(num_cpus=0).remote() for _ in range(num_members)]
    ray.get([actor.run.remote(job) for actor in actors])
    wall, cpu = time.perf_counter(), time.process_time()
    under_way = {actor.run.remote(job): actor for actor in actors for _ in range(2)}
    num_begun = len(under_way)
    while under_way:
        done, _ = ray.wait(list(under_way), num_returns=1)
        ray.get(done)
        actor = under_way.pop(done[0])
        if num_begun < num_calls:
            under_way[actor.run.remote(job)] = actor
            num_begun += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ray.shutdown()
    return {"wall, ms": 1000 * wall / num_begun, "driver's CPU, ms": 1000 * cpu / num_begun}


def in_a_process(checkout: Path, call: str) -> dict[str, float]:
    """What a function of this file gives with the package of ``checkout``, in an interpreter of its own."""
    # -P: the present directory would come before the checkout's package.
    code = f"import json, lease_cost as l; print('\\n' + json.dumps(l.{call}))"
    path = os.pathsep.join([str(checkout), str(checkout / "cli"), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": path, "RAY_worker_niceness": "0"}
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--shards", type=int, default=100, help=f"each is {len(STAGES)} leases (default: %(default)s)")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout's package too")
    options = parser.parse_args()
    started, here = facts(), Path(__file__).resolve().parent.parent
    sides = {"": here} | ({"other, ": options.against.resolve()} if options.against else {})
    found: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        calls = {mode: f"measured({mode!r}, {options.members}, {options.shards})" for mode in options.mode}
        others = {
            "bare": f"bare({options.members}, {options.shards * len(STAGES)})",
            "real": f"real({options.members})",
        }
        for name, call in {**calls, **{mode: others[mode] for mode in options.mode if mode in others}}.items():
            for side in sorted(sides, reverse=bool(repeat % 2)) if name not in others else [""]:
                for key, value in in_a_process(sides[side], call).items():
                    found.setdefault(f"{side}{name}: {key}", []).append(value)
    settings = {
        "members": options.members,
        "leases a round": options.shards * len(STAGES),
        "milliseconds are": "a lease",
        "processors": len(os.sched_getaffinity(0)),
    }
    rows = {key: summarise(values) for key, values in sorted(found.items())}
    for side in sides if {"written", "threads"} <= set(options.mode) else ():
        for name in ("first", "second"):
            on_ray, twin = (found[f"{side}{mode}: {name} round, wall, ms"] for mode in ("written", "threads"))
            added = [a - b for a, b in zip(on_ray, twin, strict=True)]
            rows[f"{side}{name} round, on Ray beyond threads, wall, ms"] = summarise(added)
    finish("what a lease costs", rows, settings=settings, json_file=options.json, started=started)


if __name__ == "__main__":
    main()
