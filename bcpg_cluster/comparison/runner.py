"""Trains many arms on the same offline data and measures them alike.

    data/seed-0 ... : the start measured, one round of data up to the verdicts; sealed once a seed
    tuning/         : the same for a seed of its own, and every method's grid on it, measured on the validation split
    arms/<arm>/seed-<k>: an ordinary run directory that adopts the sealed tables of data/seed-<k>, weighs them its own way,
                      trains, pushes, is measured; further rounds generate their own data

All of it is runs (``bcpg-cluster status`` and ``inspect`` read them), on one set of members that is started once. What is
done is not done again. Where the pools are separate, one run trains while another uses the other pools (``interleave``).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bcpg_cluster.comparison.adopt import adopt_tables
from bcpg_cluster.comparison.interleave import interleave
from bcpg_cluster.comparison.setup import (
    Arm,
    Setup,
    Tuned,
    arm_config,
    changed,
    mark_directory,
    split_validation,
    write_json,
)
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, Interrupted, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.prompts.files import write_prompts
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.assembly import coordinator_over
from bcpg_cluster.run.build.workforce import Workforce
from bcpg_cluster.run.directory import load_run_config, open_run
from bcpg_cluster.run.preflight.prompt_digests import check_prompts, hold_prompts
from bcpg_cluster.run.snapshots import drop_torn_snapshots
from bcpg_cluster.run.steps import Steps, alone
from bcpg_cluster.stages.graph import evaluation_stages
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.observer import Observer, OneAtATime
from bcpg_cluster.watch.report.comparison_report import START, ArmResult

_DIVERGED = "diverged.json"  # in an arm's directory


@dataclass(frozen=True, slots=True)
class _Data:
    """An offline set: where it lies, and the configuration and prompts it is made with."""

    directory: Path
    config: Config
    prompts: PromptSets


@dataclass(frozen=True, slots=True)
class _Job:
    """One arm on one offline set."""

    arm: Arm
    config: Config
    directory: Path
    data: _Data


class Comparison:
    """Drives the arms of one comparison directory.

    Args:
        say: told one line for every finished piece.
        one_at_a_time: finish an arm before the next one begins, also where pools are separate. The results are the same.
        may_begin: asked before each arm; once it says no, those under way are finished and :class:`Interrupted` is raised.

    Raises:
        RunDirectoryError: the directory was made with another configuration, grid or validation split.
        DataError: too few prompts.
    """

    def __init__(
        self,
        directory: Path,
        setup: Setup,
        workforce: Workforce,
        observer: Observer,
        stop_asked: Callable[[], bool],
        say: Callable[[str], None],
        *,
        one_at_a_time: bool = False,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._directory, self._setup = directory.absolute(), setup
        self._workforce, self._stop_asked, self._say = workforce, stop_asked, say
        self._observer = OneAtATime(observer)
        self._is_interleaved = not (one_at_a_time or workforce.turns.is_colocated)
        self._may_begin, self._is_out_of_time = may_begin, False
        self._tuned: dict[str, Tuned] = {}
        self._collected: set[Path] = set()  # checked in this process, and good
        mark_directory(self._directory, setup)
        train, validation = split_validation(setup.prompts.train, setup.validation_prompts)
        # As files too: an arm is an ordinary run, and its configuration names what it was trained and measured on.
        folder = self._directory / "prompts"
        train_file = write_prompts(folder / "train.jsonl", train)
        self._base = changed(setup.config, [f"prompts.train={train_file}"], "the comparison's configuration")
        self._measured = PromptSets(train, setup.prompts.test, setup.prompts.more_tests)
        test_file = write_prompts(folder / "validation.jsonl", validation)
        tuning = [f"seed={setup.tuning_seed}", f"prompts.test={test_file}", "prompts.more_tests={}"]
        self._tuning = _Data(
            self._directory / "tuning" / "data",
            changed(self._base, tuning, "the tuning configuration"),
            PromptSets(train, validation),
        )

    # --- shared data

    def collect(self, seed: int) -> None:
        """Have the data of a measured seed."""
        self._collect(self._data(seed))

    def start(self, seed: int) -> ArmResult:
        """The untrained policy as a seed's data run measured it."""
        self.collect(seed)
        return ArmResult(START, seed, 0, "finished", None, read_manifest(self._data(seed).directory).reports[0])

    def _data(self, seed: int) -> _Data:
        directory = self._directory / "data" / f"seed-{seed}"
        return _Data(directory, changed(self._base, [f"seed={seed}"], str(directory)), self._measured)

    def _collect(self, data: _Data) -> None:
        if data.directory in self._collected:
            return
        state = read_manifest(data.directory)
        check_prompts(data.directory, state, data.config, data.prompts)
        verdicts = self._shared_tables()[1:]  # prompts are written by the coordinator and never sealed
        if 0 not in state.reports or any((1, table) not in state.sealed for table in verdicts):
            with open_run(data.directory, data.config) as manifest:
                hold_prompts(manifest, data.config, data.prompts)
                coordinator_over(
                    self._workforce, data.config, manifest, self._observer, self._stop_asked, data.prompts
                ).collect()
            self._say(f"{data.directory.relative_to(self._directory)}: the offline set is ready")
        _check_has_mixed_groups(data.directory)
        self._collected.add(data.directory)

    def _shared_tables(self) -> list[str]:
        config = self._base
        stages = config.data_stages
        return ["prompts", *(stage.output for stage in stages if stage.name != "weigh")]

    # --- arms

    def run(self, arm: Arm, seed: int) -> list[ArmResult]:
        """Train and measure an arm on a seed's data; its results by round, from 1."""
        return next(iter(self.runs([(arm, seed)])))

    def runs(self, pairs: Iterable[tuple[Arm, int]]) -> Iterator[list[ArmResult]]:
        """Train and measure arms, each on a seed's data; the results by round of each, as they end.

        Raises:
            Interrupted: a stop was asked for, or no further arm may begin.
        """
        yield from (results for _, results in self._drive(self._job(arm, seed) for arm, seed in pairs))

    def by_seed(self, arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[list[ArmResult]]:
        """The start's and all arms' results on each seed, in the order given, as soon as a seed has them all."""
        found: dict[int, dict[str, list[ArmResult]]] = {seed: {} for seed in seeds}
        missing = deque(seeds)
        for results in self.runs((arm, seed) for seed in seeds for arm in arms):
            found[results[0].seed][results[0].arm] = results
            while missing and len(found[missing[0]]) == len(arms):
                seed = missing.popleft()
                yield [self.start(seed), *(result for arm in arms for result in found[seed][arm.name])]

    def _job(self, arm: Arm, seed: int) -> _Job:
        tuned = None if arm.tuned_as is None else self._tuned[arm.tuned_as]
        directory = self._directory / "arms" / arm.name / f"seed-{seed}"
        return _Job(arm, arm_config(self._base, arm, seed, tuned), directory, self._data(seed))

    def _drive(self, jobs: Iterable[_Job]) -> Iterator[tuple[_Job, list[ArmResult]]]:
        """Do the jobs, and say what came of each as it ends."""
        runs = (self._steps(job) for job in self._permitted(jobs))
        yield from interleave(runs, self._workforce) if self._is_interleaved else map(alone, runs)
        if self._is_out_of_time:
            raise Interrupted("no further arm was begun; what was finished is kept")

    def _permitted(self, jobs: Iterable[_Job]) -> Iterator[_Job]:
        for job in jobs:
            if not self._may_begin():
                self._is_out_of_time = True
                return
            yield job

    def _steps(self, job: _Job) -> Steps[tuple[_Job, list[ArmResult]]]:
        """A job and its results by round, from 1; trained and measured now unless that is done."""
        self._collect(job.data)
        diverged = job.directory / _DIVERGED
        if not diverged.exists() and job.arm.rounds not in read_manifest(job.directory).reports:
            try:
                yield from self._train(job)
            except TrainingDivergedError as error:
                write_json(diverged, {"why": str(error)})
            self._say(f"{job.directory.relative_to(self._directory)}: {_line(read_manifest(job.directory).reports)}")
        elif load_run_config(job.directory).identity != job.config.identity:
            raise RunDirectoryError(
                f"{job.directory} was made with other settings than {job.arm.name} has now",
                rule="an arm keeps the settings it was made with",
                remedy="give another --run-dir, or move the arm's directory away",
            )
        return job, _results(job)

    def _train(self, job: _Job) -> Steps[None]:
        config, shared = job.config, read_manifest(job.data.directory)
        with open_run(job.directory, config) as manifest:
            hold_prompts(manifest, config, job.data.prompts)
            drop_torn_snapshots(job.directory, manifest)
            num_shards = -(-config.prompts.per_round // config.generate.prompts_per_shard)
            adopt_tables(job.data.directory, shared, manifest, 1, self._shared_tables(), num_shards)
            measured = ["eval_prompts", *(stage.output for stage in evaluation_stages())]
            num_measured = len(shared.receipts(0, "eval_prompts"))
            adopt_tables(job.data.directory, shared, manifest, 0, measured, num_measured)
            if 0 not in manifest.state.reports:
                manifest.add_report(shared.reports[0])
            yield from coordinator_over(
                self._workforce, config, manifest, self._observer, self._stop_asked, job.data.prompts
            ).steps(job.arm.rounds)

    # --- learning rates and epochs

    def tune(self, *arms: Arm) -> dict[str, Tuned]:
        """Choose methods' learning rates and epochs: the best sampled accuracy on the validation split; among equals the lower
        rate, then the fewer epochs.

        Every method gets the same grid, the same data (one round, of the tuning seed) and the same measure. What diverges
        loses.
        """
        grid = self._setup.grid
        if len(grid) == 1:
            self._tuned |= {arm.name: grid[0] for arm in arms}
            return {arm.name: grid[0] for arm in arms}
        found: dict[str, dict[Tuned, ArmResult]] = {arm.name: {} for arm in arms}
        for job, results in self._drive(self._trial(arm, tuned) for arm in arms for tuned in grid):
            of_arm, train = found[job.arm.name], job.config.train
            of_arm[Tuned(train.learning_rate, train.epochs)] = results[-1]
            if len(of_arm) == len(grid):
                self._choose(job.arm.name, [(tuned, of_arm[tuned]) for tuned in grid])
        return {arm.name: self._tuned[arm.name] for arm in arms}

    def take(self, method: str, tuned: Tuned) -> None:
        """Have a method train with what was chosen for it before, elsewhere."""
        self._tuned[method] = tuned

    def _trial(self, arm: Arm, tuned: Tuned) -> _Job:
        name = f"rate-{tuned.learning_rate:g}"
        if tuned.epochs != self._base.train.epochs:
            name += f"-epochs-{tuned.epochs}"
        arm = replace(arm, rounds=1)
        config = arm_config(self._tuning.config, arm, self._setup.tuning_seed, tuned)
        return _Job(arm, config, self._directory / "tuning" / arm.name / name, self._tuning)

    def _choose(self, method: str, tried: Sequence[tuple[Tuned, ArmResult]]) -> None:
        """Take the best of what was tried (in the order of the grid, so that the first of equals wins), and write down why."""

        def sampled(trial: tuple[Tuned, ArmResult]) -> float:
            report = trial[1].report
            return -1.0 if report is None or report.accuracy is None else report.accuracy

        best = max(tried, key=sampled)[0]
        self._tuned[method] = best
        validation = [
            {
                "learning_rate": tuned.learning_rate,
                "epochs": tuned.epochs,
                "sampled": None if result.report is None else result.report.accuracy,
                "greedy": None if result.report is None else result.report.accuracy_greedy,
            }
            for tuned, result in tried
        ]
        chosen = {"learning_rate": best.learning_rate, "epochs": best.epochs, "validation": validation}
        write_json(self._directory / "tuning" / method / "chosen.json", chosen)
        shown = ", ".join(f"{tuned}: {_accuracies(result.report)}" for tuned, result in tried)
        self._say(f"learning rate x epochs of {method}: {best} (validation, sampled / greedy: {shown})")


def _check_has_mixed_groups(directory: Path) -> None:
    """Raises :class:`DataError` for an offline set that no method can learn from."""
    state = read_manifest(directory)
    if not sum(receipt.num_rows for receipt in state.receipts(1, "steps")):
        accuracy = state.reports[0].accuracy
        raise DataError(
            f"{directory}: no prompt has both right and wrong answers"
            + (
                "" if accuracy is None else f" (the start model is right on {100 * accuracy:.1f} % of the test samples)"
            ),
            rule="every method learns from groups with right and wrong answers",
            remedy="use easier or harder prompts, more of them (prompts.per_round), or larger groups",
        )


def _results(job: _Job) -> list[ArmResult]:
    """What a finished job's directory says, by round."""
    reports, train = read_manifest(job.directory).reports, job.config.train
    rounds = range(1, job.arm.rounds + 1)

    def result(round_: int, status: Literal["finished", "stopped_early", "diverged"], why: str = "") -> ArmResult:
        name, seed, report = job.arm.name, job.config.seed, reports.get(round_)
        return ArmResult(name, seed, round_, status, train.learning_rate, report, why, train.epochs)

    def ended(report: RoundReport) -> Literal["finished", "stopped_early"]:
        return "stopped_early" if report.train is not None and report.train.stopped_early else "finished"

    results = [result(round_, ended(reports[round_])) for round_ in rounds if round_ in reports]
    diverged = job.directory / _DIVERGED
    if diverged.exists():
        why = json.loads(diverged.read_text())["why"]
        results += [result(round_, "diverged", why) for round_ in rounds if round_ not in reports]
    return results


def _accuracies(report: RoundReport | None) -> str:
    """Sampled and greedy, in percent."""
    if report is None:
        return "diverged"
    values = (report.accuracy, report.accuracy_greedy)
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in values)


def _line(reports: dict[int, RoundReport]) -> str:
    return "; ".join(f"v{round_} {_accuracies(report)}" for round_, report in sorted(reports.items()))
