"""A snapshot whose files were damaged is trained again, from the sealed tables and the start weights of its round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bcpg_cluster.errors import EngineError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.run.snapshots import SnapshotCheck, SnapshotDamagedError, put_in_place, trained_in
from bcpg_cluster.run.steps import Step, Steps, Training
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.whole_files import remove_tree
from bcpg_cluster.watch.observer import Faulted, Noted, Observer


class SnapshotMender:
    """Checks snapshots before anything starts from them, and remakes those that were altered.

    Args:
        train_again: the training of a round that was trained before.
        pause: what a run does at a pause.
    """

    def __init__(
        self,
        manifest: Manifest,
        check: SnapshotCheck,
        train_again: Callable[[int], Training],
        pause: Callable[[Step], Steps[None]],
        observer: Observer,
    ) -> None:
        self._manifest, self._check, self._observer = manifest, check, observer
        self._train_again, self._pause = train_again, pause

    def have(self, version: int) -> Steps[None]:
        """Have a version's files as they were written.

        Raises:
            RunDirectoryError: they are damaged and cannot be remade to the same digests here.
        """
        try:
            self._check(version)
        except SnapshotDamagedError as damage:
            round_ = trained_in(self._manifest.state, version)
            if not self._can_train(round_):
                raise
            yield from self.have(round_ - 1)
            yield from self._remake(version, round_, damage)

    def _can_train(self, round_: int) -> bool:
        """Whether all that the round was trained from is there."""
        state = self._manifest.state
        start = state.snapshots.get(round_ - 1)
        has_start = start is None or not start.path or (self._manifest.run_dir / start.path).is_dir()
        has_tables = all((round_, table) in state.sealed for table in ("weighted", REFERENCE))
        return has_start and has_tables and state.snapshots[round_].training is not None

    def _remake(self, version: int, round_: int, damage: SnapshotDamagedError) -> Steps[None]:
        self._observer.hear(Noted(f"{damage.problem}; round {round_} is trained again to remake it"))
        training = self._train_again(round_)
        yield from self._pause(training)
        record, run_dir = self._manifest.state.snapshots[version], self._manifest.run_dir
        assert isinstance(run_dir, Path)  # the check looks at no other
        try:
            remade = training.result()
        except (EngineError, TrainingDivergedError) as error:
            raise _refused(damage, f"training it again failed: {error}") from error
        if faults := _differences(record, remade):
            remove_tree(run_dir / remade.path)
            raise _refused(damage, f"trained again here, it is another: {faults}")
        put_in_place(run_dir, remade.path, record.path)
        self._check(version)
        then = "trained again, with the digests that were noted"
        fault = FaultEvent(FaultKind.REMADE, f"snapshot v{version:04d}", damage.problem, then, round=round_)
        self._observer.hear(Faulted(fault))


def _differences(record: SnapshotRecord, remade: SnapshotRecord) -> str:
    weights = arrival_faults(record.digests, remade.digests)
    files = sorted(name for name, digest in record.files.items() if remade.files.get(name) != digest)
    return weights or (f"{', '.join(files)} differ" if files else "")


def _refused(damage: SnapshotDamagedError, why: str) -> RunDirectoryError:
    return RunDirectoryError(f"{damage.problem}; {why}", rule=damage.rule, remedy=damage.remedy)
