"""Ray's side of placement: what the nodes of a cluster have, and groups of resources for members (Ray's placement groups)."""

from __future__ import annotations

from typing import Any

from bcpg_cluster.cluster.on_ray.launcher import autoscaled_nodes
from bcpg_cluster.cluster.placement import ClusterNodes
from bcpg_cluster.cluster.runtime import Group


def look_at_nodes() -> ClusterNodes:
    """What the nodes of the cluster have that this process is connected to, and what its autoscaler may add."""
    import ray
    from ray._private.state import state

    config = state.get_cluster_config()  # where the autoscaler tells Ray
    groups = config.node_group_configs if config is not None else ()
    largest: tuple[dict[str, float], ...] | None = None
    if all(group.max_count >= 0 for group in groups):
        largest = tuple(dict(group.resources) for group in groups for _ in range(group.max_count))
        largest = largest or autoscaled_nodes(ray.get_runtime_context().gcs_address)
    return ClusterNodes(
        [node["Resources"] for node in ray.nodes() if node["Alive"]],
        list(state.available_resources_per_node().values()),
        largest,
    )


def own_raylet() -> str:
    """``host:port`` of Ray's process on this process's node."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def has_process(actor: Any) -> bool:
    """Whether an actor was placed. Ray calls it pending until its constructor has returned, and names a node while it still
    waits for room there; so what tells is whether it has a process.
    """
    from ray.core.generated import gcs_pb2

    info = _facts(actor)
    return info is not None and (
        info.pid != 0
        or info.state
        not in (
            gcs_pb2.ActorTableData.DEPENDENCIES_UNREADY,
            gcs_pb2.ActorTableData.PENDING_CREATION,
        )
    )


def address_of(actor: Any) -> str | None:
    """The address of the node an actor runs on; ``None`` where Ray has none."""
    info = _facts(actor)
    return (info.address.ip_address or None) if info is not None else None


def _facts(actor: Any) -> Any:
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    content = state.get_actor_info(actor._actor_id)
    return None if content is None else gcs_pb2.ActorTableData.FromString(content)


class Groups:
    """The groups of a run's members. One is asked for with its first member and given back with its last.

    Args:
        namespace: of the run; Ray's names of groups are the whole cluster's, and two runs may share one.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._placed: dict[str, tuple[Any, set[str]]] = {}  # Ray's group, and who lives in it

    def join(self, group: Group, bundle: int, member: str) -> Any:
        """The place (Ray's scheduling strategy) of a member in its group."""
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if group.name not in self._placed:
            bundles = [dict(bundle) for bundle in group.bundles]
            made = placement_group(bundles, strategy=group.strategy, name=f"{self._namespace}/{group.name}")
            self._placed[group.name] = made, set()
        made, members = self._placed[group.name]
        members.add(member)
        return PlacementGroupSchedulingStrategy(
            placement_group=made,
            placement_group_bundle_index=bundle,
            # vLLM's Ray workers are started by the member and belong into its other bundles.
            placement_group_capture_child_tasks=True,
        )

    def leave(self, group: Group, member: str) -> None:
        """A member is gone."""
        from ray.util import remove_placement_group

        made, members = self._placed.get(group.name, (None, {member}))
        members.discard(member)
        if not members and self._placed.pop(group.name, None) is not None:
            remove_placement_group(made)
