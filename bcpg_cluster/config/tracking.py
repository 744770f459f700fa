"""The sections of experiment trackers and of run directories in object stores."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bcpg_cluster.config.section import Section

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")


class StorageConfig(Section):
    """How a run directory in an object store is reached (``--run-dir s3://bucket/runs/a``).

    Attributes:
        options: for the fsspec driver of the address (``endpoint_url``, ``profile``, ...). They are written to the run's
            ``config.yaml``: credentials belong into the environment or the drivers' own files.
    """

    options: dict[str, Any] = Field(default_factory=dict)


class TensorboardConfig(Section):
    """Event files for TensorBoard. It has no options."""


class TrackioConfig(Section):
    """trackio, local unless a Space is named.

    Attributes:
        project: groups runs; ``null`` is the configuration's ``name``.
        space_id: a Hugging Face Space to log to (needs a token).
    """

    project: str | None = None
    space_id: str | None = None


class WandbConfig(Section):
    """Weights & Biases.

    Attributes:
        project: groups runs; ``null`` is the configuration's ``name``.
        entity: the team or user; ``null`` is the account's own.
        mode: ``offline`` needs no account, and ``wandb sync`` uploads later; ``online`` needs a key in the environment.
    """

    project: str | None = None
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"


class MlflowConfig(Section):
    """MLflow.

    Attributes:
        uri: a tracking server or store; ``null`` is a SQLite file.
        experiment: groups runs; ``null`` is the configuration's ``name``.
    """

    uri: str | None = None
    experiment: str | None = None


class TrackingConfig(Section):
    """Experiment trackers that hear of every round and optimiser step; each is an extra of the package. `{}` chooses one as it is.

    Attributes:
        folder: where they write; ``null`` is ``tracking`` beside the run directory, which the runs there then share (in the
            current directory for a run in an object store).
        tensorboard, trackio, wandb, mlflow: a section of that tracker's options; ``null`` leaves it out.
    """

    folder: str | None = None
    tensorboard: TensorboardConfig | None = None
    trackio: TrackioConfig | None = None
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The trackers that are not left out."""
        return tuple(name for name in TRACKERS if getattr(self, name) is not None)
