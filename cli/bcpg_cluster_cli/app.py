"""The ``bcpg-cluster`` command, put together from the commands of every room.

They import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bcpg_cluster_cli.exchange.commands import commands as exchange
from bcpg_cluster_cli.judging.commands import commands as judging
from bcpg_cluster_cli.runs.commands import commands as runs
from bcpg_cluster_cli.terminal import shown
from bcpg_cluster_cli.watching.commands import commands as watching

_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for it


class _Commands(TyperGroup):
    """All commands; what it says of an argument that it does not know may be read in any terminal."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _shown_usage():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _shown_usage():
            return super().invoke(ctx)


@contextmanager
def _shown_usage() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = shown(error.message)
        raise


app = typer.Typer(
    cls=_Commands,
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
    from bcpg_cluster_cli.endings import disk_error_in, say_and_code

    sys.excepthook = _show_traceback
    try:
        app()
    except (BcpgError, OSError) as error:
        sys.exit(say_and_code(error))
    except Exception as error:
        refused = disk_error_in(error)
        if refused is None:
            raise
        sys.exit(say_and_code(refused))


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What this program did not expect to be raised; its message may quote anything."""
    sys.stderr.write(shown("".join(traceback.format_exception(kind, error, trace))))
