"""A run in steps: it pauses where only its trainers work, so that another run may use the pools meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from bcpg_cluster.store.manifest import SnapshotRecord

T = TypeVar("T")


class Training:
    """A pause for a round's training: whoever drives the run calls :meth:`run`, in any thread, before it continues the run.

    Args:
        train: touches the trainer group and the run's own files, and nothing else.
        meanwhile: what the run would like to have done in the thread of the pools while another trains; a driver need not.

    Attributes:
        ended: when it was over, by ``time.monotonic``; ``None`` until then.
    """

    def __init__(
        self,
        train: Callable[[], SnapshotRecord],
        meanwhile: Callable[[Training], None] = lambda training: None,
    ) -> None:
        self._train, self._meanwhile = train, meanwhile
        self._outcome: Future[SnapshotRecord] = Future()
        self.ended: float | None = None

    def run(self) -> None:
        """Train; never raises: :meth:`result` does."""
        try:
            self._outcome.set_result(self._train())
        except BaseException as error:
            self._outcome.set_exception(error)
        finally:
            self.ended = time.monotonic()

    def meanwhile(self) -> None:
        """Do what the run would like to have done while this trains."""
        self._meanwhile(self)

    def error(self) -> BaseException | None:
        """What ended a training that is over; ``None`` where it trained."""
        return self._outcome.exception()

    def result(self) -> SnapshotRecord:
        """What was trained, or the error that ended it."""
        return self._outcome.result()


@dataclass(frozen=True, slots=True)
class TrainersFree:
    """A pause after the push: until its next :class:`Training` the run needs the pools alone."""


Step = Training | TrainersFree
Steps = Generator[Step, None, T]


def drive(steps: Steps[T], train: Callable[[Training], None]) -> T:
    """Have all steps done, the trainings by ``train``; what the run returns. Raises what it raises."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        if isinstance(step, Training):
            train(step)


def alone(steps: Steps[T]) -> T:
    """As :func:`drive`, with the trainings in this thread."""
    return drive(steps, Training.run)
