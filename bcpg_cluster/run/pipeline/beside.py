"""Drives one run so that its trainings have a thread of their own, and the pools work meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import TypeVar

from bcpg_cluster.errors import note_other
from bcpg_cluster.run.steps import Steps, Training, drive

T = TypeVar("T")


def train_beside(
    steps: Steps[T], tend: Callable[[], None], without_training: Callable[[], AbstractContextManager[None]]
) -> T:
    """Have all steps done; what the run returns. The calling thread drives the pools. Raises what the run raises; where a training
    and the work beside it both fail, the work's error with a note of the other.

    Args:
        tend: called about once a second while a training is waited for.
        without_training: inside it, a training under way ends soon.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="training") as trainers:

        def train(training: Training) -> None:
            ended = trainers.submit(training.run)
            try:
                training.meanwhile()
                while wait([ended], timeout=1.0).not_done:
                    tend()
            except BaseException as error:
                with without_training():
                    wait([ended])
                note_other(error, training.error(), "the training beside it failed too")
                steps.close()
                raise

        return drive(steps, train)
