"""How much shorter the data half of a round is when the longest shards go first and engines are kept full.

The real pools, data flow and manifest, on members with engines of continuous batching and a simulated clock
(``simulated_engines.py``): nothing here ran on a GPU. The lengths of responses are

    recorded    those of three rounds of configs/laptop.yaml (384 prompts, 8 samples each): narrow, 85 +- 23 tokens
    heavy       as in long reasoning: log-normal, median 4,000 tokens, deviation of the logarithm 0.9, 65 % of its variance between
                prompts (the recorded ones have that share), cut at 32,768

and the arms, each on the same responses:

    today       shards in the order they come, two a rollout member; judges hold as many as keep their engines full
    full        rollout members hold as many as keep theirs full too; downstream of them longest first
    known       the same, and prompts that were answered before by the lengths of then (other draws of the same prompts)
    late        `known`, but the last pieces of a queue, one a member, only for members that are idle
    spare       `known`, and idle judges take a second copy of the oldest shard under way; the first to finish counts

    python benchmarks/longest_first.py [--json FILE] [--shards 256] [--members 64] [--slow-judge 1]
"""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from measure import argument_parser, facts, finish, ratios, summarise
from simulated_engines import EngineMember, EngineRuntime
from simulated_members import SimulatedTime, receipt_of

from bcpg_cluster.cluster.leases import Done, InFlight, PoolLimits, Slot, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.stages.graph import data_stages
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.watch.observer import SilentObserver

STAGES = data_stages({"llm": "judge.llm", "prm": "judge.prm"})
ARMS = ("today", "full", "known", "late", "spare")
JUDGED_SHARE = {"judge.llm": 0.5, "judge.prm": 0.1}  # engine steps a response token; the PRM's mostly read
MEDIAN, SIGMA, BETWEEN, LONGEST = 4000, 0.9, 0.65, 32_768
RECORDED = Path(__file__).with_name("recorded_lengths.json")
Lengths = list[list[int]]  # by prompt


@dataclass(frozen=True)
class Round:
    """The responses of a round, by shard and prompt, and those that the same prompts had before."""

    now: list[Lengths]
    before: list[Lengths]
    wrong: list[list[int]]  # by shard: the lengths of what judges are asked about


@dataclass(frozen=True)
class Size:
    """How large a round and its pools are."""

    num_shards: int
    prompts_a_shard: int
    group: int
    slots: int
    members: dict[str, int]
    slow_judge: float = 1.0


def heavy(rng: random.Random, group: int) -> list[int]:
    """Responses to one prompt."""
    mean = math.log(MEDIAN) + SIGMA * math.sqrt(BETWEEN) * rng.gauss(0.0, 1.0)
    drawn = (math.exp(mean + SIGMA * math.sqrt(1 - BETWEEN) * rng.gauss(0.0, 1.0)) for _ in range(group))
    return [min(max(int(length), 16), LONGEST) for length in drawn]


def drawn_round(kind: str, size: Size, seed: int) -> Round:
    """A round's responses. Recorded ones are split, so that none is both what was known and what comes."""
    rng = random.Random(f"{kind}/{seed}")
    recorded = json.loads(RECORDED.read_text())["lengths"] if kind == "recorded" else []

    def prompt() -> tuple[list[int], list[int]]:
        if not recorded:
            both = heavy(rng, 2 * size.group)
            return both[: size.group], both[size.group :]
        found = rng.sample(rng.choice(recorded), 8)
        return rng.choices(found[:4], k=size.group), found[4:]

    shards = [[prompt() for _ in range(size.prompts_a_shard)] for _ in range(size.num_shards)]
    now = [[drawn for drawn, _ in shard] for shard in shards]
    wrong = [[length for group in shard for length in group if rng.random() < 0.5] or [16] for shard in now]
    return Round(now, [[known for _, known in shard] for shard in shards], wrong)


class InOrder(Pool):
    """A pool that hands out work as it comes."""

    def submit(self, work: Work) -> None:
        """Without its size."""
        super().submit(replace(work, size=0.0))


class LateBinding(Pool):
    """A pool that leaves the last pieces of its queue, one a member, to members that are idle."""

    def poll(self, *, assign: bool = True) -> list[Done]:
        """As the pool, with one lease a member once the queue is short."""
        most = self._lease_count
        if self.num_queued <= self.size:
            self._lease_count = type(most)(1, None)
        try:
            return super().poll(assign=assign)
        finally:
            self._lease_count = most


class Spares(Pool):
    """A pool whose idle members take a second copy of the oldest lease under way, once nothing waits."""

    def poll(self, *, assign: bool = True) -> list[Done]:
        """As the pool; a copy that comes second is refused by the manifest."""
        done = super().poll(assign=assign)
        if assign and not self.num_queued:
            for slot in [slot for slot in self._slots if not slot.leases]:
                self._copy_oldest(slot)
        return done

    def _copy_oldest(self, idle: Slot) -> None:
        leases = [lease for slot in self._slots for lease in slot.leases if not lease.answer.done()]
        single = [each for each in leases if sum(other.work is each.work for other in leases) == 1]
        if single:
            oldest = min(single, key=lambda lease: lease.began)
            self._lease(idle, oldest.work, oldest.attempt)


def pool_class(arm: str, name: str) -> type[Pool]:
    """The pool of an arm."""
    is_judge = name.startswith("judge.")
    return {"today": InOrder, "late": LateBinding, "spare": Spares if is_judge else Pool}.get(arm, Pool)


def data_half(arm: str, round_: Round, size: Size, seed: int) -> tuple[float, float]:
    """Simulated seconds of the data half of a round, and the share of it in which rollout engines had work."""
    time_ = SimulatedTime()

    def lengths(job: StageJob) -> Sequence[int]:
        if job.stage == "generate":
            return [length for group in round_.now[job.shard] for length in group]
        return [max(int(JUDGED_SHARE[job.stage] * length), 1) for length in round_.wrong[job.shard]]

    def tokens(job: StageJob) -> int:
        is_all = job.output in ("rollouts", "outcomes")
        return sum(map(sum, round_.now[job.shard])) if is_all else sum(round_.wrong[job.shard])

    def member(spec: MemberSpec) -> EngineMember:
        speed = size.slow_judge if spec.name == "judge.llm/0" else 1.0
        return EngineMember(time_, spec, size.slots, lengths, tokens, seed, speed)

    runtime = EngineRuntime(member)
    pools = {name: _pool(arm, name, runtime, time_, size) for name in size.members}
    expected = {shard: sum(map(fmean, known)) for shard, known in enumerate(round_.before)}
    folder = Path(tempfile.mkdtemp(prefix="longest-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        with Manifest(folder) as manifest:
            jobs = (StageJob("", "prompts", "prompts", 1, k, f"{k:08x}", {}) for k in range(size.num_shards))
            manifest.accept_all([replace(receipt_of(job, 0.0), metrics={}) for job in jobs])
            Dataflow(
                manifest, pools, STAGES, 1, size.num_shards, {"policy_version": 0}, observer=SilentObserver(),
                expected_tokens=expected if arm in ("known", "late", "spare") else None, clock=time_.clock, bell=time_,
            ).run()  # fmt: skip
    finally:
        shutil.rmtree(folder)
    busy = [each.engine.busy_s for each in runtime.members if each.name.startswith("rollout/")]
    return time_.now, fmean(busy) / time_.now


def _pool(arm: str, name: str, runtime: Any, time_: SimulatedTime, size: Size) -> Pool:
    follows = None
    if name.startswith("judge.") or (name == "rollout" and arm != "today"):
        follows = InFlight(size.slots, 32, size.prompts_a_shard * size.group if name == "rollout" else None)
    made = pool_class(arm, name)(
        name, runtime, lambda k: MemberSpec(f"{name}/{k}", dict, {}), PoolLimits(in_flight=follows), clock=time_.clock
    )
    made.resize(size.members[name])
    return made


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument(
        "--members", type=int, default=64, help="rollout members; half as many LLM judges, an eighth PRM, cpu"
    )
    parser.add_argument("--shards", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--arm", nargs="+", choices=ARMS[1:], default=list(ARMS[1:]), help="beside today; default: all")
    parser.add_argument("--lengths", nargs="+", choices=("recorded", "heavy"), default=["heavy", "recorded"])
    parser.add_argument(
        "--slow-judge", type=float, default=1.0, metavar="X", help="one LLM judge takes X times as long"
    )
    options = parser.parse_args()
    started, rows = facts(), {}
    pools = {"rollout": 1.0, "judge.llm": 0.5, "judge.prm": 0.125, "cpu": 0.125}
    members = {name: max(round(share * options.members), 1) for name, share in pools.items()}
    for kind in options.lengths:
        shape = (2, 16, 64) if kind == "heavy" else (4, 8, 64)
        for num_shards in options.shards:
            size = Size(num_shards, *shape, members, options.slow_judge)
            rounds = [drawn_round(kind, size, options.seed + k) for k in range(options.repeats)]
            found = {
                arm: [data_half(arm, each, size, options.seed + k) for k, each in enumerate(rounds)]
                for arm in ("today", *options.arm)
            }
            for arm, measured in found.items():
                name = f"{kind}, {num_shards} shards, {arm}"
                seconds, before = [s for s, _ in measured], [s for s, _ in found["today"]]
                rows[f"{name}: D, s"] = summarise(seconds)
                rows[f"{name}: D / today's"] = ratios(seconds, before)
                rows[f"{name}: rollout engines with work"] = summarise([share for _, share in measured])
    settings = {
        "members": members,
        "a shard": "heavy 2 prompts x 16, recorded 4 x 8; engines of 64 places",
        "seeds": list(range(options.seed, options.seed + options.repeats)),
        "one LLM judge takes": f"{options.slow_judge:g} x as long",
    }
    finish("longest first (simulated)", rows, settings=settings, json_file=options.json, started=started)


if __name__ == "__main__":
    main()
