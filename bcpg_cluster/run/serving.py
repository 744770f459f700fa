"""Which weights the rollout members serve, and how late members catch up with them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.path import RunPath, StoredPath


class Serving:
    """Which weights the rollout members hold, and one that starts now must hold. Shared with the pool's spec of new members.

    Versions count within a run, and members may serve several runs in turn: only with the path do they tell weights apart.
    """

    def __init__(self, version: int, path: str | RunPath) -> None:
        self.version, self.path = version, path


def weights_path(manifest: Manifest, version: int, base_model: str) -> str | RunPath:
    """Where the weights of a version lie; versions without files of their own have the base model's."""
    record = manifest.state.snapshots.get(version)
    if record is None or not record.path:
        return base_model
    path = manifest.run_dir.absolute() / record.path
    return path if isinstance(path, StoredPath) else str(path)


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
