"""What the pools ask of the thing that runs their members: Ray, or threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from bcpg_cluster.store.mark import RunMark


@dataclass(frozen=True, slots=True)
class Group:
    """Resources that are had together or not at all. Those of its members that live share it; it is given back with the last.

    Attributes:
        name: unique in the run; members of one group give the same.
        bundles: each a share of one node, by resource name.
        strategy: how the bundles lie on the nodes: ``PACK`` on as few as possible, ``STRICT_PACK`` on one.
    """

    name: str
    bundles: tuple[Mapping[str, float], ...]
    strategy: str = "PACK"


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member to start.

    Attributes:
        name: readable and unique in the run, e.g. ``rollout/0``.
        factory: module-level function that builds the hosted object inside the member's own process.
        arguments: its keyword arguments (plain data: they cross processes).
        work_threads: calls of the ``work`` kind that may run at once. Control calls have threads of their own, so that they
            are answered while work is under way.
        group: where it runs, in ``bundle`` of its bundles; on its own resources without one.
    """

    name: str
    factory: Callable[..., Any]
    arguments: Mapping[str, Any]
    work_threads: int = 1
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    group: Group | None = None
    bundle: int = 0


class Member(Protocol):
    """A started member. Calls return at once; a member that is gone answers with ``MemberLostError``."""

    @property
    def name(self) -> str:
        """The spec's name."""
        ...

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """Call a method of the hosted object; ``label`` names the task in dashboards."""
        ...

    def kill(self) -> None:
        """End it now; calls under way fail with ``MemberLostError``. What it does afterwards no longer counts."""
        ...


@runtime_checkable
class Placed(Protocol):
    """What a member has, beside :class:`Member`, where it may have to wait for a node."""

    def is_placed(self) -> bool:
        """Whether a node was found for it. Cheap: asked about once a second until it is true."""
        ...


@runtime_checkable
class Located(Protocol):
    """What a member has, beside :class:`Member`, where members may be on several machines."""

    def host(self) -> str | None:
        """The address of its machine; ``None`` where it is unknown. Asked once, when the member is ready."""
        ...


@runtime_checkable
class Beating(Protocol):
    """What a member has, beside :class:`Member`, where its process can stop answering while others go on."""

    def beat(self) -> Future[Mapping[str, float]]:
        """Answered by a thread that has nothing else to do: by label, for how many seconds each call under way has not got on."""
        ...


class Runtime(Protocol):
    """Starts members."""

    def start(self, spec: MemberSpec) -> Member:
        """Ask for a member; returns before it is ready (its first call waits for it)."""
        ...

    def members_must_see(self, mark: RunMark) -> None:
        """Have members that are started from now on check for the run directory's mark, and fail with a ``UserError`` without."""
        ...

    def shutdown(self) -> None:
        """Let go of everything this runtime started."""
        ...
