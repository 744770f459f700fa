"""Drives one run so that its trainings have a thread of their own, and the pools work meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import TypeVar

from bcpg_cluster.run.steps import Steps, Training

T = TypeVar("T")


def train_beside(
    steps: Steps[T], tend: Callable[[], None], without_training: Callable[[], AbstractContextManager[None]]
) -> T:
    """Have all steps done; what the run returns. The calling thread drives the pools. Raises what the run raises.

    Args:
        tend: called about once a second while a training is waited for.
        without_training: inside it, a training under way ends soon.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="training") as trainers:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found: T = end.value
                return found
            if isinstance(step, Training):
                ended = trainers.submit(step.run)
                try:
                    step.meanwhile()
                    while wait([ended], timeout=1.0).not_done:
                        tend()
                except BaseException:
                    with without_training():
                        wait([ended])
                    steps.close()
                    raise
