"""What ``live.json`` holds: what a run does now, written by the run and read by ``status`` and ``scale``."""

from __future__ import annotations

from pydantic import Field

from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.store.reports import Stored


class Versions(Stored):
    """Policy versions: what the rollout members serve, and what was trained last. ``None`` before the first."""

    served: int | None = None
    trained: int | None = None


class LastPush(Stored):
    """The last push, in the words of :class:`bcpg_cluster.store.reports.PushFacts`; ``time`` in seconds since the epoch."""

    version: int
    time: float
    method: str
    seconds: float
    worst_nats: float
    canaries: str
    num_members: int


class TrainingNow(Stored):
    """The last optimiser step: ``steps`` of ``num_steps`` are done."""

    round: int
    steps: int
    num_steps: int
    loss: float


class Ending(Stored):
    """How a run ended: ``done``, ``stopped`` or ``failed``, and why."""

    how: str
    why: str
    time: float


class StageNow(Stored):
    """A stage of the round under way. ``seconds_left``: at its pace so far; ``None`` until a piece was done."""

    round: int
    name: str
    done: int
    total: int
    seconds_left: float | None


class PoolNow(Stored):
    """See :class:`bcpg_cluster.cluster.state.PoolState`. ``busy_share``: since the look before; ``None`` while none was ready."""

    name: str
    size: int
    low: int
    high: int
    sized_by: str
    num_queued: int
    num_leased: int
    busy_s: float
    ready_s: float
    members: tuple[MemberState, ...]
    needs: dict[str, float]
    target_queue_per_actor: float | None = None
    busy_share: float | None = None

    def state(self) -> PoolState:
        """As the run saw it."""
        return PoolState(**{name: getattr(self, name) for name in type(self).model_fields if name != "busy_share"})


class EventNow(Stored):
    """Something worth a line: ``note``, ``report``, or a kind of fault."""

    time: float
    kind: str
    text: str


class Live(Stored):
    """Everything.

    Attributes:
        pid, host, boot: the process, its machine, and the running kernel's id.
        started, heartbeat: seconds since the epoch, by that machine's clock.
        ended: ``None`` while the run goes, and where it died without a word.
        round: ``None`` before the first stage.
    """

    pid: int
    host: str
    boot: str
    started: float
    heartbeat: float
    ended: Ending | None = None
    round: int | None = None
    versions: Versions = Field(default_factory=Versions)
    last_push: LastPush | None = None
    training: TrainingNow | None = None
    num_faults: int = 0
    stages: list[StageNow] = Field(default_factory=list)
    pools: list[PoolNow] = Field(default_factory=list)
    events: list[EventNow] = Field(default_factory=list)

    def age_s(self, now: float) -> float:
        """Seconds since the last heartbeat, if both clocks agree."""
        return now - self.heartbeat
