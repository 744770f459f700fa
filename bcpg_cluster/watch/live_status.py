"""What a run does now, as a file that others read: ``live.json`` in the run directory. For ``status`` and ``scale``.

The run's thread notes what it hears; a thread of its own writes the file, whole, at most once a second and at least every other
one, so that the file's age says whether the process is alive even while the run's thread waits for a long push.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.errors import Interrupted, UnreachableError
from bcpg_cluster.stages.graph import MEASURING
from bcpg_cluster.store.journal import lock_holder
from bcpg_cluster.store.layout import LIVE
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.live import Ending, EventNow, LastPush, Live, PoolNow, StageNow, TrainingNow, Versions
from bcpg_cluster.watch.observer import (
    Event,
    Faulted,
    Noted,
    PoolsSeen,
    RoundFinished,
    StageProgress,
    StepTrained,
    WeightsPushed,
)

_EVERY_S = 1.0
HEARTBEAT_S = 2.0  # the file is never older while the process lives
_NUM_EVENTS = 50
_ABSURD = 1e15  # beyond any count, and any time in seconds that a calendar has


@dataclass
class _Progress:
    """``first`` and ``began``: pieces that were there when the stage was first heard of, and when that was."""

    done: int
    total: int
    first: int
    began: float
    updated: float


def seconds_left(done: int, total: int, first: int, passed_s: float) -> float | None:
    """How long a stage still takes at the pace it had so far; ``None`` until a piece was done.

    Args:
        first: pieces that were there at the start (of a resumed run), which took none of ``passed_s``.
    """
    if done >= total:
        return 0.0
    return None if done <= first else (total - done) * passed_s / (done - first)


class LiveStatus:
    """An observer that keeps ``live.json``. A context manager: at its end the file says how the run ended.

    Args:
        clock: seconds since 1970; people may set it back or forth.
        steady: seconds that pass, for paces.
    """

    def __init__(
        self,
        run_dir: RunPath,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._clock, self._steady = run_dir / LIVE, clock, steady
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._started = clock()
        self._ended: Ending | None = None
        self._round: int | None = None
        self._reported: int | None = None
        self._versions = Versions(served=None, trained=None)
        self._last_push: LastPush | None = None
        self._training: TrainingNow | None = None
        self._num_faults = 0
        self._stages: dict[tuple[int, str], _Progress] = {}
        self._pools: list[PoolNow] = []
        self._times: dict[str, tuple[float, float]] = {}
        self._events: deque[EventNow] = deque(maxlen=_NUM_EVENTS)
        self._thread = threading.Thread(target=self._keep_writing, name="live-status", daemon=True)

    def __enter__(self) -> LiveStatus:
        self._write()  # at once, and here: a directory that cannot be written to is an error of the run
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        how = "done" if error is None else "stopped" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        why = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        with self._guard:
            self._ended = Ending(how=how, why=why, time=self._clock())
            self._pools = []
        with suppress(OSError, UnreachableError):  # the run's own error is the one to see
            self._write()

    # --- what is heard

    def hear(self, event: Event) -> None:
        """Take in what ``live.json`` shows."""
        match event:
            case StageProgress():
                self._stage(event)
            case PoolsSeen(states=states):
                self._see_pools(states)
            case StepTrained():
                self._step(event)
            case WeightsPushed():
                self._push(event)
            case Noted(text=text):
                self._event("note", text)
            case Faulted(fault=fault):
                self._event(str(fault.kind), fault.text[:500])
                with self._guard:
                    self._num_faults += 1
            case RoundFinished(report=report):
                self._event("report", f"round {report.round} is done")
                self._reported = report.round
                self._drop(lambda round_, stage: round_ == report.round and round_ != self._round)

    def _stage(self, heard: StageProgress) -> None:
        """A stage's count; a new round takes the place of the one before, but for an evaluation beside its training."""
        now = self._steady()
        if not (heard.stage in MEASURING and self._round == heard.round + 1):
            self._round = heard.round
            self._drop(lambda round_, stage: round_ != heard.round and not self._is_beside(round_, stage))
        with self._guard:
            fresh = _Progress(heard.done, heard.total, heard.done, now, now)
            known = self._stages.setdefault((heard.round, heard.stage), fresh)
            known.done, known.total, known.updated = heard.done, heard.total, now

    def _is_beside(self, round_: int, stage: str) -> bool:
        """Whether a stage measures the version before the round that trains, and its report is still to come."""
        return stage in MEASURING and round_ + 1 == self._round and round_ != self._reported

    def _drop(self, is_over: Callable[[int, str], bool]) -> None:
        with self._guard:
            for key in [key for key in self._stages if is_over(*key)]:
                del self._stages[key]

    def _see_pools(self, states: Sequence[PoolState]) -> None:
        """The pools as they are, and how busy they were since the last reading."""
        shown = []
        for state in states:
            before_busy_s, before_ready_s = self._times.get(state.name, (0.0, 0.0))
            busy_s, ready_s = state.busy_s - before_busy_s, state.ready_s - before_ready_s
            self._times[state.name] = state.busy_s, state.ready_s
            shown.append(PoolNow.read({**asdict(state), "busy_share": busy_s / ready_s if ready_s > 0 else None}))
        served = {m.policy_version for state in states for m in state.members if m.policy_version is not None}
        with self._guard:
            self._pools = shown
            if served:
                self._versions = Versions(served=max(served), trained=self._versions.trained)

    def _step(self, heard: StepTrained) -> None:
        """How far the training is."""
        step = heard.step
        with self._guard:
            self._training = TrainingNow(
                round=heard.round, steps=step.step + 1, num_steps=step.num_steps, loss=step.loss
            )

    def _push(self, heard: WeightsPushed) -> None:
        """The last push."""
        facts = heard.facts
        with self._guard:
            self._last_push = LastPush(
                version=heard.version,
                time=self._clock(),
                method=facts.method,
                seconds=facts.seconds,
                worst_nats=facts.worst_nats,
                canaries=facts.canaries,
                num_members=facts.num_members,
            )
            self._versions = Versions(served=heard.version, trained=heard.version)

    def _event(self, kind: str, text: str) -> None:
        with self._guard:
            self._events.append(EventNow(time=self._clock(), kind=kind, text=text))

    # --- what is written

    def content(self) -> Live:
        """All of it."""
        now = self._clock()
        with self._guard:
            stages = [
                StageNow(
                    round=round_,
                    name=name,
                    done=progress.done,
                    total=progress.total,
                    seconds_left=seconds_left(
                        progress.done, progress.total, progress.first, progress.updated - progress.began
                    ),
                )
                for (round_, name), progress in self._stages.items()
            ]
            return Live(
                pid=os.getpid(),
                host=socket.gethostname(),
                boot=_boot_id(),
                started=self._started,
                heartbeat=now,
                ended=self._ended,
                round=self._round,
                versions=self._versions,
                last_push=self._last_push,
                training=self._training,
                num_faults=self._num_faults,
                stages=stages,
                pools=list(self._pools),
                events=list(self._events),
            )

    def _keep_writing(self) -> None:
        written: Live | None = None
        while not self._over.wait(_EVERY_S):
            content = self.content()
            if written is None or _is_due(content, written):
                with suppress(OSError, UnreachableError):  # the run itself meets a full or absent disk, and tells of it
                    self._write(content)
                    written = content

    def _write(self, content: Live | None = None) -> None:
        write_whole(self._path, (content or self.content()).model_dump_json().encode())


def _is_due(content: Live, written: Live) -> bool:
    """Whether there is news, or the heartbeat has to move."""
    is_same = content.model_copy(update={"heartbeat": written.heartbeat}) == written
    return not is_same or abs(content.heartbeat - written.heartbeat) >= HEARTBEAT_S - _EVERY_S


# --- reading it ------------------------------------------------------------------------------------------------------


def read_live(run_dir: RunPath) -> Live | None:
    """The live status; ``None`` when there is none (the run was never started by a command that keeps one), or what lies there
    is not one: another version's, altered, or no file.
    """
    try:
        live = Live.model_validate_json((run_dir / LIVE).read_bytes())
    except (OSError, ValueError):
        return None
    return live if _is_plausible(live.plain()) else None


def _is_plausible(value: Any) -> bool:
    """Whether all numbers are ones that a run can have."""
    if isinstance(value, dict | list | tuple):
        return all(map(_is_plausible, value.values() if isinstance(value, dict) else value))
    return not (isinstance(value, int | float) and abs(value) >= _ABSURD)


def is_alive(
    run_dir: RunPath, *, now: Callable[[], float] = time.time, wait: Callable[[float], None] = time.sleep
) -> bool:
    """Whether a process that answers requests works on the run. Plain answers take no time, the others some seconds.

    On the machine of the run its lock tells, which the kernel frees with the process. Elsewhere the heartbeat has to move: one
    that looks old may come from a clock that is slow, so it is checked twice.
    """
    first = read_live(run_dir)
    if first is None or first.ended is not None:
        return False
    if lock_holder(run_dir) is not None:
        return True
    if first.boot == _boot_id():
        return False
    if abs(first.age_s(now())) < 3 * HEARTBEAT_S:
        return True
    wait(2 * HEARTBEAT_S)
    second = read_live(run_dir)
    return second is not None and second.ended is None and second.heartbeat != first.heartbeat


def _boot_id() -> str:
    """Names the running kernel, whatever host name a container or network gives it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
