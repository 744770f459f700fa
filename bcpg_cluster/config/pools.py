"""The section of a pool of members."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.section import Section


class PoolConfig(Section):
    """A pool of equal actors.

    Attributes:
        members: how many to start. ``min``/``max`` bound later resizing, by hand or by the queue (default: ``members``).
        target_queue_per_actor: with it the pool resizes itself between ``min`` and ``max``: one member for so many shards that wait
            or are under way (not for the trainers).
        scale_down_after_s: how long a smaller size must have been enough before the pool shrinks by itself.
        placement_timeout_s: how long a member waits for a node with room for it; ``start_timeout_s`` counts from then.
        leases_per_member: shards a member works on at once, so that its batch never drains at a shard border.
        resources: Ray's custom resources of one member; ``num_cpus``, ``num_gpus`` likewise.
        memory_gib: what one member needs; checked against the machine before anything starts.
        when_idle: what a member does while other pools have their turn (``placement: colocated``): ``close`` ends its process;
            ``sleep`` has vLLM free the GPU and keep its process (where vLLM cannot, as on CPUs, it is closed).
        env: environment variables of the member's process.
        lease_timeout_s: a lease that takes longer is given to another member and this one is replaced.
        max_attempts: tries of one piece of work before the run stops.
    """

    members: int = Field(1, ge=1)
    min: int | None = Field(None, ge=1)
    max: int | None = Field(None, ge=1)
    target_queue_per_actor: float | None = Field(None, gt=0)
    scale_down_after_s: float = Field(300.0, ge=0)
    leases_per_member: int = Field(2, ge=1)
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)
    memory_gib: float = Field(1.0, gt=0)
    when_idle: Literal["close", "sleep"] = "close"
    env: dict[str, str] = Field(default_factory=dict)
    lease_timeout_s: float = Field(3600.0, gt=0)
    start_timeout_s: float = Field(600.0, gt=0)
    placement_timeout_s: float = Field(1800.0, gt=0)
    max_attempts: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _bounds(self) -> PoolConfig:
        low, high = self.min or self.members, self.max or self.members
        if not low <= self.members <= high:
            raise ValueError(f"members {self.members} is outside min {low} .. max {high}")
        if self.target_queue_per_actor is not None and low == high:
            raise ValueError(f"target_queue_per_actor resizes the pool between min and max, and both are {low}")
        return self
