"""Several runs on one set of members: while the trainers work for one, the pools work for another.

Two runs are under way at most, since there are two things to have: the trainers and the pools. The calling thread drives the
pools, as in a run of its own; a training has a second thread. So every run does what it would do alone, in the same order:

    pools      weigh A  weigh B | push A  evaluate A  weigh C | push B  evaluate B  weigh D | ...
    trainers            train A |         train B             |         train C             | ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from bcpg_cluster.errors import note_other
from bcpg_cluster.run.build.workforce import Workforce
from bcpg_cluster.run.steps import Steps, TrainersFree, Training

T = TypeVar("T")


@dataclass
class _Ready(Generic[T]):
    """A run that has its rows sealed and waits for the trainers, or has them."""

    steps: Steps[T]
    training: Training


def interleave(runs: Iterable[Steps[T]], workforce: Workforce) -> Iterator[T]:
    """What the runs return, as they end; ``runs`` are taken one by one, each when it can begin.

    When one fails, the others are stopped where they can resume, and its error is raised.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="training") as trainers:
        schedule = _Schedule(runs, workforce, trainers)
        try:
            yield from schedule.ends()
        except BaseException as error:
            with workforce.without_training():
                schedule.close(error)
            raise


class _Schedule(Generic[T]):
    """See the module's docstring. At most one run is ``ready`` and one ``training``."""

    def __init__(self, runs: Iterable[Steps[T]], workforce: Workforce, trainers: ThreadPoolExecutor) -> None:
        self._todo = iter(runs)
        self._workforce, self._trainers = workforce, trainers
        self._ready: _Ready[T] | None = None
        self._training: tuple[_Ready[T], Future[None]] | None = None

    def ends(self) -> Iterator[T]:
        """What the runs return."""
        while True:
            if self._ready is None and (begun := next(self._todo, None)) is not None:
                yield from self._work(begun)
            elif self._training is not None:
                yield from self._work(self._trained())
            else:
                return
            self._train_next()

    def _work(self, steps: Steps[T]) -> Iterator[T]:
        """Have a run do what needs the pools: until it has rows to train on, or ends."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                self._workforce.serve(None)
                yield end.value
                return
            match step:
                case Training():
                    self._train_next()  # a run that trains twice in a row (something was remade) has not freed the trainers
                    self._ready = _Ready(steps, step)
                    return
                case TrainersFree():
                    self._train_next()

    def _train_next(self) -> None:
        """Give the trainers to the run that waits for them, where they are free."""
        if self._training is None and self._ready is not None:
            ready, self._ready = self._ready, None
            self._training = ready, self._trainers.submit(ready.training.run)

    def _trained(self) -> Steps[T]:
        """The run that trains, at the end of its training. It keeps the trainers until its weights are pushed."""
        if self._training is None:
            raise RuntimeError("no run is training")
        ready, ended = self._training
        while wait([ended], timeout=1.0).not_done:
            self._workforce.tend()
        self._training = None
        return ready.steps

    def close(self, why: BaseException) -> None:
        """End the runs that did not end, at a place from which they resume. What ended a training meanwhile is noted at ``why``."""
        under_way = [self._ready] if self._ready is not None else []
        if self._training is not None:
            ready, ended = self._training
            wait([ended])
            note_other(why, ready.training.error(), "the training of another run failed too")
            under_way.append(ready)
        for run in under_way:
            run.steps.close()
