"""cli/signals.py in a process of its own: one signal asks, two end the process whatever holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

PROGRAM = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from rich.console import Console
from bcpg_cluster_cli import signals
from bcpg_cluster_cli.signals import stop_on_signals
signals.PATIENCE_S = 0.2
def held():
    print("held", flush=True)
    {held}
with stop_on_signals(Console()) as stop_asked:
    print("ready", flush=True)
    while not stop_asked():
        time.sleep(0.01)
    print("asked", flush=True)
    {work}
print("left", flush=True)
"""
HELD_IN_C = (
    "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
    "[libc.select(0, None, None, None, None) for _ in range(10**9)]"
)


@pytest.fixture
def run() -> Callable[..., tuple[int, str, str]]:
    """Run the program, send so many signals, each once the line it waits for is printed; code, output, errors."""

    def start(work: str, *signals: tuple[str, signal.Signals], held: str = "pass") -> tuple[int, str, str]:
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(work=work, held=held)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        assert child.stdout is not None
        printed = ""
        try:
            for line, number in signals:
                while line not in printed:
                    said = child.stdout.readline()
                    assert said, f"it ended before it printed {line!r}: {child.communicate(timeout=60)}"
                    printed += said
                child.send_signal(number)
            out, err = child.communicate(timeout=120)
        finally:
            child.kill()
        return child.returncode, printed + out, err

    return start


INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize("number", [INT, TERM])
def test_one_signal_asks_for_a_clean_stop(run: Callable[..., tuple[int, str, str]], number: signal.Signals):
    code, out, _ = run("pass", ("ready", number))
    assert code == 0
    assert out.splitlines()[-1] == "left" and "stopping: finishing what is under way" in out


def test_the_second_signal_interrupts(run: Callable[..., tuple[int, str, str]]):
    code, out, err = run("held()", ("ready", INT), ("held", INT), held="time.sleep(600)")
    assert code != 0 and "left" not in out
    assert "KeyboardInterrupt" in err or "ended by force" in err


@pytest.mark.parametrize(
    "held",
    [
        "ThreadPoolExecutor(1).submit(time.sleep, 600)",  # a thread that the interpreter waits for at its end
        HELD_IN_C,
        "[lock.acquire() for lock in [threading.Lock()] for _ in range(2)]",
    ],
    ids=["a thread", "in C", "a lock"],
)
def test_the_second_signal_ends_a_process_that_cannot_end(run: Callable[..., tuple[int, str, str]], held: str):
    code, _, err = run("held()", ("ready", INT), ("held", TERM), held=held)
    assert code == 130 or "KeyboardInterrupt" in err
    assert code != 0


def test_a_thread_left_behind_ends_with_the_process(run: Callable[..., tuple[int, str, str]]):
    """The clean stop is over, but a thread holds the process: the second signal still ends it."""
    _, out, _ = run("ThreadPoolExecutor(1).submit(time.sleep, 600)", ("ready", INT), ("left", INT))
    assert "left" in out
