"""Rollout members that started under older weights load those that are served now, before their first lease.

A start can take long, for it may have to wait for a node; meanwhile new weights may be pushed to all others.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec


class CatchUp:
    """A pool's ``welcome`` (see :class:`bcpg_cluster.cluster.pool.Pool`).

    Args:
        served: version and path of the weights that are served.
        base: path of the base model, which members start with that get no snapshot.
    """

    def __init__(self, served: Callable[[], tuple[int, Any]], base: str) -> None:
        self._served, self._base = served, base
        self._told: dict[str, tuple[int, Any]] = {}  # by member: what it was told to load

    def __call__(self, member: Member, spec: MemberSpec) -> Future[Any] | None:
        """The load that has to end first; ``None`` when the member holds what is served."""
        started = spec.arguments["policy_version"], spec.arguments["snapshot"] or self._base
        served = self._served()
        if self._told.get(member.name, started) == served:
            self._told.pop(member.name, None)
            return None
        self._told[member.name] = served
        version, path = served
        return member.call(
            "engine_call", "load_snapshot", path, version, control=True, label=f"catch up with v{version}"
        )
