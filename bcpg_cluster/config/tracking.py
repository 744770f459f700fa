"""The sections of experiment trackers and of run directories in object stores."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from bcpg_cluster.config.section import Section

_SECRET = re.compile(r"token|secret|passw|signature|credential|api_?key|access_?key|^(key|sig|auth)$", re.IGNORECASE)
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")


class StorageConfig(Section):
    """How a run directory in an object store is reached (``--run-dir s3://bucket/runs/a``)."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the address's fsspec driver (``endpoint_url``, ``profile``, ...). They are written to the run's
    ``config.yaml``: keep credentials in the environment or in the drivers' own files."""


class TensorboardConfig(Section):
    """Event files for TensorBoard. It has no options."""


class TrackioConfig(Section):
    """trackio, local unless a Space is named."""

    project: str | None = None
    """Project that groups runs in trackio; ``null`` is the configuration's ``name``."""
    space_id: str | None = None
    """Hugging Face Space to log to (needs a token); ``null`` logs locally."""
    traces: int = Field(4, ge=0)
    """Samples a round that are logged as traces (generate, verify, each judge, weigh), the ones that show most of the round's first
    shard; 0 logs none."""


class WandbConfig(Section):
    """Weights & Biases."""

    project: str | None = None
    """Project that groups runs in Weights & Biases; ``null`` is the configuration's ``name``."""
    entity: str | None = None
    """Team or user that owns the runs; ``null`` is the account's own."""
    mode: Literal["offline", "online"] = "offline"
    """``offline`` needs no account, and ``wandb sync`` uploads later; ``online`` needs a key in the environment."""


class MlflowConfig(Section):
    """MLflow."""

    uri: str | None = None
    """A tracking server or store; ``null`` is a SQLite file."""
    experiment: str | None = None
    """Experiment that groups runs in MLflow; ``null`` is the configuration's ``name``."""


class TrackingConfig(Section):
    """Experiment trackers, which follow every round and optimiser step; each is an extra of the package.

    A tracker is on when its section is there; ``{}`` takes its defaults.
    """

    folder: str | None = None
    """Where trackers write; ``null`` is ``tracking`` beside the run directory, shared by the runs there (in the current directory
    for a run in an object store)."""
    page: str | None = None
    """Address of the run's page, for instance where CI keeps it, which every tracker links to;
    ``null`` gives them the command that shows the page."""
    tensorboard: TensorboardConfig | None = None
    """TensorBoard's section; ``null`` writes no event files."""
    trackio: TrackioConfig | None = None
    """trackio's options; ``null`` leaves it off."""
    wandb: WandbConfig | None = None
    """Options of Weights & Biases; ``null`` leaves it off."""
    mlflow: MlflowConfig | None = None
    """MLflow's options; ``null`` leaves it off."""

    @field_validator("page")
    @classmethod
    def _page_is_an_address_without_secrets(cls, page: str | None) -> str | None:
        if page is None:
            return None
        parts = urlsplit(page)
        if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
            raise ValueError("a page is an address such as https://host/path/run.html")
        options = [key for text in (parts.query, parts.fragment.rpartition("?")[2]) for key, _ in parse_qsl(text)]
        if "@" in parts.netloc or any(_SECRET.search(key) for key in options):
            raise ValueError(
                "the address carries a password, key or token, which every tracker would show; use one without it"
            )
        return page

    @property
    def chosen(self) -> tuple[str, ...]:
        """The trackers that are on."""
        return tuple(name for name in TRACKERS if getattr(self, name) is not None)
