"""A process reward model's input, tried on its own tokenizer before any engine starts: its separator, template and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.stages.judge.prm.detection import (
    choose_convention,
    load_convention,
    load_pathfinder,
    model_config_of,
)


@dataclass(frozen=True, slots=True)
class ConventionTrial:
    """What to try.

    Attributes:
        key: where the configuration names the model.
        model: directory or hub id.
        convention: a name, or ``auto``.
        engine_args: the judge's own.
        separator, system: ``None`` for what the family was trained with.
        reference: the model that an implicit one is compared with; ``None`` for the others.
    """

    key: str
    model: str
    convention: str
    engine_args: Mapping[str, Any]
    separator: str | None = None
    system: str | None = None
    reference: str | None = None


def try_conventions(trials: Sequence[ConventionTrial]) -> None:
    """Load every tokenizer and lay a plain case out with it (imports transformers).

    Raises:
        DataError: a tokenizer does not load.
        ConfigError: it does not fit the convention: a separator that is no token of it, a chat template that fails, a reference
            model of another vocabulary.
    """
    for trial in trials:
        try:
            _try(trial)
        except ConfigError as error:
            raise ConfigError(f"{trial.key}: {error.problem}", rule=error.rule, remedy=error.remedy) from None
        except Exception as error:  # transformers raises KeyError, too, for a file that is not a tokenizer's
            raise DataError(
                f"{trial.key}: the tokenizer of {trial.model} does not load: {error!r}",
                rule="a process reward model is a Hugging Face checkpoint with its tokenizer",
                remedy="download or copy it again, tokenizer files included",
            ) from None


def _try(trial: ConventionTrial) -> None:
    name = choose_convention(trial.convention, trial.model, model_config_of(trial.model, trial.engine_args))
    if name == "pathfinder":
        load_pathfinder(trial.model, trial.engine_args, trial.separator, trial.system)
        return
    convention, _, _ = load_convention(trial.model, trial.engine_args, name, trial.separator, trial.system)
    if trial.reference is not None:
        from bcpg_cluster.stages.judge.prm.implicit_scorer import check_reference

        check_reference(convention, trial.model, trial.reference, trial.engine_args)
