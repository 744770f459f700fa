"""Processes beside the driver, for work on its own machine that Ray has no part in."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from threading import Thread
from typing import Any


def child_processes(
    number: int, initializer: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of new interpreters that ends with this process, however it ends.

    The executor's own workers outlive a parent that was killed: each holds both ends of the queue it waits on, so none ever
    sees it close (seen: workers and their children hours later).

    Args:
        number: of processes.
        initializer: called with ``arguments`` in each before its first piece of work.
    """
    return ProcessPoolExecutor(
        number, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(initializer, arguments)
    )


def _begin(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, name="ends with its parent", daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
