"""The section of a pool of members."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.section import Section


class PoolConfig(Section):
    """A pool of equal actors.

    A section for each pool that should differ from the defaults: ``rollout``, ``judge.<name>`` (``prm`` for a judge of that
    name), ``cpu``, ``trainer``.
    """

    members: int = Field(1, ge=1)
    """Members to start with. The number of trainer ranks, ``pools.trainer.members``, decides the results' last bits and is
    fixed for a run's life."""
    min: int | None = Field(None, ge=1)
    """Least members after resizing, by hand or by the queue; ``null`` is ``members``."""
    max: int | None = Field(None, ge=1)
    """Most members after resizing, by hand or by the queue; ``null`` is ``members``."""
    target_queue_per_actor: float | None = Field(None, gt=0)
    """Resize the pool by itself between ``min`` and ``max``: one member for this many shards that wait or are in progress.
    ``null`` is off; the trainers never resize."""
    scale_down_after_s: float = Field(300.0, ge=0)
    """Seconds for which fewer members must have been enough before the pool shrinks by itself."""
    leases_per_member: int = Field(2, ge=1)
    """Shards that a member works on at once, so that its batch never drains at a shard border."""
    max_leases_per_member: int = Field(32, ge=1)
    """Rollouts on GPUs, judges of kind ``llm`` and ``openai``, and ``prm`` with ``engine: vllm``: most shards that a member works
    on at once. Between ``leases_per_member`` and this the number follows the requests that shards take, so that the engine's
    batch stays full."""
    num_cpus: float | None = Field(None, ge=0)
    """Ray's CPUs of one member (bookkeeping, not a limit on threads: see ``env``); ``null`` is 1, or an equal share where the
    cluster's CPUs are fewer than the members."""
    num_gpus: float = Field(0.0, ge=0)
    """Ray's GPUs of one member."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Ray's custom resources of one member."""
    memory_gib: float = Field(1.0, gt=0)
    """Memory of one member, in GiB; checked against the machine before anything starts."""
    when_idle: Literal["close", "sleep"] = "close"
    """What a member does while other pools have their turn (``placement: colocated``): ``close`` ends its process; ``sleep``
    has vLLM free the GPU and keep the process (where vLLM cannot, as on CPUs, it is closed)."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the member's process."""
    lease_timeout_s: float = Field(3600.0, gt=0)
    """Seconds for one lease at most; after that another member gets it and this one is replaced. A lease that stands still is
    given up sooner: see "Deadlines" in docs/operate.md."""
    silence_timeout_s: float = Field(60.0, gt=0)
    """Seconds that a member with work may leave heartbeats unanswered (its process is stopped, its node frozen); after that it is
    replaced. Longer than any single call of a C library that holds Python's interpreter lock."""
    start_timeout_s: float = Field(600.0, gt=0)
    """Seconds for a member to get ready; one that is not ready by then is replaced."""
    placement_timeout_s: float = Field(1800.0, gt=0)
    """Seconds that a member waits for a node with room for it; ``start_timeout_s`` counts from then."""
    max_attempts: int = Field(3, ge=1)
    """Tries of one piece of work before the run stops."""

    @property
    def cpus(self) -> float:
        """Ray's CPUs of one member where nothing was shared out: 1 unless ``num_cpus`` says otherwise."""
        return 1.0 if self.num_cpus is None else self.num_cpus

    @model_validator(mode="after")
    def _bounds(self) -> PoolConfig:
        low, high = self.min or self.members, self.max or self.members
        if not low <= self.members <= high:
            bound = f"above max, which is {high}" if self.members > high else f"below min, which is {low}"
            raise ValueError(f"members is {self.members}, {bound}; a pool without min or max keeps its members")
        if self.target_queue_per_actor is not None and low == high:
            raise ValueError(
                f"target_queue_per_actor resizes the pool between min and max, but both are {low} (members, where they are not set)"
            )
        return self
