"""Which weights the rollout members serve, and how late members catch up with them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from bcpg_cluster.cluster.runtime import Member, MemberSpec
from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.generate.client import RolloutClient
from bcpg_cluster.stages.push.adapters.versions import BASE_WEIGHTS, AdapterPush, weights_id
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import RunPath, StoredPath


@dataclass(frozen=True, slots=True)
class Weights:
    """A version of a run, and where it lies. Versions count within a run, and members may serve several runs in turn: only with
    the path do they tell weights apart.

    Attributes:
        digests: by parameter, from the manifest; none for the base model.
    """

    version: int
    path: str | RunPath
    digests: Mapping[str, str] = field(default_factory=dict, compare=False)


class Serving:
    """Which weights the rollout members hold, and one that starts now must hold. The coordinator alone changes it."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @property
    def weights(self) -> Weights:
        """What is served now."""
        return self._weights

    def change(self, weights: Weights) -> None:
        """From now on serve these."""
        self._weights = weights


def weights_of(manifest: Manifest, version: int, base_model: str) -> Weights:
    """The weights of a version; versions without files of their own have the base model's."""
    record = manifest.state.snapshots.get(version)
    if record is None or not record.path:
        return Weights(version, base_model)
    path = manifest.run_dir.absolute() / record.path
    return Weights(version, path if isinstance(path, StoredPath) else str(path), record.digests)


def adapters_of(state: ManifestState, version: int, config: Config) -> AdapterPush | None:
    """What a push of a version's adapters says of them; ``None`` where whole weights are pushed, or a round taught nothing."""
    record, start, lora = state.snapshots[version], state.snapshots.get(version - 1), config.train.lora
    if config.push.carries != "adapters" or lora is None or not record.adapters:
        return None
    return AdapterPush(
        digests=record.adapters,
        scaling=lora.alpha / lora.rank,
        start=weights_id(start.digests) if start is not None and start.path else BASE_WEIGHTS,
        result=weights_id(record.digests),
    )


class CatchUp:
    """A pool's ``welcome`` (see :class:`bcpg_cluster.cluster.pool.Pool`).

    Args:
        base: path of the base model, which members start with that get no snapshot.
    """

    def __init__(self, serving: Serving, base: str) -> None:
        self._serving, self._base = serving, base
        self._told: dict[str, Weights] = {}  # by member: what it was told to load

    def __call__(self, member: Member, spec: MemberSpec) -> Future[dict[str, str]] | None:
        """The load that has to end first; ``None`` when the member holds what is served. The pool replaces a member whose load
        fails: one that read other weights than were written, among others.
        """
        started = Weights(spec.arguments["policy_version"], spec.arguments["snapshot"] or self._base)
        served = self._serving.weights
        if self._told.get(member.name, started) == served:
            self._told.pop(member.name, None)
            return None
        self._told[member.name] = served
        label = f"catch up with v{served.version}"
        return RolloutClient(member).load_snapshot(served.path, served.version, served.digests, label=label)
