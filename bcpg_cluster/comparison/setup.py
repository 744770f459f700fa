"""What a comparison is asked for: its arms, the grid they are tuned on, and the configuration each of them runs with."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcpg_cluster.config.changes import deciding_changes
from bcpg_cluster.config.identity import marks_at
from bcpg_cluster.config.load import change_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, RunDirectoryError
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.directory import check_place
from bcpg_cluster.store.whole_files import write_whole

_ASKED = "asked.json"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What is tuned for every method."""

    learning_rate: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.learning_rate:g} x {self.epochs}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train on the shared data.

    Attributes:
        name: of its directory.
        settings: overrides of the base configuration: ``objective``, ``weigh.*``, ``train.*``, judges' roles and thresholds.
        tuned_as: the method whose tuned learning rate and epochs it trains with; ``None`` keeps the configuration's.
        rounds: rounds to run; from the second on it draws its own data.
        data_share: share of the offline set's shards it may use, rounded up to whole shards.
    """

    name: str
    settings: tuple[str, ...]
    tuned_as: str | None = None
    rounds: int = 1
    data_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a comparison is made with; all but the seeds and arms is fixed by its directory.

    Attributes:
        learning_rates, epochs: the grid every method is tuned on, each rate with each number of epochs; a single pair is
            taken as it is.
        validation_prompts: how many prompts are held out of the train file for tuning.
        tuning_seed: of the data the grid is tried on; not one of the measured seeds.
    """

    config: Config
    prompts: PromptSets
    learning_rates: tuple[float, ...]
    epochs: tuple[int, ...]
    validation_prompts: int
    tuning_seed: int

    @property
    def grid(self) -> list[Tuned]:
        """What is tried for every method: the lower rate first, then the fewer epochs."""
        return [Tuned(rate, number) for rate in sorted(self.learning_rates) for number in sorted(self.epochs)]


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


def arm_config(base: Config, arm: Arm, seed: int, tuned: Tuned | None) -> Config:
    """The configuration an arm runs with; a tuned rate scales the whole schedule.

    Raises:
        ConfigError: an invalid setting, or one that the shared data was made with.
    """
    _check_only_reweighs(base, arm)
    per_shard = base.generate.prompts_per_shard
    name = arm.name.replace("@", "-beta")  # no run is called bcpg_nsa@-0.5
    settings = [f"seed={seed}", f"name={name}", *arm.settings]
    if arm.data_share < 1:
        shards = math.ceil(arm.data_share * base.prompts.per_round / per_shard)
        settings.append(f"prompts.per_round={min(shards * per_shard, base.prompts.per_round)}")
    if tuned is not None:
        scale = base.train.min_learning_rate / base.train.learning_rate
        rate = tuned.learning_rate
        settings += [f"train.learning_rate={rate!r}", f"train.min_learning_rate={rate * scale!r}"]
        settings.append(f"train.epochs={tuned.epochs}")
    return changed(base, settings, f"arm {arm.name}")


def _check_only_reweighs(base: Config, arm: Arm) -> None:
    config = changed(base, arm.settings, f"arm {arm.name}")
    if base.judged_after and config.deciding_beforehand != base.deciding_beforehand:
        raise ConfigError(
            f"arm {arm.name} changes what decides a step beforehand ({base.deciding_beforehand} -> {config.deciding_beforehand})",
            rule="arms share one set of verdicts, and a judge with judges.<name>.after gave none on steps decided before it",
            remedy="remove judges.<name>.after from the comparison's configuration, so that all are asked about everything",
        )
    changes = deciding_changes(base, config)
    refused = [change for change in changes if not marks_at(Config, change.path).may_change_with("weigh")]
    if refused:
        raise ConfigError(
            f"arm {arm.name} changes {', '.join(map(str, refused))}, with which the data that it shares was made",
            rule="arms share one offline set and its verdicts: they may differ in what `weigh` or training reads first",
            remedy="for other labels, give the configuration a further judge of role spare and let it vote in the arm; for other "
            "data, make a comparison of its own",
        )


def changed(config: Config, settings: Sequence[str], where: str) -> Config:
    """The configuration with overrides. Raises :class:`ConfigError` for an invalid one."""
    return change_config(config.model_dump(mode="json"), settings, where)


def check_directory(directory: Path, setup: Setup) -> None:
    """Raises :class:`RunDirectoryError` when a directory holds something else than this comparison. Writes nothing."""
    check_place(directory)
    path = directory / _ASKED
    if path.exists():
        asked, wanted = json.loads(path.read_text()), _asked(setup)
        different = [
            f"{key} ({asked.get(key)!r} -> {wanted.get(key)!r})"
            for key in {**wanted, **asked}
            if asked.get(key) != wanted.get(key)
        ]
        if different:
            raise RunDirectoryError(
                f"{directory} holds a comparison made with other settings: {', '.join(different)}",
                rule="a comparison keeps its configuration, learning rates, epochs and validation split; methods, seeds "
                "and rounds may be added",
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


def mark_directory(directory: Path, setup: Setup) -> None:
    """Have a directory hold this comparison and no other. Raises like :func:`check_directory`."""
    check_directory(directory, setup)
    write_json(directory / _ASKED, _asked(setup))


def _asked(setup: Setup) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "identity": setup.config.model_copy(update={"seed": 0}).identity,
        "learning_rates": sorted(setup.learning_rates),
        "validation_prompts": setup.validation_prompts,
        "tuning_seed": setup.tuning_seed,
    }
    if setup.epochs != (setup.config.train.epochs,):  # comparisons made before epochs were tuned keep theirs
        asked["epochs"] = sorted(setup.epochs)
    return asked


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=2).encode())
