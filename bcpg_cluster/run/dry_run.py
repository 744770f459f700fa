"""`iterate --dry-run`: a round on two problems through a run's real parts, in a directory that is thrown away.

Everything is as in the run but the numbers: two problems, few responses, one optimiser step, one push with its proof. Where all
responses to a problem got the same reward there would be nothing to train on, so two of them are given another one, after the
real verifier was asked.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.runtime import Member, MemberSpec, Runtime
from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ClusterLostError, Interrupted
from bcpg_cluster.records import OutcomeStatus
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.build.members import host_cpu
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.entry import no_main_to_import
from bcpg_cluster.run.launch import launch
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.stages.graph import evaluation_stages
from bcpg_cluster.stages.job import Stage, StageJob, StageResult, StageWorker, Tables
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.mark import RunMark
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.rows import Row
from bcpg_cluster.watch.observer import Observer

NUM_PROMPTS, MOST_RESPONSES = 2, 4


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of a run did.

    Attributes:
        work: in words.
        seconds: of the dry run.
        round_seconds: of a whole round, if it takes as long for each piece of work as here.
    """

    name: str
    work: str
    seconds: float
    round_seconds: float


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run found.

    Attributes:
        start_seconds: until all engines had started, once a start of the run (colocated pools: once a round).
        cost: of a whole round at the judges' endpoints; ``None`` without prices.
        report: of the round on two problems.
    """

    parts: tuple[Part, ...]
    start_seconds: float
    cost: float | None
    report: RoundReport

    @property
    def round_seconds(self) -> float:
        """An upper bound of a whole round: engines answer larger batches faster, and stages overlap."""
        return sum(part.round_seconds for part in self.parts)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        parts = [
            {"name": p.name, "work": p.work, "seconds": p.seconds, "round_seconds": p.round_seconds} for p in self.parts
        ]
        return {
            "parts": parts,
            "start_seconds": self.start_seconds,
            "round_seconds": self.round_seconds,
            "round_cost": self.cost,
            "report": self.report.plain(),
        }


def small_config(config: Config) -> Config:
    """The config of the dry run: the same parts, one member of each, and as little work as makes all of them work."""
    group = min(config.generate.group_size, MOST_RESPONSES)
    changes = [
        f"prompts.per_round={NUM_PROMPTS}",
        f"generate.group_size={group}",
        f"generate.prompts_per_shard={NUM_PROMPTS}",
        f"evaluate.num_prompts={NUM_PROMPTS}",
        "evaluate.num_samples=1",
        f"evaluate.prompts_per_shard={NUM_PROMPTS}",
        "prompts.more_tests={}",
        f"train.batch_sequences={NUM_PROMPTS * group}",
        "train.epochs=1",
        f"push.num_canaries={min(config.push.num_canaries, NUM_PROMPTS)}",
        "tracking={}",
    ]
    for name in config.pools:
        if name != "trainer":
            changes += [f"pools.{name}.{key}={1 if key == 'members' else 'null'}" for key in _SIZES]
    return change_config(config.model_dump(mode="json"), changes, "the dry run's config")


_SIZES = ("members", "min", "max", "target_queue_per_actor")


def dry_run(
    config: Config,
    beside: Path,
    observer: Observer,
    *,
    address: str | None = None,
    inline: bool = False,
    stop_asked: Callable[[], bool] = lambda: False,
    say: Callable[[str], object] = lambda text: None,
    on_lost: Callable[[ClusterLostError], None] = lambda error: None,
) -> DryRun:
    """Check the whole config, then do the small round.

    Args:
        beside: where runs live; the throw-away directory is made there, since all nodes see it.

    Raises:
        BcpgError: what would have ended the run.
    """
    with no_main_to_import():
        prompts = preflight(config)
    small = small_config(config)
    is_new = not beside.exists()
    beside.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=".dry-run-", dir=beside)).absolute()
    started = time.monotonic()
    try:
        runtime, placed = launch(small, directory, address, inline=inline, say=say, on_lost=on_lost)
        try:
            with open_run(directory, small) as manifest:
                coordinator = build_coordinator(
                    placed, manifest, _UnevenRewards(runtime), observer, stop_asked, prompts
                )
                report = coordinator.run(1)[1]
                took = {**_work_seconds(config, manifest.state), **_own_seconds(report)}
        except KeyboardInterrupt:
            raise Interrupted("the dry run was stopped") from None
        finally:
            runtime.shutdown()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # another run has begun there
                beside.rmdir()
    parts = parts_of(config, report, took, len(prompts.measured(config.evaluate.num_prompts)["test"]))
    at_work = sum(part.seconds * (2 if "evaluat" in part.name else 1) for part in parts)  # the base is measured too
    return DryRun(
        parts,
        max(time.monotonic() - started - at_work, 0.0),
        _round_cost(config, report),
        report,
    )


def _work_seconds(config: Config, state: ManifestState) -> dict[str, float]:
    """Seconds at work of each map stage: of its one shard."""
    stages = (*config.data_stages, *evaluation_stages())
    return {stage.name: sum(receipt.seconds for receipt in state.receipts(1, stage.output)) for stage in stages}


def _own_seconds(report: RoundReport) -> dict[str, float]:
    return {name: report.seconds[name] for name in ("train", "push", "proof") if name in report.seconds}


def parts_of(config: Config, report: RoundReport, took: Mapping[str, float], num_test: int) -> tuple[Part, ...]:
    """What each part took, and what it would take for a whole round, piece by piece.

    Args:
        took: seconds of the dry run, by part.
        num_test: problems that a round is measured on.
    """
    group = min(config.generate.group_size, MOST_RESPONSES)
    samples = NUM_PROMPTS * group
    more = config.prompts.per_round * config.generate.group_size / samples
    steps = report.train.steps if report.train is not None else 0.0
    rows = report.samples.kept if report.samples is not None else 0
    all_steps = -(-config.prompts.per_round * config.generate.group_size // config.train.batch_sequences)
    step_rows = config.train.batch_sequences / rows if rows else 1.0
    measured = num_test * (config.evaluate.num_samples + config.evaluate.greedy)
    answers = NUM_PROMPTS * (1 + config.evaluate.greedy)
    rollout, cpu = (config.pool(name).members for name in ("rollout", "cpu"))
    scales: dict[str, tuple[str, float]] = {
        "generate": (f"{samples} responses", more / rollout),
        "verify": (f"{samples} rewards", more / cpu),
        "segment": ("wrong responses cut", more / config.pool(config.segment_pool).members),
    }
    for name in config.judges:
        totals = report.verdicts.get(f"judge.{name}", {})
        calls, not_made = totals.get("judge.calls"), totals.get("judge.calls.not_made")
        work = f"{calls:g} calls" if calls else "verdicts"
        work += f", {not_made:g} not needed" if not_made else ""
        scales[f"judge.{name}"] = (work, more / config.pool(config.judge_pool(name)).members)
    scales |= {
        "weigh": ("weights", more / cpu),
        "train": (f"{steps:g} optimiser step on {rows} responses", all_steps * config.train.epochs * step_rows),
        "push": (_push_words(report), 1.0),
        "proof": (f"canaries {report.push.canaries}" if report.push else "-", 1.0),
        "evaluate": (f"{answers} responses", measured / answers / rollout),
        "verify_evaluation": (f"{answers} rewards", measured / answers / cpu),
    }
    return tuple(
        Part(name, work, took[name], took[name] * scale) for name, (work, scale) in scales.items() if name in took
    )


def _push_words(report: RoundReport) -> str:
    return f"{report.push.method} to {report.push.num_members} engines" if report.push is not None else "-"


def _round_cost(config: Config, report: RoundReport) -> float | None:
    costs = [metrics["judge.cost"] for metrics in report.verdicts.values() if "judge.cost" in metrics]
    group = min(config.generate.group_size, MOST_RESPONSES)
    more = config.prompts.per_round * config.generate.group_size / (NUM_PROMPTS * group)
    return sum(costs) * more if costs else None


class _UnevenRewards:
    """A runtime whose members of the cpu pool see to it that there is something to train on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self, spec: MemberSpec) -> Member:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        if spec.factory is host_cpu:
            spec = replace(spec, factory=host_uneven_cpu)
        return self._runtime.start(spec)

    def members_must_see(self, mark: RunMark) -> None:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        self._runtime.members_must_see(mark)

    def shutdown(self) -> None:
        """See :class:`bcpg_cluster.cluster.runtime.Runtime`."""
        self._runtime.shutdown()


def host_uneven_cpu(config: Mapping[str, Any]) -> StageWorker:
    """A member of the cpu pool whose ``verify`` leaves no group with one reward for all."""
    worker = host_cpu(config)
    worker.replace_stage("verify", _uneven)
    return worker


def _uneven(verify: Stage) -> Stage:
    def verified(tables: Tables, job: StageJob) -> StageResult:
        result = verify(tables, job)
        return replace(result, rows=uneven_rewards(result.rows))

    return verified


def uneven_rewards(rows: list[Row]) -> list[Row]:
    """Outcomes in which every problem has a right and a wrong response: the first two are made so where they are not."""
    by_prompt: dict[Any, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(dict(row))
    for group in by_prompt.values():
        rewards = {row["reward"] for row in group if row["reward"] is not None}
        if not {0.0, 1.0} <= rewards and len(group) > 1:
            for row, reward in zip(group, (1.0, 0.0), strict=False):
                row.update(status=str(OutcomeStatus.VERIFIED), reward=reward)
    return [row for group in by_prompt.values() for row in group]


def place_of(directory: RunPath) -> Path:
    """Where a run's throw-away directory is made: beside the run, or here for one in an object store."""
    return directory.absolute().parent if isinstance(directory, Path) else Path("runs").absolute()
