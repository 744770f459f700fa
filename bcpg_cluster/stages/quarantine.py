"""Finds the samples that end their workers, and leaves those out instead of stopping the run.

A shard whose member was lost (it died, or overran its deadline) once less than ``max_attempts`` is split in half, and so are its
parts, until single units are found. Parts are a member's only lease, so a loss is theirs. A unit that ends its members as
often, alone, is left out: its rows get the status of an infrastructure failure, never a label, a reward or a zero, and it is
named. The parts are put together to the shard that would have been, and that is accepted like any other.

A broken engine must not become drops: at most a share of a stage's units is left out in a round, and when parts are lost one after
another without anything finished in between, the run stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bcpg_cluster.errors import EngineError, MostlyFailedError
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.parts import Part
from bcpg_cluster.store.faults import FaultEvent, FaultKind

LEAST_LEFT_OUT = 4
"""Units of a stage that may be left out in a round, however small the share; none where the share is 0."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of a member: a shard, a part of it, or putting its parts together. See :class:`.job.StageJob`."""

    stage: StageSpec
    shard: int
    part: Part | None = None
    given_up: str = ""
    parts: tuple[Receipt, ...] = field(default=(), compare=False)

    @property
    def is_suspect(self) -> bool:
        """Whether its member is to have nothing else."""
        return self.part is not None and not self.given_up

    def label(self, round_: int) -> str:
        """For people, unique among what is under way."""
        part = self.part
        units = "" if part is None else f" part {part.start}..{part.end - 1} of {part.num_in_shard}"
        return f"{self.stage.name} round {round_} shard {self.shard}{units}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A unit that was left out."""

    stage: str
    name: str
    cause: str


class Quarantine:
    """The searches of one round. Told of every loss and every receipt, by the thread that drives the pools.

    Args:
        max_share: of a stage's units, that may be left out; 0 never splits a shard.
        max_attempts: by pool.
        inputs: the accepted receipts of a table, by shard.
        name_of: what a unit is called: of a task whose part is one unit.
        submit: queues a task.
        tell: hears of splits and of what was left out.
    """

    def __init__(
        self,
        round_: int,
        *,
        max_share: float,
        max_attempts: Callable[[str], int],
        inputs: Callable[[str], Mapping[int, Receipt]],
        name_of: Callable[[Task], str],
        submit: Callable[[Task], object],
        tell: Callable[[FaultEvent], object],
    ) -> None:
        self._round, self._max_share, self._max_attempts = round_, max_share, max_attempts
        self._inputs, self._name_of, self._submit, self._tell = inputs, name_of, submit, tell
        self._losses: Counter[Task] = Counter()
        self._found: dict[Task, dict[Part, Receipt | None]] = {}  # by whole shard: its parts, and those that are done
        self._lost_in_a_row: Counter[str] = Counter()
        self._left_out: list[LeftOut] = []

    def lost(self, task: Task, why: str) -> bool:
        """A member was lost under a task. Whether it was dealt with here; if not, it is to be tried again as it is.

        Raises:
            EngineError: nothing but losses.
            MostlyFailedError: more would have to be left out than may be.
        """
        patience = self._max_attempts(task.stage.pool) - 1
        if not self._can_split(task, patience):
            return False
        self._losses[task] += 1
        if task.part is None:
            if self._losses[task] < patience:
                return False
            whole = Part(0, self._num_units(task), self._num_units(task))
            self._split(task, whole, why)
            return True
        self._check_that_any_finish(task, why)
        if task.part.num_units > 1:
            self._split(task, task.part, why)
            return True
        if self._losses[task] < patience:
            return False
        self._leave_out(task, why)
        return True

    def done(self, task: Task, receipt: Receipt) -> bool:
        """A task is finished. Whether its receipt is a shard's, to be accepted."""
        self._lost_in_a_row[task.stage.name] = 0
        if task.part is None:
            return True
        whole = Task(task.stage, task.shard)
        found = self._found[whole]
        found[task.part] = receipt
        receipts = [found[part] for part in sorted(found, key=lambda part: part.start)]
        there = tuple(each for each in receipts if each is not None)
        if len(there) == len(receipts):
            del self._found[whole]
            self._submit(replace(whole, parts=there))
        return False

    def forget_searches(self) -> None:
        """Begin anew: inputs were made again, and no task is under way. What was left out stays counted."""
        self._losses.clear()
        self._found.clear()
        self._lost_in_a_row.clear()

    def _can_split(self, task: Task, patience: int) -> bool:
        is_asked = self._max_share > 0 and patience > 0 and not task.given_up and not task.parts
        return is_asked and task.stage.units is not None and self._num_units(task) > 0

    def _num_units(self, task: Task) -> int:
        return _num_units(self._inputs(task.stage.units or "")[task.shard])

    def _split(self, task: Task, part: Part, why: str) -> None:
        parts = part.halves()
        found = self._found.setdefault(Task(task.stage, task.shard), {})
        found.pop(part, None)
        for half in parts:
            found[half] = None
        then = "worked on in parts, each alone on a member"
        self._tell(FaultEvent(FaultKind.SPLIT, task.label(self._round), why, then, self._round, task.stage.pool))
        for half in parts:
            self._submit(Task(task.stage, task.shard, half))

    def _leave_out(self, task: Task, why: str) -> None:
        """Give a unit up, if it may be."""
        name = f"{self._name_of(task)} in {task.stage.name}"
        if all(each.name != name for each in self._left_out):  # a search that began anew may find it once more
            self._left_out.append(LeftOut(task.stage.name, name, why))
        of_stage = [each for each in self._left_out if each.stage == task.stage.name]
        num_units = sum(_num_units(receipt) for receipt in self._inputs(task.stage.units or "").values())
        most = max(LEAST_LEFT_OUT, int(self._max_share * num_units))
        if len(of_stage) > most:
            raise _too_many(self._round, of_stage, most, self._max_share)
        then = "left out, with the status of an infrastructure failure; the rest of its shard continues"
        self._tell(FaultEvent(FaultKind.QUARANTINED, name, why, then, self._round, task.stage.pool))
        self._submit(replace(task, given_up=f"left out, since it ended its workers: {why}"))

    def _check_that_any_finish(self, task: Task, why: str) -> None:
        stage, pool = task.stage.name, task.stage.pool
        self._lost_in_a_row[stage] += 1
        most = 2 * self._max_attempts(pool)
        if self._lost_in_a_row[stage] >= most:
            raise EngineError(
                f"pool {pool}: {most} members in a row were lost under parts of {stage}, and nothing of it was finished in "
                f"between: that is not one sample's doing; the last time: {why}"
            )


def _num_units(receipt: Receipt) -> int:
    """Of a shard of prompts (which counts none in its metrics), of samples, or of the steps of samples."""
    return int(receipt.metrics.get("samples", receipt.num_rows))


def _too_many(round_: int, left_out: Sequence[LeftOut], most: int, share: float) -> MostlyFailedError:
    lines = "".join(f"\n    {each.name}: {each.cause.strip().splitlines()[0][:200]}" for each in left_out)
    return MostlyFailedError(
        f"round {round_}: {len(left_out)} samples or prompts ended their workers again and again{lines}",
        rule=f"at most {most} of a stage are left out in a round (max_quarantined_share {share:g}, and at least "
        f"{LEAST_LEFT_OUT})",
        remedy="mend what ends the workers (`bcpg-cluster status --events` has every loss) and run the same command again; or "
        "raise max_quarantined_share",
    )
