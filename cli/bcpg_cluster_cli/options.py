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
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave rows out that cannot be used, counted and recorded (prompts.skip_bad)."),
]


def with_skip_bad(overrides: list[str] | None, skip_bad: bool) -> list[str]:
    """``--set`` values and what ``--skip-bad`` adds to them."""
    return [*(overrides or []), *(["prompts.skip_bad=true"] if skip_bad else [])]
