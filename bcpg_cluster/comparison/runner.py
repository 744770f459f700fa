"""Trains many arms on the same offline data and measures them alike.

    data/seed-0 ... : the start measured, one round of data up to the verdicts; sealed once a seed
    tuning/         : the same for a seed of its own, and every method's learning rates on it, measured on the validation split
    arms/<arm>/seed-<k>: an ordinary run directory that adopts the sealed tables of data/seed-<k>, weighs them its own way,
                      trains, pushes, is measured; further rounds generate their own data

All of it is runs (``bcpg-cluster status`` and ``inspect`` read them), on one set of members that is started once. What is
done is not done again.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bcpg_cluster.comparison.adopt import adopt_tables
from bcpg_cluster.config.changes import deciding_changes
from bcpg_cluster.config.identity import marks_at
from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.prompts.files import write_prompts
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.assembly import coordinator_over
from bcpg_cluster.run.build.workforce import Workforce
from bcpg_cluster.run.directory import check_place, load_run_config, open_run
from bcpg_cluster.run.prompt_digests import check_prompts, hold_prompts
from bcpg_cluster.run.snapshots import drop_torn_snapshots
from bcpg_cluster.stages.graph import data_stages, evaluation_stages
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.whole_files import write_whole
from bcpg_cluster.watch.observer import Observer
from bcpg_cluster.watch.report.comparison_report import START, ArmResult

_ASKED = "asked.json"
_DIVERGED = "diverged.json"  # in an arm's directory


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train on the shared data.

    Attributes:
        name: of its directory.
        settings: overrides of the base configuration: ``objective``, ``weigh.*``, ``train.*``, judges' roles and thresholds.
        rate_of: the method whose tuned learning rate it trains with; ``None`` keeps the configuration's.
        rounds: rounds to run; from the second on it draws its own data.
        data_share: share of the offline set's shards it may use, rounded up to whole shards.
    """

    name: str
    settings: tuple[str, ...]
    rate_of: str | None = None
    rounds: int = 1
    data_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a comparison is made with; all but the seeds and arms is fixed by its directory.

    Attributes:
        learning_rates: the grid every method is tuned on; a single one is taken as it is.
        validation_prompts: how many prompts are held out of the train file for tuning.
        tuning_seed: of the data the learning rates are tuned on; not one of the measured seeds.
    """

    config: Config
    prompts: PromptSets
    learning_rates: tuple[float, ...]
    validation_prompts: int
    tuning_seed: int


def split_validation(train: Sequence[Prompt], number: int) -> tuple[list[Prompt], list[Prompt]]:
    """Train prompts without the validation split, and the split: the same for every seed.

    Raises:
        DataError: nothing would be left to train on.
    """
    if not 0 <= number < len(train):
        raise DataError(
            f"{number} validation prompts of {len(train)} train prompts",
            rule="the validation split is held out of prompts.train, and some prompts must be left to train on",
            remedy="lower --validation-prompts or give a larger train file",
        )
    held_out = set(random.Random(0).sample(range(len(train)), number))
    return (
        [prompt for index, prompt in enumerate(train) if index not in held_out],
        [prompt for index, prompt in enumerate(train) if index in held_out],
    )


class Comparison:
    """Drives the arms of one comparison directory.

    Args:
        say: told one line for every finished piece.

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
    ) -> None:
        self._directory, self._setup = directory.absolute(), setup
        self._workforce, self._observer, self._stop_asked, self._say = workforce, observer, stop_asked, say
        self._rates: dict[str, float] = {}
        self._collected: set[Path] = set()  # checked in this process, and good
        check_directory(directory, setup)
        _write_json(self._directory / _ASKED, _asked(setup))
        train, validation = split_validation(setup.prompts.train, setup.validation_prompts)
        self._measured = PromptSets(train, setup.prompts.test, setup.prompts.more_tests)
        self._tuning = PromptSets(train, validation)
        # As files too: an arm is an ordinary run, and its configuration names what it was trained and measured on.
        folder = self._directory / "prompts"
        train_file = write_prompts(folder / "train.jsonl", train)
        self._base = _changed(setup.config, [f"prompts.train={train_file}"], "the comparison's configuration")
        test_file = write_prompts(folder / "validation.jsonl", validation)
        self._tuning_base = _changed(
            self._base, [f"prompts.test={test_file}", "prompts.more_tests={}"], "the tuning configuration"
        )

    # --- shared data

    def collect(self, seed: int) -> None:
        """Have the data of a measured seed."""
        self._collect(self._data_dir(seed), self._base, seed, self._measured)

    def start(self, seed: int) -> ArmResult:
        """The untrained policy as a seed's data run measured it."""
        self.collect(seed)
        return ArmResult(START, seed, 0, "finished", None, read_manifest(self._data_dir(seed)).reports[0])

    def _data_dir(self, seed: int) -> Path:
        return self._directory / "data" / f"seed-{seed}"

    def _collect(self, directory: Path, base: Config, seed: int, prompts: PromptSets) -> None:
        if directory in self._collected:
            return
        config = _changed(base, [f"seed={seed}"], str(directory))
        state = read_manifest(directory)
        check_prompts(directory, state, config, prompts)
        verdicts = self._shared_tables()[1:]  # prompts are written by the coordinator and never sealed
        if 0 not in state.reports or any((1, table) not in state.sealed for table in verdicts):
            with open_run(directory, config) as manifest:
                hold_prompts(manifest, config, prompts)
                coordinator_over(self._workforce, config, manifest, self._observer, self._stop_asked, prompts).collect()
            self._say(f"{directory.relative_to(self._directory)}: the offline set is ready")
        _check_has_mixed_groups(directory)
        self._collected.add(directory)

    def _shared_tables(self) -> list[str]:
        config = self._base
        stages = data_stages({judge: config.judge_pool(judge) for judge in config.judges})
        return ["prompts", *(stage.output for stage in stages if stage.name != "weigh")]

    # --- arms

    def run(self, arm: Arm, seed: int) -> list[ArmResult]:
        """Train and measure an arm on a seed's data; its results by round, from 1."""
        self.collect(seed)
        rate = None if arm.rate_of is None else self._rates[arm.rate_of]
        directory = self._directory / "arms" / arm.name / f"seed-{seed}"
        config = arm_config(self._base, arm, seed, rate)
        return self._run(arm, config, directory, self._data_dir(seed), self._measured)

    def _run(self, arm: Arm, config: Config, directory: Path, data_dir: Path, prompts: PromptSets) -> list[ArmResult]:
        """An arm's results by round, from 1; trained and measured now unless that is done."""
        diverged = directory / _DIVERGED
        reports = read_manifest(directory).reports
        if not diverged.exists() and arm.rounds not in reports:
            try:
                self._train(arm, config, directory, data_dir, prompts)
            except TrainingDivergedError as error:
                _write_json(diverged, {"why": str(error)})
            reports = read_manifest(directory).reports
            self._say(f"{directory.relative_to(self._directory)}: {_line(reports)}")
        elif load_run_config(directory).identity != config.identity:
            raise RunDirectoryError(
                f"{directory} was made with other settings than {arm.name} has now",
                rule="an arm keeps the settings it was made with",
                remedy="give another --run-dir, or move the arm's directory away",
            )
        rounds = range(1, arm.rounds + 1)
        results = [_result(arm, config, round_, reports[round_]) for round_ in rounds if round_ in reports]
        if diverged.exists():
            why, rate = json.loads(diverged.read_text())["why"], config.train.learning_rate
            lost = [round_ for round_ in rounds if round_ not in reports]
            results += [ArmResult(arm.name, config.seed, round_, "diverged", rate, None, why) for round_ in lost]
        return results

    def _train(self, arm: Arm, config: Config, directory: Path, data_dir: Path, prompts: PromptSets) -> None:
        shared = read_manifest(data_dir)
        with open_run(directory, config) as manifest:
            hold_prompts(manifest, config, prompts)
            drop_torn_snapshots(directory, manifest)
            num_shards = -(-config.prompts.per_round // config.generate.prompts_per_shard)
            adopt_tables(data_dir, shared, manifest, 1, self._shared_tables(), num_shards)
            measured = ["eval_prompts", *(stage.output for stage in evaluation_stages())]
            adopt_tables(data_dir, shared, manifest, 0, measured, len(shared.receipts(0, "eval_prompts")))
            if 0 not in manifest.state.reports:
                manifest.add_report(shared.reports[0])
            coordinator_over(self._workforce, config, manifest, self._observer, self._stop_asked, prompts).run(
                arm.rounds
            )

    # --- learning rates

    def tune(self, arm: Arm) -> float:
        """Choose a method's learning rate: the best sampled accuracy on the validation split, the lower one of equals.

        Every method gets the same grid, the same data (one round, of the tuning seed) and the same measure. A rate that
        diverges loses.
        """
        arm = replace(arm, rounds=1)
        rates = sorted(self._setup.learning_rates)
        if len(rates) == 1:
            self._rates[arm.name] = rates[0]
            return rates[0]
        data_dir = self._directory / "tuning" / "data"
        self._collect(data_dir, self._tuning_base, self._setup.tuning_seed, self._tuning)
        found: dict[float, float | None] = {}
        for rate in rates:
            directory = self._directory / "tuning" / arm.name / f"rate-{rate:g}"
            config = arm_config(self._tuning_base, arm, self._setup.tuning_seed, rate)
            last = self._run(arm, config, directory, data_dir, self._tuning)[-1]
            found[rate] = None if last.report is None else last.report.accuracy
        best = max(rates, key=lambda rate: (-1.0 if (score := found[rate]) is None else score, -rate))
        self._rates[arm.name] = best
        _write_json(
            self._directory / "tuning" / arm.name / "chosen.json",
            {"learning_rate": best, "validation_accuracy": {f"{rate:g}": found[rate] for rate in rates}},
        )
        shown = ", ".join(
            f"{rate:g}: {'diverged' if (s := found[rate]) is None else f'{100 * s:.1f}'}" for rate in rates
        )
        self._say(f"learning rate of {arm.name}: {best:g} (validation: {shown})")
        return best


def arm_config(base: Config, arm: Arm, seed: int, rate: float | None) -> Config:
    """The configuration an arm runs with; a ``rate`` scales the whole schedule.

    Raises:
        ConfigError: an invalid setting, or one that the shared data was made with.
    """
    _check_only_reweighs(base, arm)
    per_shard = base.generate.prompts_per_shard
    settings = [f"seed={seed}", f"name={arm.name}", *arm.settings]
    if arm.data_share < 1:
        shards = math.ceil(arm.data_share * base.prompts.per_round / per_shard)
        settings.append(f"prompts.per_round={min(shards * per_shard, base.prompts.per_round)}")
    if rate is not None:
        scale = base.train.min_learning_rate / base.train.learning_rate
        settings += [f"train.learning_rate={rate!r}", f"train.min_learning_rate={rate * scale!r}"]
    return _changed(base, settings, f"arm {arm.name}")


def _check_only_reweighs(base: Config, arm: Arm) -> None:
    changes = deciding_changes(base, _changed(base, arm.settings, f"arm {arm.name}"))
    refused = [change for change in changes if not marks_at(Config, change.path).may_change_with("weigh")]
    if refused:
        raise ConfigError(
            f"arm {arm.name} changes {', '.join(map(str, refused))}, with which the data that it shares was made",
            rule="arms share one offline set and its verdicts: they may differ in what `weigh` or training reads first",
            remedy="for other labels, give the configuration a further judge of role spare and let it vote in the arm; for other "
            "data, make a comparison of its own",
        )


def _changed(config: Config, settings: Sequence[str], where: str) -> Config:
    return change_config(config.model_dump(mode="json"), settings, where)


def check_directory(directory: Path, setup: Setup) -> None:
    """Raises :class:`RunDirectoryError` when a directory holds something else than this comparison. Writes nothing."""
    check_place(directory)
    path = directory / _ASKED
    if path.exists():
        asked, wanted = json.loads(path.read_text()), _asked(setup)
        different = [
            f"{key} ({asked.get(key)!r} -> {wanted[key]!r})" for key in wanted if asked.get(key) != wanted[key]
        ]
        if different:
            raise RunDirectoryError(
                f"{directory} holds a comparison made with other settings: {', '.join(different)}",
                rule="a comparison keeps its configuration, learning rates and validation split; methods, seeds and "
                "rounds may be added",
                remedy="give another --run-dir",
            )
    elif directory.exists() and (
        not directory.is_dir() or any(not path.name.startswith(f".{_ASKED}") for path in directory.iterdir())
    ):
        raise RunDirectoryError(
            f"{directory} is not a comparison",
            rule="a comparison lives in a directory of its own",
            remedy="give another --run-dir",
        )


def _asked(setup: Setup) -> dict[str, Any]:
    return {
        "identity": setup.config.model_copy(update={"seed": 0}).identity,
        "learning_rates": sorted(setup.learning_rates),
        "validation_prompts": setup.validation_prompts,
        "tuning_seed": setup.tuning_seed,
    }


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


def _result(arm: Arm, config: Config, round_: int, report: RoundReport) -> ArmResult:
    stopped = report.train is not None and bool(report.train.stopped_early)
    status: Literal["stopped_early", "finished"] = "stopped_early" if stopped else "finished"
    return ArmResult(arm.name, config.seed, round_, status, config.train.learning_rate, report)


def _line(reports: dict[int, RoundReport]) -> str:
    return "; ".join(
        f"v{round_} {'-' if report.accuracy is None else f'{100 * report.accuracy:.1f}'} sampled"
        + ("" if report.accuracy_greedy is None else f" / {100 * report.accuracy_greedy:.1f} greedy")
        for round_, report in sorted(reports.items())
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=2).encode())
