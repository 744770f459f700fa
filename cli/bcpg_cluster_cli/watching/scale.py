"""``bcpg-cluster scale``: resize a running run's pools."""

from __future__ import annotations

import getpass
import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import typer

from bcpg_cluster.errors import UserError
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.watch.control import Answer, Control, ScaleRequest, check_sizes
from bcpg_cluster.watch.live_status import is_alive, read_live
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal
from bcpg_cluster_cli.watching.live_view import state_line

_LOOK_S = 0.2
_SIZE = re.compile(r"(?P<pool>[^=\s]+)=(?P<size>auto|\d{1,6})")


def run_scale(asked: Sequence[str], run_dir: str | RunPath | None, wait_s: float, *, as_json: bool) -> None:
    """Put the request before the run, wait for its answer, print it.

    Raises:
        UserError: the request cannot be done, the run is over or gone, or does not answer in time.
    """
    sizes = read_sizes(asked)
    directory = find_run(run_dir)
    check_alive(directory)
    live = read_live(directory)
    if live is not None and (
        pools := [pool.state() for pool in live.pools]
    ):  # a run that just starts has not told of them yet
        check_sizes(sizes, pools)
    control = Control(directory)
    request = control.ask(sizes, _who())
    answer = wait_for_answer(control, request, wait_s, lambda: check_alive(directory))
    if answer.changes is None:
        raise UserError(answer.problem, rule=answer.rule, remedy=answer.remedy)
    if as_json:
        typer.echo(json.dumps({name: {"before": a, "after": b} for name, (a, b) in answer.changes.items()}))
        return
    console = Terminal()
    for name, (before, after) in answer.changes.items():
        how = "by its own rule" if sizes[name] is None else "until it is scaled again or the run ends"
        console.print(f"{name}: {before} -> {after} members ({how})", highlight=False)
    console.print("`bcpg-cluster status --watch` shows them come and go", highlight=False)


def read_sizes(asked: Sequence[str]) -> dict[str, int | None]:
    """``pool=number`` or ``pool=auto``, each pool once.

    Raises:
        UserError: anything else.
    """
    sizes: dict[str, int | None] = {}
    for text in asked:
        match = _SIZE.fullmatch(text)
        if match is None or match["pool"] in sizes:
            raise UserError(
                f"{text!r}" + (" names a pool twice" if match else " is not POOL=MEMBERS"),
                rule="name each pool once, with a number of members or `auto`",
                remedy="e.g. bcpg-cluster scale judge.llm=4 prm=2",
            )
        sizes[match["pool"]] = None if match["size"] == "auto" else int(match["size"])
    return sizes


def check_alive(directory: RunPath) -> None:
    """Raises :class:`UserError` when no process works on the run."""
    if is_alive(directory):
        return
    live = read_live(directory)
    raise UserError(
        f"{directory} is not running" if live is None else f"{directory}: {state_line(live, False, time.time())}",
        rule="scale talks to the process that works on a run (`iterate` or `stage`)",
        remedy="resume the run (`bcpg-cluster iterate`), or set other pool sizes there with --set "
        "pools.<name>.members=N",
    )


def wait_for_answer(
    control: Control,
    request: ScaleRequest,
    wait_s: float,
    check: Callable[[], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """The run's answer.

    Args:
        check: raises when the run is gone.

    Raises:
        UserError: none came within ``wait_s``; the request was taken back, and nothing will come of it.
    """
    deadline, next_check = clock() + wait_s, clock() + 2.0
    while True:
        answer = control.answer_to(request)
        if answer is not None:
            return answer
        if clock() > deadline and control.withdraw(request):
            raise UserError(
                f"the run did not answer within {wait_s:g} s; the request is withdrawn",
                rule="a run takes up requests between its waits; a push delays them until it is done",
                remedy="check `bcpg-cluster status`, and ask again",
            )
        if clock() > next_check:
            next_check = clock() + 2.0
            try:
                check()
            except UserError:
                control.withdraw(request)
                raise
        sleep(_LOOK_S)


def _who() -> str:
    name = "somebody"
    with suppress(OSError, KeyError):  # a container's user may have no name
        name = getpass.getuser()
    return f"{name} on {socket.gethostname()}"
