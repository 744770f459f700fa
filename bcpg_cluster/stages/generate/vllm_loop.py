"""One thread that owns a vLLM engine; all others talk to the thread.

vLLM's engine is not thread-safe, yet two shards at once must share one continuous batch. So a single thread builds the
engine, admits requests, steps, and runs control functions between two steps; callers only wait::

    caller A ── submit ──┐                       ┌─► outputs of A, in A's order
    caller B ── submit ──┤ inbox ─► admit ─ step ┤
    pusher ─ between_steps ┘          ▲      │   └─► outputs of B
                                      └──────┘
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from bcpg_cluster.cluster.liveness.progress import Progress, present_work
from bcpg_cluster.errors import EngineError

T = TypeVar("T")

# (prompt token ids, vLLM's SamplingParams or PoolingParams)
LoopRequest = tuple[Sequence[int], Any]


@dataclass(slots=True)
class _Call:
    """One caller's requests and what came back so far. Every step of the engine is progress for all that wait."""

    requests: Sequence[LoopRequest]
    outputs: list[Any]
    num_waiting: int
    done: Future[list[Any]]
    work: Progress


@dataclass(slots=True)
class _Control:
    """A function to run between two steps."""

    run: Callable[[Any], Any]
    done: Future[Any]


class EngineLoop:
    """Runs a ``vllm.LLM`` of any runner (generation or pooling) in its own thread.

    Args:
        build: makes the ``vllm.LLM``. It runs in the loop's thread, because CUDA's current device and other state of an
            engine belong to the thread that made it.
        name: of the thread, for stack dumps.

    Raises:
        Exception: whatever ``build`` raised.
    """

    def __init__(self, build: Callable[[], Any], name: str) -> None:
        self._changed = threading.Condition()
        self._inbox: deque[_Call | _Control] = deque()
        self._closing = False
        self._death: BaseException | None = None
        # Owned by the loop's thread; others only read lengths.
        self._backlog: deque[tuple[_Call, int]] = deque()
        self._owners: dict[str, tuple[_Call, int]] = {}
        self._open: list[_Call] = []
        self._num_admitted = 0
        self._max_running = 1
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, started), name=name, daemon=True)
        self._thread.start()
        started.result()

    # --- for callers -------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[LoopRequest]) -> list[Any]:
        """Answer all requests, in order; blocks. Any number of threads may be in here at once.

        Raises:
            EngineError: the engine refused one of the requests (the other callers continue), or died.
        """
        if not requests:
            return []
        call = _Call(requests, [None] * len(requests), len(requests), Future(), present_work())
        self._put(call)
        return call.done.result()

    def between_steps(self, run: Callable[[Any], T]) -> T:
        """Call ``run(llm)`` in the loop's thread between two steps, and return its result or raise its error."""
        control = _Control(run, Future())
        self._put(control)
        result: T = control.done.result()
        return result

    def sleep(self) -> bool:
        """Move the weights to the host and drop the KV cache (vLLM's sleep level 1); false when the engine was not built with
        ``enable_sleep_mode``.
        """

        def fall_asleep(llm: Any) -> bool:
            if not llm.llm_engine.vllm_config.model_config.enable_sleep_mode:
                return False
            llm.sleep(level=1)
            return True

        return self.between_steps(fall_asleep)

    def wake_up(self) -> None:
        """Take the device again; does nothing for an engine that is awake."""
        self.between_steps(lambda llm: llm.wake_up())

    @property
    def num_unfinished(self) -> int:
        """Requests admitted or waiting. Exact inside :meth:`between_steps`, a snapshot elsewhere."""
        return len(self._owners) + len(self._backlog)

    def close(self) -> None:
        """Stop after the present step; callers still waiting get an EngineError. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # --- in the loop's thread ----------------------------------------------------------------------------------------

    def _put(self, item: _Call | _Control) -> None:
        with self._changed:
            if self._death is not None:
                raise EngineError(f"the engine died: {self._death!r}") from self._death
            if self._closing:
                raise EngineError("the engine is closed")
            self._inbox.append(item)
            self._changed.notify()

    def _run(self, build: Callable[[], Any], started: Future[None]) -> None:
        try:
            llm = build()
        except BaseException as error:
            started.set_exception(error)
            return
        engine = llm.llm_engine
        with _LIVE:
            _live_engines.append(engine)
        self._max_running = engine.vllm_config.scheduler_config.max_num_seqs
        started.set_result(None)
        try:
            while self._take_work(llm):
                self._admit(engine)
                if self._owners:
                    self._absorb(engine.step())
            self._fail_all(EngineError("the engine was closed while work was under way"))
        except BaseException as error:
            # A broken step leaves the scheduler in an unknown state, so nothing of this engine can be trusted again.
            self._fail_all(error)
        finally:
            _shut_down(engine)

    def _take_work(self, llm: Any) -> bool:
        """Move calls to the backlog and run controls, in the order they came; waits while idle. False when closing."""
        while True:
            with self._changed:
                while not (self._inbox or self._closing or self._owners or self._backlog):
                    self._changed.wait()
                if self._closing:
                    return False
                item = self._inbox.popleft() if self._inbox else None
            if item is None:
                return True
            if isinstance(item, _Call):
                self._open.append(item)
                self._backlog.extend((item, index) for index in range(len(item.requests)))
                continue
            try:
                item.done.set_result(item.run(llm))
            except BaseException as error:
                item.done.set_exception(error)

    def _admit(self, engine: Any) -> None:
        """Give the engine twice what it can run at once: it stays full, and a huge call does not stall a step."""
        while self._backlog and len(self._owners) < 2 * self._max_running:
            call, index = self._backlog.popleft()
            if call.done.done():  # an earlier request of this call was refused
                continue
            token_ids, params = call.requests[index]
            request_id = str(self._num_admitted)
            self._num_admitted += 1
            try:
                engine.add_request(request_id, {"type": "token", "prompt_token_ids": list(token_ids)}, params)
            except Exception as error:
                self._refuse(engine, call, error)
            else:
                self._owners[request_id] = (call, index)

    def _refuse(self, engine: Any, call: _Call, error: Exception) -> None:
        """Fail one call because the engine would not take one of its requests; what was admitted of it is dropped."""
        admitted = [request_id for request_id, (owner, _) in self._owners.items() if owner is call]
        engine.abort_request(admitted)
        for request_id in admitted:
            del self._owners[request_id]
        refusal = EngineError(f"the engine refused a request: {error}")
        refusal.__cause__ = error
        call.done.set_exception(refusal)

    def _absorb(self, outputs: Sequence[Any]) -> None:
        self._open = [call for call in self._open if not call.done.done()]
        for call in self._open:
            call.work.mark()
        for output in outputs:
            if not output.finished or output.request_id not in self._owners:
                continue
            call, index = self._owners.pop(output.request_id)
            call.outputs[index] = output
            call.num_waiting -= 1
            if call.num_waiting == 0:
                call.done.set_result(call.outputs)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            self._death = error
            waiting: list[Future[Any]] = [item.done for item in self._inbox]
            self._inbox.clear()
        waiting += [call.done for call, _ in (*self._owners.values(), *self._backlog)]
        self._owners.clear()
        self._backlog.clear()
        for done in waiting:
            if not done.done():  # a call waits once for each of its requests
                failure = error if isinstance(error, EngineError) else EngineError(f"the engine died: {error!r}")
                failure.__cause__ = None if failure is error else error
                done.set_exception(failure)


# vLLM's shutdown also destroys the process's communication groups, which every engine in it uses.
_LIVE = threading.Lock()
_live_engines: list[Any] = []


def _shut_down(engine: Any) -> None:
    """Shut one engine down; what belongs to the whole process goes with the last one."""
    with _LIVE:
        _live_engines.remove(engine)
        client = engine.engine_core
        core = getattr(client, "engine_core", None)  # absent where the core runs in a process of its own
        if not _live_engines or core is None:
            client.shutdown()
        else:
            client._finalizer.detach()  # it would do the whole shutdown when the engine is collected
            core.structured_output_manager.clear_backend()
            core.model_executor.shutdown()
            core.scheduler.shutdown()
