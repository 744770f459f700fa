"""A pool of equal members that work through leases.

One thread drives a pool by calling :meth:`Pool.poll`; nothing here knows Ray or clocks of its own. A lease is one try of one
piece of work on one member. A member that dies, falls silent or overruns its lease (``cluster/liveness``) is replaced, and its
leases go back to the front of the queue; a piece of work that keeps failing stops the run. Members are numbered upwards and a
name is never used twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.leases import Done, Lease, LeaseCount, PoolLimits, Slot, Work
from bcpg_cluster.cluster.lifecycle import ping
from bcpg_cluster.cluster.liveness.deadline import DeadlineRule
from bcpg_cluster.cluster.liveness.heartbeats import Heartbeats
from bcpg_cluster.cluster.liveness.overdue import LeaseDeadlines
from bcpg_cluster.cluster.runtime import Located, Member, MemberSpec, Placed, Runtime
from bcpg_cluster.cluster.state import MemberState
from bcpg_cluster.cluster.work_queue import WorkQueue
from bcpg_cluster.errors import DamagedShardError, EngineError, MemberLostError, StartRefusedError
from bcpg_cluster.store.faults import FaultEvent, FaultKind

_NODE_PATIENCE_S = 30.0  # a node with room takes a while to start a process: not yet worth a word
_NODE_LOOK_S = 1.0


class Pool:
    """See the module's docstring.

    Args:
        spec: gives the spec of the member with a number; asked anew for every start, so that a replacement gets the present
            state (e.g. the newest snapshot).
        on_fault: told of every lost lease or member, and of what became of it.
        welcome: asked about every member that has started, until it returns ``None``: a call that has to end first, before the
            member gets its first lease (e.g. loading weights that are newer than those it was started with).

    Attributes:
        on_news: called when a call of a member has ended, from whatever thread ended it: the next :meth:`poll` can bring
            something.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        spec: Callable[[int], MemberSpec],
        limits: PoolLimits,
        *,
        on_fault: Callable[[FaultEvent], object] = lambda fault: None,
        welcome: Callable[[Member, MemberSpec], Future[Any] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._runtime, self._spec, self._limits = runtime, spec, limits
        self._on_fault, self._welcome, self._clock = on_fault, welcome, clock
        self._slots: list[Slot] = []
        self._queue = WorkQueue()
        self._size = 0
        self._started = 0
        self._failed_starts = 0
        self._was_ready = False  # whether any member ever was
        self._broken: EngineError | None = None
        self._gone_busy_s = self._gone_ready_s = 0.0  # of members that are no more
        self._is_parked = False
        self.on_news: Callable[[], object] = lambda: None
        # A poll checks the members of which a call has ended, and not all of them: there may be a thousand.
        self._news: deque[Slot] = deque()
        self._lease_count = LeaseCount(limits.leases_per_member, limits.in_flight)
        self._deadlines = LeaseDeadlines(DeadlineRule(limits.lease_timeout_s, limits.max_attempts), clock)
        self._heartbeats = Heartbeats(limits.silence_timeout_s, clock)

    # --- size

    def resize(self, size: int) -> None:
        """Grow at once; shrink by draining: leases under way are finished, nothing is lost. A parked pool only notes it."""
        self._size = size
        if self._is_parked:
            return
        staying = [slot for slot in self._slots if not slot.is_draining]
        for slot in sorted(staying, key=lambda s: (s.is_ready, len(s.leases)))[: max(len(staying) - size, 0)]:
            slot.is_draining = True
        for slot in self._slots:  # one that was to go may stay after all
            if slot.is_draining and not slot.is_dismissed and sum(not s.is_draining for s in self._slots) < size:
                slot.is_draining = False
        while sum(not slot.is_draining for slot in self._slots) < size:
            self._start_one()

    def park(self, *, keep_members: bool = False) -> None:
        """Give up the members (unless they are kept, asleep) until :meth:`unpark`; the size asked for stays as it is."""
        self._is_parked = True
        for slot in self._slots:
            slot.is_draining = slot.is_draining or not keep_members

    def unpark(self) -> None:
        """Have the members again that were asked for; those that went are started anew."""
        self._is_parked = False
        self.resize(self._size)

    def _start_one(self) -> None:
        spec = self._spec(self._started)
        member = self._runtime.start(spec)
        self._started += 1
        slot = Slot(member, spec, ping(member), self._clock())
        slot.ready.add_done_callback(lambda _: self.on_news())
        if not isinstance(member, Placed):
            slot.start_deadline = slot.asked + self._limits.start_timeout_s
        self._slots.append(slot)

    def dismiss_draining(self) -> None:
        """Members that are draining do not stay even if the pool grows again: what all others are told now, they are not."""
        for slot in self._slots:
            slot.is_dismissed = slot.is_draining

    @property
    def max_attempts(self) -> int:
        """Tries of one piece of work before the run stops."""
        return self._limits.max_attempts

    @property
    def size(self) -> int:
        """Members asked for."""
        return self._size

    @property
    def num_queued(self) -> int:
        """Pieces of work that no member has yet."""
        return len(self._queue)

    @property
    def num_leased(self) -> int:
        """Pieces of work under way."""
        return sum(len(slot.leases) for slot in self._slots)

    @property
    def num_starting(self) -> int:
        """Members that have a node and will be ready soon. Those that wait for a node may do so for long."""
        return sum(not slot.is_ready and not slot.is_draining and not self._is_placing(slot) for slot in self._slots)

    def members(self) -> list[Member]:
        """The members that are ready and stay."""
        return [slot.member for slot in self._slots if slot.is_ready and not slot.is_draining]

    def status(self, policy_version: int | None = None) -> list[MemberState]:
        """All members, for displays; ``policy_version`` is what those that are ready serve."""
        return [
            MemberState(
                slot.member.name,
                self._state(slot),
                len(slot.leases),
                self._busy_s(slot),
                policy_version if slot.is_ready else None,
            )
            for slot in self._slots
        ]

    def _state(self, slot: Slot) -> str:
        if slot.is_draining:
            return "draining"
        return "ready" if slot.is_ready else "placing" if self._is_placing(slot) else "starting"

    def _is_placing(self, slot: Slot) -> bool:
        return slot.start_deadline is None and self._clock() - slot.asked > _NODE_PATIENCE_S

    def times(self) -> tuple[float, float]:
        """Seconds in which members had work, and were ready, over all members that ever were."""
        busy_s = self._gone_busy_s + sum(self._busy_s(slot) for slot in self._slots)
        return busy_s, self._gone_ready_s + sum(self._ready_s(slot) for slot in self._slots)

    def _busy_s(self, slot: Slot) -> float:
        return slot.busy_s + (self._clock() - slot.busy_since if slot.busy_since is not None else 0.0)

    def _ready_s(self, slot: Slot) -> float:
        return self._clock() - slot.ready_since if slot.ready_since is not None else 0.0

    # --- work

    def submit(self, work: Work) -> None:
        """Queue a piece of work."""
        self._queue.add(work)

    def drop_queue(self) -> int:
        """Forget what no member has yet; the number of pieces forgotten."""
        return self._queue.clear()

    def futures(self) -> Iterator[Future[Any]]:
        """What to wait for before the next :meth:`poll` can bring something."""
        for slot in self._slots:
            if not slot.is_ready:
                yield slot.ready
            for lease in slot.leases:
                yield lease.answer

    def poll(self, *, assign: bool = True) -> list[Done]:
        """Take in what happened, replace what was lost, hand out leases (unless ``assign`` is off: winding down).

        Raises:
            EngineError: a piece of work, or the start of a member, failed ``max_attempts`` times.
            BcpgError: an error that trying again cannot fix (bad input), as the member raised it.
        """
        self._absorb_starts()
        done = [finished for slot in self._slots_to_look_at() for finished in self._absorb_leases(slot)]
        self._replace_silent()
        self._end_drained()
        if assign:
            self._queue.hand_out(self._slots, self._lease_count.most, self._lease)
        return done

    def settle(self) -> None:
        """Take in starts and ends of members, but no work: for times in which no stage polls the pool. Raises like :meth:`poll`."""
        self._absorb_starts()
        try:
            self._replace_silent()
        except EngineError as error:
            self._broken = error  # who settles may pass it over; the next poll must not
            raise
        self._end_drained()

    def _replace_silent(self) -> None:
        for slot in self._heartbeats.look(self._slots):
            self._replace(slot, f"did not answer a heartbeat within {self._limits.silence_timeout_s:.0f} s")

    def _end_drained(self) -> None:
        for slot in [slot for slot in self._slots if slot.is_draining and not slot.leases]:
            self._remove(slot)

    def lose(self, member: Member, why: str) -> None:
        """Treat a member as gone (it missed a deadline elsewhere): kill it, re-queue its leases, start another."""
        for slot in self._slots:
            if slot.member is member:
                self._replace(slot, why)
                return

    def _absorb_starts(self) -> None:
        if self._broken is not None:
            raise self._broken
        for slot in [slot for slot in self._slots if not slot.is_ready]:
            if slot.ready.done():
                error = slot.ready.exception()
                if error is None:
                    self._admit(slot)
                    continue
                if not isinstance(error, EngineError) and not (
                    self._was_ready and isinstance(error, StartRefusedError)
                ):
                    raise error
                self._retry_start(slot, f"did not start: {error}")
            elif slot.start_deadline is None:
                self._look_for_node(slot)
            elif self._clock() > slot.start_deadline:
                self._retry_start(slot, f"did not start within {self._limits.start_timeout_s:.0f} s")

    def _admit(self, slot: Slot) -> None:
        first = None if self._welcome is None else self._welcome(slot.member, slot.spec)
        if first is None:
            slot.is_ready, slot.ready_since, self._failed_starts, self._was_ready = True, self._clock(), 0, True
            slot.host = slot.member.host() if isinstance(slot.member, Located) else None
        else:
            slot.ready, slot.start_deadline = first, self._clock() + self._limits.start_timeout_s
            slot.ready.add_done_callback(lambda _: self.on_news())

    def _look_for_node(self, slot: Slot) -> None:
        """The start's time limit runs from when the member has a node; waiting for one has a limit of its own."""
        now = self._clock()
        if now < slot.next_look:
            return
        slot.next_look = now + _NODE_LOOK_S
        if isinstance(slot.member, Placed) and slot.member.is_placed():
            slot.start_deadline = now + self._limits.start_timeout_s
        elif now - slot.asked > self._limits.placement_timeout_s:
            why = f"found no node within {self._limits.placement_timeout_s:.0f} s"
            if not self.members():
                self._broken = EngineError(f"{slot.member.name} {why}, and pool {self.name} has no other member")
                raise self._broken
            if not slot.is_draining:  # the others can do the work: a smaller pool is better than none
                self._size -= 1
            self._tell_fault(FaultKind.SHRUNK, slot, slot.member.name, why, f"the pool continues with {self._size}")
            self._remove(slot)

    def _retry_start(self, slot: Slot, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= self._limits.max_attempts:
            self._broken = EngineError(f"{slot.member.name} {why} (the last of {self._failed_starts} tries)")
            raise self._broken
        self._replace(slot, why)

    def _slots_to_look_at(self) -> list[Slot]:
        """Those of which a call has ended; all of them when a lease may be overdue."""
        if self._deadlines.is_any_due():
            self._news.clear()
            return list(self._slots)
        told: dict[int, Slot] = {}
        while self._news:
            slot = self._news.popleft()
            told[id(slot)] = slot
        return list(told.values())

    def _tell(self, slot: Slot) -> None:
        self._news.append(slot)
        self.on_news()

    def _absorb_leases(self, slot: Slot) -> Iterator[Done]:
        for lease in list(slot.leases):
            if lease.answer.done():
                error = lease.answer.exception()
                if error is None:
                    self._release(slot, lease)
                    self._deadlines.end(lease)
                    if lease.work.num_requests is not None:
                        self._lease_count.note(lease.work.num_requests(lease.answer.result()))
                    yield Done(lease.work.key, lease.answer.result(), slot.member.name)
                elif isinstance(error, MemberLostError):
                    self._replace(slot, str(error))
                    return
                elif isinstance(error, EngineError):
                    self._release(slot, lease)
                    self._requeue(slot, lease, str(error))
                elif isinstance(error, DamagedShardError):
                    self._release(slot, lease)
                    yield Done(lease.work.key, None, slot.member.name, error)
                else:
                    raise error
            elif (why := self._deadlines.why_overdue(lease, slot.pulse.idle_for(lease.work.label))) is not None:
                self._replace(slot, why)
                return

    def _release(self, slot: Slot, lease: Lease) -> None:
        slot.leases.remove(lease)
        if not slot.leases and slot.busy_since is not None:
            slot.busy_s += self._clock() - slot.busy_since
            slot.busy_since = None

    def _requeue(self, slot: Slot, lease: Lease, why: str) -> None:
        is_last, most = lease.attempt >= self._limits.max_attempts, self._limits.max_attempts
        then = f"failed {lease.attempt} of {most} times" + ("" if is_last else ", back to the front of the queue")
        self._tell_fault(FaultKind.REQUEUE, slot, lease.work.label, why, then)
        if is_last:
            raise EngineError(
                f"pool {self.name}: {lease.work.label} failed {lease.attempt} times; the last time: {why}"
            )
        self._queue.put_back(lease.work, lease.attempt + 1)

    def _replace(self, slot: Slot, why: str) -> None:
        self._remove(slot)
        self._tell_fault(FaultKind.REPLACEMENT, slot, slot.member.name, why, "ended; another takes its place")
        for lease in slot.leases:
            if lease.work.take_back is None or not lease.work.take_back(why):
                self._requeue(slot, lease, why)
        slot.leases.clear()  # the end of its calls is still to be told
        if not self._is_parked and sum(not s.is_draining for s in self._slots) < self._size:
            self._start_one()

    def _tell_fault(self, kind: FaultKind, slot: Slot, what: str, why: str, then: str) -> None:
        self._on_fault(FaultEvent(kind, what, why, then, pool=self.name, member=slot.member.name, host=slot.host))

    def _remove(self, slot: Slot) -> None:
        self._gone_busy_s += self._busy_s(slot)
        self._gone_ready_s += self._ready_s(slot)
        slot.member.kill()
        self._slots.remove(slot)

    def _lease(self, slot: Slot, work: Work, attempt: int) -> None:
        answer = work.start(slot.member)
        now = self._clock()
        lease = Lease(work, attempt, answer, now)
        slot.leases.append(lease)
        self._deadlines.begin(lease)
        if slot.busy_since is None:
            slot.busy_since = now
        answer.add_done_callback(lambda _: self._tell(slot))

    def close(self) -> None:
        """Stop all members."""
        for slot in self._slots:
            slot.member.kill()
        self._slots.clear()
