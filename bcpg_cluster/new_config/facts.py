"""What a first config is made from: the model's, the data's and the machine's facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bcpg_cluster.run.build.model_memory import ModelShape


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files describe it.

    Attributes:
        name: as the config names it.
        shape: ``None`` where it is not known.
        num_parameters: ``None`` likewise.
        context: most tokens of a prompt and its response; ``None`` where it is not stated.
        opens_thinking: its prompts end with ``<think>``.
    """

    name: str
    shape: ModelShape | None = None
    num_parameters: int | None = None
    context: int | None = None
    opens_thinking: bool = False


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Problems, and where the config finds them.

    Attributes:
        train, test: as the config names them.
        columns: the config's section; ``None`` for prompt files and tasks.
        more_keys: further keys of section ``prompts`` (splits).
        num_train, num_test: rows.
        questions, golds: of train rows spread over the file.
    """

    train: str
    test: str
    columns: dict[str, str] | None
    num_train: int
    num_test: int
    questions: tuple[str, ...]
    golds: tuple[str, ...]
    more_keys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a run may use.

    Attributes:
        where: in words.
        free_memory_gib: of this machine; ``None`` for a cluster of several.
    """

    where: str
    num_cpus: float
    num_gpus: int
    free_memory_gib: float | None


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """The judge's section of the config, and its model where an engine of the run hosts it (``None``: an endpoint)."""

    section: dict[str, Any]
    model: ModelFacts | None
