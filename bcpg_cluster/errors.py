"""Everything this package raises on purpose.

::

    BcpgError
    ├── UserError              bad input: says the value, the rule and the remedy; exit code 2
    │   ├── ConfigError        an invalid configuration
    │   │   └── StartRefusedError  an engine that does not start with its options, or has too little memory for them
    │   ├── DataError          prompts or models that cannot be used
    │   │   └── HubError       a data set that could not be fetched from a hub
    │   ├── RunDirectoryError  a run directory made by something else, half-written or altered
    │   │   └── DamagedManifestError  a line of its manifest is not what was written
    │   ├── SeveralFaultsError  several of them, found by one look
    │   └── MostlyFailedError  most samples of a round could not be verified, or most steps have no verdict
    ├── StoreError             a table or manifest that is not what it says it is
    │   ├── OtherSchemaError   a table that another version of this program wrote
    │   ├── NotFiniteError     weights with a NaN or an infinity, written so
    │   └── DamagedShardError  a shard's file is gone or altered; the run makes it again from what it was made from
    ├── EngineError            an engine failed; the piece of work may be tried again elsewhere
    │   ├── MemberLostError    the process behind an engine is gone or does not answer
    │   └── UnreachableError   an object store does not answer, or refuses
    ├── ClusterLostError       the cluster's head, or the driver's own node, is gone; the run can resume on another
    ├── PushError              new weights did not arrive, or are not what was sent
    ├── TrainingDivergedError  the loss, the gradient or a weight is not finite
    └── Interrupted            the person asked to stop; the run can resume later
"""

from __future__ import annotations

from pathlib import Path

_DOCS = Path(__file__).parents[1] / "docs"


def note_other(error: BaseException, other: BaseException | None, where: str) -> None:
    """Have an error that is raised tell of another, which would be lost with it. A wanted stop is none, nor is one told already,
    nor what the system refuses for the same reason: that is one disk, or one limit.
    """
    if other is None or other is error or isinstance(other, Interrupted):
        return
    if isinstance(error, OSError) and isinstance(other, OSError) and error.errno == other.errno:
        return
    error.add_note(f"{where}: {type(other).__name__}: {other}")


def page(name: str) -> str:
    """What to call a page of the documentation: its path in a checkout, its name where only the package is installed."""
    return f"docs/{name}" if (_DOCS / name).is_file() else f"the documentation's page {name}"


class BcpgError(Exception):
    """Base of everything raised on purpose."""


class UserError(BcpgError):
    """Bad input. Built from its three parts so that no message leaves one out."""

    def __init__(self, problem: str, *, rule: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  rule:   {rule}\n  remedy: {remedy}")
        self.problem, self.rule, self.remedy = problem, rule, remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_user_error, (type(self), self.problem, self.rule, self.remedy))


def _rebuild_user_error(kind: type[UserError], problem: str, rule: str, remedy: str) -> UserError:
    """Unpickle a :class:`UserError`, whose parts are keyword-only (errors cross processes)."""
    return kind(problem, rule=rule, remedy=remedy)


class ConfigError(UserError):
    """An invalid configuration."""


class StartRefusedError(ConfigError):
    """An engine that does not start with its options, or has too little memory for them. Another try would end the same, unless
    an engine like it has been running: what that one held may not be free yet.
    """


class DataError(UserError):
    """Prompts or models that cannot be used."""


class LostCheckError(DataError):
    """A check whose process ended or did not reply in time. The machine may be the reason, so it is worth asking once more."""


class HubError(DataError):
    """A data set that is not here could not be fetched from a hub."""


class RunDirectoryError(UserError):
    """A run directory made by another configuration or version, half-written, or altered since."""


class DamagedManifestError(RunDirectoryError):
    """A line of a run's manifest is not what was written.

    Attributes:
        line: its number, from 1.
        kind: what is wrong (``store.journals.lines.DamageKind``).
    """

    def __init__(self, problem: str, *, rule: str, remedy: str, line: int, kind: str) -> None:
        super().__init__(problem, rule=rule, remedy=remedy)
        self.line, self.kind = line, kind

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_damaged, (self.problem, self.rule, self.remedy, self.line, self.kind))


def _rebuild_damaged(problem: str, rule: str, remedy: str, line: int, kind: str) -> DamagedManifestError:
    return DamagedManifestError(problem, rule=rule, remedy=remedy, line=line, kind=kind)


class SeveralFaultsError(UserError):
    """Several faults, found by one look.

    Attributes:
        faults: each of them, two at least.
    """

    def __init__(self, faults: tuple[UserError, ...]) -> None:
        super().__init__(
            f"{len(faults)} things are wrong",
            rule="each is listed below with its rule",
            remedy="correct each of them",
        )
        self.faults = faults
        self.args = ("\n".join([f"{self.problem}\n", *(f"{n}. {fault}" for n, fault in enumerate(faults, 1))]),)

    def __reduce__(self) -> tuple[object, ...]:
        return (SeveralFaultsError, (self.faults,))


class MostlyFailedError(UserError):
    """Most samples of a round could not be verified, or most steps have no verdict."""


class StoreError(BcpgError):
    """A table or manifest that is not what it says it is."""


class OtherSchemaError(StoreError):
    """A table of another schema version: written by an older or a newer program."""


class DamagedShardError(StoreError):
    """A shard's file is not the one that was accepted. A run that needs it makes it again from what it was made from.

    Attributes:
        run_dir: as messages show it.
        path: the file, relative to ``run_dir``.
        attempt: the one that wrote it.
        what: what is wrong with it.
    """

    def __init__(
        self, run_dir: str, path: str, *, table: str, round_: int, shard: int, attempt: str, what: str
    ) -> None:
        super().__init__(
            f"{run_dir}/{path} (table {table!r}, round {round_}, shard {shard}) {what}\n"
            "  rule:   a shard is read only if its checksum is the one noted when it was accepted\n"
            f"  remedy: `bcpg-cluster verify --run-dir {run_dir}` says what depends on it and how it comes back"
        )
        self.run_dir, self.path, self.table, self.round = run_dir, path, table, round_
        self.shard, self.attempt, self.what = shard, attempt, what

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self.run_dir, self.path, self.table, self.round, self.shard, self.attempt, self.what)
        return (_rebuild_damaged_shard_error, parts)


def _rebuild_damaged_shard_error(
    run_dir: str, path: str, table: str, round_: int, shard: int, attempt: str, what: str
) -> DamagedShardError:
    """Unpickle one: its parts are keyword-only."""
    return DamagedShardError(run_dir, path, table=table, round_=round_, shard=shard, attempt=attempt, what=what)


class NotFiniteError(StoreError):
    """Weights with a NaN or an infinity, that were written so."""


class EngineError(BcpgError):
    """An engine failed; the piece of work may be tried again elsewhere."""


class MemberLostError(EngineError):
    """The process behind an engine is gone or does not answer."""


class ClusterLostError(BcpgError):
    """The cluster's head or the driver's own node is gone, and with it all members; the run can resume on another cluster."""


class UnreachableError(EngineError):
    """An object store does not answer, or refuses."""


class PushError(BcpgError):
    """New weights did not arrive, or are not what was sent."""


class TrainingDivergedError(BcpgError):
    """The loss, the gradient or a weight is not finite."""


class Interrupted(BcpgError):
    """The person asked to stop; what is sealed stays, and the run can resume later."""
