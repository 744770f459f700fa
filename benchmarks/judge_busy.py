"""Is a judge pool's engine busy while there is work? A simulation: real pool, made-up engine and clock. Starts nothing.

    python benchmarks/judge_busy.py

Each member's engine works on 64 requests at once, a request takes 1 to 9 seconds (uniformly), and shards ask between none and
twice a mean number of requests. Printed: of the engine's places, the share that was taken while the pool's queue held work, with
a fixed number of leases and with leases that follow the engine's queue.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.cluster.leases import InFlight, PoolLimits, Work
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.store.mark import RunMark

AT_ONCE = 64


@dataclass
class World:
    """Simulated time."""

    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    num: int = 0

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something happen."""
        self.num += 1
        heapq.heappush(self.due, (self.now + seconds, self.num, do))


class Engine:
    """A member: takes requests in order, ``AT_ONCE`` of them at the same time."""

    def __init__(self, name: str, world: World, rng: random.Random) -> None:
        self.name, self._world, self._rng = name, world, rng
        self._waiting: deque[Callable[[], None]] = deque()
        self.num_running = 0

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """Answer at once, or work on a shard of ``args[0]`` requests."""
        answer: Future[Any] = Future()
        if method != "run" or not args[0]:
            answer.set_result(0)
            return answer
        left = [args[0]]

        def one_less() -> None:
            left[0] -= 1
            if not left[0]:
                answer.set_result(args[0])

        self._waiting.extend([one_less] * args[0])
        self._fill()
        return answer

    def _fill(self) -> None:
        while self._waiting and self.num_running < AT_ONCE:
            done = self._waiting.popleft()
            self.num_running += 1
            self._world.after(self._rng.uniform(1.0, 9.0), lambda done=done: self._finish(done))

    def _finish(self, done: Callable[[], None]) -> None:
        self.num_running -= 1
        self._fill()
        done()

    def kill(self) -> None:
        """Nothing to end."""


class Engines:
    """A runtime of them."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._rng, self.members = world, rng, list[Engine]()

    def start(self, spec: MemberSpec) -> Engine:
        """A member that is ready."""
        self.members.append(Engine(spec.name, self._world, self._rng))
        return self.members[-1]

    def members_must_see(self, mark: RunMark) -> None:
        """Nothing to look for."""

    def shutdown(self) -> None:
        """Nothing to stop."""


def busy_share(mean_requests: int, in_flight: InFlight | None, *, num_members: int = 2, num_shards: int = 600) -> float:
    """Of the engines' places, the share that was taken while work was queued."""
    world, rng = World(), random.Random(7)
    engines = Engines(world, rng)
    limits = PoolLimits(lease_timeout_s=1e9, silence_timeout_s=1e9, in_flight=in_flight)
    pool = Pool("judge", engines, lambda n: MemberSpec(f"judge/{n}", dict, {}), limits, clock=lambda: world.now)
    pool.resize(num_members)
    for shard in range(num_shards):
        size = rng.randint(0, 2 * mean_requests)
        pool.submit(
            Work((shard,), lambda member, size=size: member.call("run", size), f"shard {shard}", num_requests=float)
        )
    pool.poll()
    taken = passed = 0.0
    while pool.num_queued:
        when, _, do = heapq.heappop(world.due)
        taken += (when - world.now) * sum(engine.num_running for engine in engines.members)
        passed += when - world.now
        world.now = when
        do()
        while pool.poll():  # shards without a request are done at once
            pass
    return taken / (passed * AT_ONCE * num_members)


def main() -> None:
    print("requests a shard   2 leases   4 leases   following the engine's queue")
    for mean in (4, 8, 16, 32, 64, 128):
        two = busy_share(mean, None)
        fixed = busy_share(mean, InFlight(10**9, 4))
        follows = busy_share(mean, InFlight(AT_ONCE, 32))
        print(f"{mean:>16}   {two:>8.1%}   {fixed:>8.1%}   {follows:>8.1%}")


if __name__ == "__main__":
    main()
