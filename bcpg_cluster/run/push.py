"""New weights to the rollout engines, with one deadline on the whole and a proof at the end.

The snapshot on disk is the durable reference: whatever goes wrong on the wire, an engine can always reload from it. Nothing in
vLLM's transfer calls or in the collectives has a deadline of its own, so this one does; past it the stuck members and the
trainer group are killed, and the replacements start from the snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import num_ranks
from bcpg_cluster.errors import BcpgError, EngineError, PushError
from bcpg_cluster.stages.generate.client import RolloutClient
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.stages.push.adapters.versions import AdapterPush, Carried
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.stages.push.canaries import Canary, CanaryProof, Probe, choose_probe, fitting_canaries, judge_canaries
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import PushFacts
from bcpg_cluster.watch.observer import Faulted, Observer

T = TypeVar("T")
_MAX_LEAVE_S = 30.0  # of a push's deadline; a receiver of a group that broke may never leave it
_MAX_SETTLE = 3  # tries to get every member to hold and prove a version, when members are lost meanwhile


@dataclass(frozen=True, slots=True)
class PushSettings:
    """See ``config.training.PushConfig``. ``ranks_per_member``: parts of one rollout engine, each of which receives."""

    backend: str
    deadline_s: float
    tolerance_nats: float
    ranks_per_member: int = 1

    @staticmethod
    def of(config: Config) -> PushSettings:
        """A run's."""
        push, ranks = config.push, num_ranks(config.engine_args(ROLLOUT_POOL))
        return PushSettings(push.backend, push.deadline_s, push.tolerance_nats, ranks)


class Pusher:
    """Keeps the push group while its membership stays the same; any change re-makes it.

    Args:
        serving: told the version that members started from now on must hold.
    """

    def __init__(
        self,
        gang: Gang,
        pool: Pool,
        settings: PushSettings,
        *,
        serving: Callable[[int], None],
        observer: Observer,
        wait_ready: Callable[[], None],
    ) -> None:
        self._gang, self._pool, self._settings = gang, pool, settings
        self._serving, self._observer, self._wait_ready = serving, observer, wait_ready
        self._trainers = TrainerClient(gang)
        self._met: tuple[str, ...] = ()

    def push(
        self,
        version: int,
        snapshot_path: str | RunPath,
        digests: SnapshotDigests,
        canaries: Sequence[Canary],
        *,
        from_disk: bool = False,
        adapters: AdapterPush | None = None,
    ) -> PushFacts:
        """Bring every rollout member to ``version``; returns the facts for the manifest.

        ``from_disk`` leaves the wire alone: the trainer does not hold these weights. It is left alone too where nothing is known of
        what would be sent. ``digests`` are the snapshot's; the base model has none. Where ``adapters`` are given they are sent
        alone; members that hold other weights than those they were trained on load the snapshot.

        Raises:
            PushError: an engine holds something other than what was sent. The run must not continue.
        """
        started = time.monotonic()
        why = self._why_from_disk(digests, from_disk=from_disk)
        if canaries:  # fill the prefix cache under the old weights; a member lost here is replaced
            with suppress(EngineError):
                self._fill_cache(choose_probe(self._fitting(canaries)))
            self._wait_ready()
        members = self._members()
        self._serving(version)
        self._pool.dismiss_draining()
        method, receivers = "disk", [] if why else members
        if receivers and adapters is not None:
            receivers = self._able_to_merge(members, adapters)
            why = _about_others(len(members), len(receivers))
        if receivers:
            try:
                self._send(version, receivers, digests.wire, adapters, started)
                method = self._settings.backend
            except EngineError as error:
                why = str(error)
                self._tell(
                    FaultKind.FALLBACK, version, why, "ranks and receivers are ended; all load the snapshot from disk"
                )
                self._abandon(receivers, why)
        # Members that serve several runs in turn may hold another run's weights of the same version.
        unable = {member.name for member in members} - {member.name for member in receivers}
        proof = self._settle(version, snapshot_path, digests.stored, canaries, reload=unable if receivers else None)
        facts = self._facts(method, why, time.monotonic() - started, proof)
        return facts if adapters is None or method == "disk" else facts.model_copy(update={"carried": "adapters"})

    def _why_from_disk(self, digests: SnapshotDigests, *, from_disk: bool) -> str:
        """Why the engines load the snapshot; empty when the weights are sent."""
        if self._settings.backend == "disk":
            return "configured"
        if from_disk or not self._gang.is_up:
            return "the trainer does not hold these weights"
        return "" if digests.wire else "the snapshot was recorded without digests of what is sent"

    def confirm(
        self, version: int, snapshot_path: str | RunPath, digests: SnapshotDigests, canaries: Sequence[Canary]
    ) -> PushFacts:
        """Prove that members which started from the snapshot hold it; the facts for the manifest. Raises like :meth:`push`."""
        started = time.monotonic()
        proof = self._settle(version, snapshot_path, digests.stored, canaries)
        return self._facts("disk", "members started from the snapshot", time.monotonic() - started, proof)

    def _fitting(self, canaries: Sequence[Canary]) -> list[Canary]:
        """What every member can score of the canaries."""
        limits = self._all(self._members(), RolloutClient.max_model_len)
        return fitting_canaries(canaries, min((limit for limit in limits if limit is not None), default=None))

    def _fill_cache(self, probe: Probe | None) -> None:
        if probe is not None:
            self._all(self._members(), lambda member: member.score_next(probe.prefix, probe.token))

    def _settle(
        self,
        version: int,
        snapshot_path: str | RunPath,
        digests: Mapping[str, str],
        canaries: Sequence[Canary],
        *,
        reload: Collection[str] | None = (),
    ) -> CanaryProof:
        """Have every member hold ``version`` and prove it; members lost meanwhile are replaced, and all are checked again.

        ``reload`` names those that load the snapshot, whatever version they say they hold; ``None`` is all of them.
        """
        for _ in range(_MAX_SETTLE - 1):
            try:
                self._catch_up(version, snapshot_path, digests, reload=reload)
                return self.prove(canaries)
            except EngineError as error:
                self._tell(FaultKind.RETRY, version, str(error), "all members are proven again")
        self._catch_up(version, snapshot_path, digests, reload=reload)
        return self.prove(canaries)

    def _tell(self, kind: FaultKind, version: int, why: str, then: str) -> None:
        fault = FaultEvent(kind, f"push v{version}", why, then, round=version, pool=self._pool.name)
        self._observer.hear(Faulted(fault))

    def _members(self) -> list[RolloutClient]:
        return [RolloutClient(member) for member in self._pool.members()]

    def _facts(self, method: str, why: str, seconds: float, proof: CanaryProof) -> PushFacts:
        return PushFacts(
            method=method,
            why=why,
            seconds=seconds,
            num_members=len(self._pool.members()),
            worst_nats=proof.worst_nats,
            separation_nats=proof.separation_nats,
            cached_prefix_nats=proof.cached_prefix_nats,
            canaries=proof.verdict,
            proof_s=proof.seconds,
        )

    def _catch_up(
        self, version: int, snapshot_path: str | RunPath, digests: Mapping[str, str], *, reload: Collection[str] | None
    ) -> None:
        """Members that hold another version load the snapshot, and those of ``reload``. One that read something else than
        ``digests`` say is replaced.
        """
        self._wait_ready()
        members = self._members()
        held = self._all(members, RolloutClient.policy_version)
        behind = [
            member
            for member, version_held in zip(members, held, strict=True)
            if reload is None or member.name in reload or version_held != version
        ]
        self._all(behind, lambda member: member.load_snapshot(snapshot_path, version, digests))

    def prove(self, canaries: Sequence[Canary]) -> CanaryProof:
        """Compare every member's log-probs of the canaries with the trainer's.

        Raises:
            PushError: a member holds other weights.
        """
        started = time.monotonic()
        members = self._members()
        canaries = self._fitting(canaries) if canaries else []
        pairs = [(canary.prompt_token_ids, canary.token_ids) for canary in canaries]
        scored = self._all(members, lambda member: member.score_tokens(pairs)) if pairs else []
        probe = choose_probe(canaries)
        decoded = (
            [] if probe is None else self._all(members, lambda member: member.score_next(probe.prefix, probe.token))
        )
        return judge_canaries(
            canaries,
            scored,
            None if probe is None else [abs(value - probe.after) for value in decoded],
            self._settings.tolerance_nats,
            seconds=time.monotonic() - started,
        )

    def _able_to_merge(self, members: Sequence[RolloutClient], adapters: AdapterPush) -> list[RolloutClient]:
        """Those that hold the weights which the adapters were trained on; one that does not answer is not among them."""
        asked = [member.adapter_start() for member in members]
        wait(asked, timeout=self._settings.deadline_s)
        return [
            member
            for member, start in zip(members, asked, strict=True)
            if start.done() and start.exception() is None and start.result() == adapters.start
        ]

    def _send(
        self,
        version: int,
        members: Sequence[RolloutClient],
        digests: Mapping[str, str],
        adapters: AdapterPush | None,
        started: float,
    ) -> None:
        """Over the wire, within the deadline; what arrives is compared with ``digests``, or with those of ``adapters``. Raises
        EngineError when it is given up.
        """
        trainers = (member.name for member in self._gang.members)
        group_of = (*trainers, *(member.name for member in members))  # a name is never used twice
        if group_of != self._met:
            self._leave(members, started)
            address = self._trainers.push_address()
            self._wait([address], started, group_of)
            host, port = address.result()
            ranks = self._settings.ranks_per_member
            group = PushGroup(host, port, 1 + ranks * len(members), self._settings.backend)
            joins = self._trainers.join_push_group(group, version)
            joins += [
                member.join_push_group(group, rank)
                for rank, member in zip(range(1, group.world_size, ranks), members, strict=True)
            ]
            self._wait(joins, started, group_of)
            self._met = group_of
        carried: Carried = "weights" if adapters is None else "adapters"
        specs = self._trainers.push_specs(carried, self._left(started))
        sends = self._trainers.push_weights(carried, version)
        receives = [
            member.receive_weights(specs, version)
            if adapters is None
            else member.receive_adapters(specs, adapters, version)
            for member in members
        ]
        self._wait([*sends, *receives], started, group_of)
        for member, receive in zip(members, receives, strict=True):
            if faults := arrival_faults(digests if adapters is None else adapters.digests, receive.result()):
                raise PushError(f"{member.name}: {faults}")

    def _left(self, started: float) -> float:
        return max(self._settings.deadline_s - (time.monotonic() - started), 0.1)

    def _wait(self, futures: Sequence[Future[Any]], started: float, asked: Sequence[str]) -> None:
        """Wait for everyone of ``asked``, or for the first of them, as there are futures."""
        done, pending = wait(futures, timeout=self._left(started), return_when=FIRST_EXCEPTION)
        for future in done:
            error = future.exception()
            if isinstance(error, BcpgError) and not isinstance(error, PushError):
                raise error
            if error is not None:  # whatever broke on the wire, the snapshot fixes it
                raise EngineError(f"push: {type(error).__name__}: {error}") from error
        if pending:
            silent = [name for name, future in zip(asked, futures, strict=False) if future in pending]
            raise EngineError(
                f"the push did not finish within {self._settings.deadline_s:.0f} s: no answer from {', '.join(silent)}"
            )

    def _abandon(self, members: Sequence[RolloutClient], why: str) -> None:
        """Whoever may be stuck in a collective is killed: the trainer group (it starts again from the snapshot when it is
        needed) and the receivers (their replacements start from the snapshot).
        """
        self._met = ()
        self._gang.kill()
        for member in members:
            self._pool.lose(member.member, why)

    def _leave(self, members: Sequence[RolloutClient], started: float) -> None:
        self._met = ()
        leaves = self._trainers.leave_push_group()
        leaves += [member.leave_push_group() for member in members]
        wait(leaves, timeout=min(_MAX_LEAVE_S, self._left(started)))

    def _all(self, members: Sequence[RolloutClient], ask: Callable[[RolloutClient], Future[T]]) -> list[T]:
        """Ask every member. One that is gone, fails or stays silent is replaced, and an EngineError says so."""
        futures = [ask(member) for member in members]
        wait(futures, timeout=self._settings.deadline_s)
        lost = []
        for member, future in zip(members, futures, strict=True):
            error = future.exception() if future.done() else EngineError("no answer")
            if isinstance(error, EngineError):
                lost.append(f"{member.name}: {error}")
                self._pool.lose(member.member, str(error))
            elif error is not None:
                raise error
        if lost:
            raise EngineError("; ".join(lost))
        return [future.result() for future in futures]


def _about_others(num_members: int, num_receivers: int) -> str:
    """What a push of adapters says of engines that cannot take them; empty when all can."""
    if not num_receivers:
        return "no engine holds the weights that the adapters were trained on"
    num_others = num_members - num_receivers
    return f"{num_others} of {num_members} engines held other weights and loaded the snapshot" if num_others else ""
