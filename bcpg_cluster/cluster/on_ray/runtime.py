"""Members as Ray actors. Few files of this package import Ray: the import contracts name them."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.liveness.progress import CallsUnderWay
from bcpg_cluster.cluster.node_address import announce
from bcpg_cluster.cluster.on_ray.connection import check_address, check_token, joining
from bcpg_cluster.cluster.on_ray.exhausted import with_remedy
from bcpg_cluster.cluster.on_ray.groups import Groups, address_of, has_process, look_at_nodes, own_raylet
from bcpg_cluster.cluster.on_ray.link import Link, answers, head, own_node
from bcpg_cluster.cluster.on_ray.loopback import on_loopback
from bcpg_cluster.cluster.placement import ClusterNodes
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.errors import BcpgError, ClusterLostError, EngineError, MemberLostError
from bcpg_cluster.store.mark import RunMark, check_mark

_CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # where `ray start` notes the address of this machine's cluster
_CONTROL_THREADS = 4
_NAME_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """Which Ray to use. ``address`` is ``local`` to start one; ``reason`` is printed."""

    address: str
    reason: str


def choose_cluster(address: str | None, environ: Mapping[str, str] = os.environ) -> ClusterChoice:
    """``--address``, then ``RAY_ADDRESS``, then a Ray already running on this machine, else a local one."""
    if address:
        return ClusterChoice(address, "given by --address")
    if environ.get("RAY_ADDRESS"):
        return ClusterChoice(environ["RAY_ADDRESS"], "given by RAY_ADDRESS")
    if _CURRENT_CLUSTER.is_file():
        running = _CURRENT_CLUSTER.read_text().strip()
        if answers(running):
            return ClusterChoice(running, "a Ray is running on this machine")
    return ClusterChoice("local", "no Ray is running here, so a local one is started")


def look_at(choice: ClusterChoice) -> ClusterNodes:
    """What a running cluster has; joins it for a moment. Raises :class:`UserError` when none answers."""
    runtime = RayRuntime(choice, namespace="bcpg-look")
    try:
        return runtime.look()
    finally:
        runtime.shutdown()


class _Host:
    """The actor: it holds one object and passes calls on. Work, control calls and heartbeats have threads of their own."""

    def __init__(self, factory: Any, arguments: dict[str, Any], mark: RunMark | None = None) -> None:
        self._under_way = CallsUnderWay()
        self._hosted: Any = None
        self._failure: BcpgError | None = None
        try:
            _announce_node()
            if mark is not None:
                check_mark(mark)
            self._hosted = factory(**arguments)
        except BcpgError as error:
            self._failure = error  # raised by every call: an error in an actor's constructor would lose its type
        except Exception as error:
            self._failure = EngineError(f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}")

    def work(self, method: str, args: tuple[Any, ...], label: str) -> Any:
        if self._failure is not None:
            raise self._failure
        with self._under_way.doing(label):
            return getattr(self._hosted, method)(*args)

    def control(self, method: str, args: tuple[Any, ...], label: str) -> Any:
        if self._failure is not None:
            raise self._failure
        return getattr(self._hosted, method)(*args)

    def beat(self) -> Mapping[str, float]:
        return self._under_way.idle_s()


def _announce_node() -> None:
    """In an actor's process: its groups meet at the address that Ray knows this node by."""
    import ray

    announce(ray.util.get_node_ip_address())


class RayMember:
    """A started actor. ``on_kill`` is called once, after it was killed."""

    def __init__(self, name: str, actor: Any, link: Link, on_kill: Callable[[], None]) -> None:
        self.name = name
        self._actor, self._link, self._on_kill = actor, link, on_kill
        self._is_placed = False

    def call(self, method: str, /, *args: Any, control: bool = False, label: str = "") -> Future[Any]:
        """See :class:`bcpg_cluster.cluster.runtime.Member`."""
        kind, name = self._actor.control if control else self._actor.work, label or method
        return self._settled(lambda: kind.options(name=name).remote(method, args, name))

    def beat(self) -> Future[Mapping[str, float]]:
        """See :class:`bcpg_cluster.cluster.runtime.Beating`."""
        return self._settled(lambda: self._actor.beat.options(name="heartbeat").remote())

    def _settled(self, ask: Callable[[], Any]) -> Future[Any]:
        """The end of a call that ``ask`` makes, in our errors."""
        answer: Future[Any] = Future()
        self._link.watch_over(answer)
        if self._link.is_lost:
            return answer
        try:
            reference = ask()
        except Exception as error:  # Ray raises its own kinds for an actor known to be dead
            answer.set_exception(MemberLostError(with_remedy(error, f"{self.name}: {error}")))
            return answer
        reference.future().add_done_callback(lambda done: _settle(answer, done, self.name))
        return answer

    def is_placed(self) -> bool:
        """See :class:`bcpg_cluster.cluster.runtime.Placed`."""
        self._is_placed = self._is_placed or has_process(self._actor)
        return self._is_placed

    def host(self) -> str | None:
        """See :class:`bcpg_cluster.cluster.runtime.Located`."""
        return address_of(self._actor)

    def kill(self) -> None:
        """See :class:`bcpg_cluster.cluster.runtime.Member`."""
        import ray

        if not self._link.is_lost:  # it would wait for the head
            ray.kill(self._actor, no_restart=True)
            self._on_kill()


def _settle(answer: Future[Any], done: Future[Any], name: str) -> None:
    """Pass a Ray call's end on, with Ray's errors turned into ours."""
    with suppress(InvalidStateError):  # the link was lost and has failed it already
        _pass_on(answer, done, name)


def _pass_on(answer: Future[Any], done: Future[Any], name: str) -> None:
    from ray.exceptions import RayError, RayTaskError

    error = done.exception()
    if error is None:
        answer.set_result(done.result())
        return
    if isinstance(error, RayTaskError):
        cause = error.cause if isinstance(error.cause, Exception) else error
        answer.set_exception(
            cause if not isinstance(cause, RayError) else EngineError(with_remedy(cause, f"{name}: {cause}"))
        )
    elif isinstance(error, RayError):
        answer.set_exception(MemberLostError(with_remedy(error, f"{name}: {_first_line(error)}")))
    else:
        answer.set_exception(error)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " | ".join(lines[:6]) or type(error).__name__


class RayRuntime:
    """Starts members as actors of a cluster. The run's actors live in a namespace of its own.

    Args:
        local_resources: custom resources a local cluster is started with.
        namespace: where ``status`` and ``scale`` find the run's actors.
        on_lost: called once, in a thread, when the cluster is given up: Ray may hold the main thread then.
    """

    def __init__(
        self,
        choice: ClusterChoice,
        *,
        namespace: str,
        local_resources: Mapping[str, float] | None = None,
        log_to_driver: bool = False,
        dashboard: bool = True,
        on_lost: Callable[[ClusterLostError], None] = lambda error: None,
    ) -> None:
        import ray

        self.namespace = namespace
        common: dict[str, Any] = {
            "namespace": namespace,
            "log_to_driver": log_to_driver,
            "logging_level": "ERROR",
            "configure_logging": True,
        }
        if choice.address == "local":
            # Ray starts workers at nice 15; their imports crawl on a busy small machine (docs/decisions.md).
            os.environ.setdefault("RAY_worker_niceness", "0")
            with on_loopback():
                ray.init(address="local", resources=dict(local_resources or {}), include_dashboard=dashboard, **common)
        else:
            if choice.address != "auto":
                check_address(choice.address, choice.reason)
                check_token(choice.address)
            with joining(choice.address, choice.reason):
                ray.init(address=choice.address, **common)
        self._ray = ray
        self._link = Link(head(ray.get_runtime_context().gcs_address), own_node(own_raylet()), on_lost=on_lost)
        self._link.start()
        self._mark: RunMark | None = None
        self._groups = Groups(namespace)

    @property
    def dashboard_url(self) -> str | None:
        """Where Ray's dashboard listens; ``None`` when there is none."""
        url = self._ray.worker.global_worker.node.webui_url if self._ray.worker.global_worker.node else None
        return f"http://{url}" if url else None

    def cluster_resources(self) -> dict[str, float]:
        """Everything the cluster has, by resource name."""
        resources: dict[str, float] = self._ray.cluster_resources()
        return resources

    def look(self) -> ClusterNodes:
        """What the cluster's nodes have."""
        return look_at_nodes()

    def start(self, spec: MemberSpec) -> RayMember:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        self._link.raise_if_lost()
        ray, group = self._ray, spec.group
        host = type(spec.name.partition("/")[0].replace(".", "_"), (_Host,), {})
        host.work = ray.method(concurrency_group="work")(_copy(_Host.work))  # type: ignore[attr-defined]
        host.control = ray.method(concurrency_group="control")(_copy(_Host.control))  # type: ignore[attr-defined]
        host.beat = ray.method(concurrency_group="beat")(_copy(_Host.beat))  # type: ignore[attr-defined]
        threads = {"work": spec.work_threads, "control": _CONTROL_THREADS, "beat": 1}
        actor_class = ray.remote(concurrency_groups=threads)(host)
        options = actor_class.options(
            name=spec.name,
            namespace=self.namespace,
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            resources=dict(spec.resources),
            max_restarts=0,
            runtime_env={"env_vars": dict(spec.env)} if spec.env else None,
            **({} if group is None else {"scheduling_strategy": self._groups.join(group, spec.bundle, spec.name)}),
        )
        try:
            actor = options.remote(spec.factory, dict(spec.arguments), self._mark)
        except ray.exceptions.ActorAlreadyExistsError:
            # This run has the lock: the actor is of a driver that fell silent, and whose job Ray still takes to be alive.
            _end_named(spec.name, self.namespace)
            actor = options.remote(spec.factory, dict(spec.arguments), self._mark)
        leave = (lambda: None) if group is None else partial(self._groups.leave, group, spec.name)
        return RayMember(spec.name, actor, self._link, leave)

    def members_must_see(self, mark: RunMark) -> None:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        self._mark = mark

    def shutdown(self) -> None:
        """Stop all actors of this run and leave the cluster (a local one ends with it)."""
        self._link.close()
        if not self._link.is_lost:  # Ray would wait for the head, then end the process before the error is printed
            self._ray.shutdown()


def _copy(function: Any) -> Any:
    """A function object of its own, since Ray notes the concurrency group on the function."""
    import types

    return types.FunctionType(function.__code__, function.__globals__, function.__name__)


def _end_named(name: str, namespace: str) -> None:
    """End an actor of another driver, and wait until its name is free.

    Raises:
        EngineError: Ray did not let go of it.
    """
    import ray

    deadline = time.monotonic() + _NAME_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            ray.kill(ray.get_actor(name, namespace=namespace))
        except ValueError:  # there is none of that name any more
            return
        time.sleep(0.2)
    raise EngineError(f"{name} of another driver of this run could not be ended within {_NAME_PATIENCE_S:.0f} s")
