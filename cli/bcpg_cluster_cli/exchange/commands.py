"""Commands that bring data in and out. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bcpg_cluster_cli.options import (
    ColumnOption,
    ConfigOption,
    JsonOption,
    RunDirOption,
    SeedOption,
    SetOption,
)

commands = typer.Typer()


@commands.command()
def export(
    what: Annotated[
        Literal["policy", "steps", "weights", "preferences", "verl"],
        typer.Argument(help="What to write.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new directory.")],
    run_dir: RunDirOption = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", help="A round (default: all; for the policy the newest).")
    ] = None,
    style: Annotated[
        Literal["conversational", "standard", "prime-rl", "verl", "trl"] | None,
        typer.Option(
            "--style",
            help="Of preferences: conversational (default) or standard. Of weights: prime-rl, verl or trl.",
            show_default=False,
        ),
    ] = None,
    data_source: Annotated[str | None, typer.Option("--data-source", help="Of verl's rows.")] = None,
    ability: Annotated[str, typer.Option("--ability", help="Of verl's rows.")] = "math",
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Of the policy, as the hub names it (default: the base model's, if known)."),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Also push the policy to the hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: only its owner sees it.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write the policy as a Hugging Face directory, or a run's data as datasets others read."""
    from bcpg_cluster.errors import UserError
    from bcpg_cluster.exchange.policy.push_to_hub import HubTarget
    from bcpg_cluster_cli.exchange.export import run_export

    if private and push_to_hub is None:
        raise UserError(
            "--private was given without --push-to-hub",
            rule="--private is about the repository that is pushed to",
            remedy="name one with --push-to-hub OWNER/NAME, or leave --private out",
        )
    run_export(
        what,
        out,
        run_dir,
        rounds or [],
        style=style,
        data_source=data_source,
        ability=ability,
        licence=licence,
        hub=None if push_to_hub is None else HubTarget(push_to_hub, private),
        as_json=json_,
    )


@commands.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="Rows with prompt, response, answer; or a rollout file of TRL, verl, prime-rl.")
    ],
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    seed: SeedOption = None,
    column: ColumnOption = None,
    style: Annotated[
        Literal["auto", "own", "trl", "verl", "prime-rl"],
        typer.Option("--style", help="Who wrote the file; auto tells by its columns."),
    ] = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that cannot be used, and count them.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Start a run with responses made elsewhere; `iterate` continues by verifying them."""
    from bcpg_cluster_cli.exchange.import_rollouts import run_import

    run_import(file, config, set_ or [], run_dir, seed, column or [], style=style, skip_bad=skip_bad, as_json=json_)
