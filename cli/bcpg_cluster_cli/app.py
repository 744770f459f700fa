"""The ``bcpg-cluster`` command, put together from the commands of every room.

They import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bcpg_cluster_cli.exchange.commands import commands as exchange
from bcpg_cluster_cli.judging.commands import commands as judging
from bcpg_cluster_cli.runs.commands import commands as runs
from bcpg_cluster_cli.watching.commands import commands as watching

app = typer.Typer(
    name="bcpg-cluster",
    help="Iterative offline RL of reasoning LLMs: generate, segment, judge, train, push, round after round.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for room in (runs, watching, judging, exchange):
    app.add_typer(room)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from bcpg_cluster import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors made on purpose are printed without a traceback, with exit code 2 for bad input."""
    from bcpg_cluster.errors import BcpgError
    from bcpg_cluster_cli.endings import say_and_code

    try:
        app()
    except (BcpgError, OSError) as error:
        sys.exit(say_and_code(error))
