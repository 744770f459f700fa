"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", help="A YAML file or the name of a shipped config (default: laptop, without GPUs)."),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one key: section.key=value. Repeatable.")]
RunDirOption = Annotated[
    str | None,
    typer.Option("--run-dir", help="Where the run lives: a directory or s3://bucket/path (default: runs/<name>)."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="The run's seed (default: the config's).")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="The Ray cluster, or 'local' (default: RAY_ADDRESS, a Ray running here, a local one)."
    ),
]
ColumnOption = Annotated[list[str] | None, typer.Option("--column", help="OURS=THEIRS for a column with another name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RoundOption = Annotated[int, typer.Option("--round", help="The round, from 1.")]
TakeChangedOption = Annotated[
    bool,
    typer.Option(
        "--take-changed-prompts", help="Resume with prompt files that changed since the run began; the run records it."
    ),
]
TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Take the run from a process that gave no sign for a minute (in an object store: from any other process).",
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave rows out that cannot be used, counted and recorded (prompts.skip_bad)."),
]


def with_skip_bad(overrides: list[str] | None, skip_bad: bool) -> list[str]:
    """``--set`` values and what ``--skip-bad`` adds to them."""
    return [*(overrides or []), *(["prompts.skip_bad=true"] if skip_bad else [])]


RatesOption = Annotated[
    str | None,
    typer.Option(
        "--learning-rates", help="The grid every method is tuned on (default: a third, 1 and 3 times the config's)."
    ),
]
EpochsOption = Annotated[
    str | None,
    typer.Option("--epochs", help="Epochs that each rate is tried with, e.g. 1,2,5 (default: the config's alone)."),
]
OneAtATimeOption = Annotated[
    bool, typer.Option("--one-at-a-time", help="Finish a run before the next begins, also where pools are separate.")
]
TuningSeedOption = Annotated[
    int | None, typer.Option("--tuning-seed", help="Seed of the data learning rate and epochs are chosen on.")
]
