"""``bcpg-cluster verify``: whether what lies in a run directory is what was written, and putting it right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.console import Console

from bcpg_cluster.run.soundness.check import check_run
from bcpg_cluster.run.soundness.faults import CheckedRun, Fate, Fault
from bcpg_cluster.run.soundness.mend import mend_run
from bcpg_cluster_cli.session import find_run, say
from bcpg_cluster_cli.terminal import Terminal

_MOST_STRAYS = 10  # named; the others are counted
_HEADINGS = {
    Fate.REMADE: "made again by the next `iterate`",
    Fate.RESTORED: "restored by --mend",
    Fate.LOST: "cannot be made again as it was",
    Fate.UNUSED: "nothing needs it",
}


def run_verify(run_dir: str | None, *, mend: bool, as_json: bool) -> None:
    """Check a run, mend it if asked, and end with the code that says how it is.

    Raises:
        RunDirectoryError: it is no run, or, with ``mend``, another process works on it.
    """
    directory = find_run(run_dir)
    done: Sequence[str] = ()
    if mend:
        mended = mend_run(directory)
        checked, done = mended.after, mended.done
    else:
        checked = check_run(directory)
    if as_json:
        typer.echo(json.dumps(_plain(checked, done), indent=2))
    else:
        _print(Terminal(), checked, done)
    raise typer.Exit(checked.exit_code)


def _plain(checked: CheckedRun, done: Sequence[str]) -> dict[str, object]:
    return {
        "run": str(checked.run_dir),
        "exit_code": checked.exit_code,
        "in_use_by": checked.holder,
        "shards": checked.num_shards,
        "snapshots": checked.num_snapshots,
        "done": list(done),
        "faults": [asdict(fault) for fault in checked.faults],
        "strays": list(checked.strays),
        "notes": list(checked.notes),
    }


def _print(console: Console, checked: CheckedRun, done: Sequence[str]) -> None:
    if checked.holder is not None:
        say(
            console,
            f"process {checked.holder} works on this run now; it was read as it stands, and nothing was changed",
        )
    for sentence in done:
        say(console, f"mended  {sentence}")
    for fate, heading in _HEADINGS.items():
        if faults := checked.of(fate):
            say(console, f"{heading}:")
            for fault in faults:
                _print_fault(console, fault)
    if checked.strays:
        shown = ", ".join(checked.strays[:_MOST_STRAYS])
        more = f" and {len(checked.strays) - _MOST_STRAYS} more" if len(checked.strays) > _MOST_STRAYS else ""
        say(console, f"files that count for nothing, left where they are: {shown}{more}")
    for note in checked.notes:
        say(console, note)
    what = f"{checked.num_shards} shards, {checked.num_snapshots} snapshots"
    verdict = f"{len(checked.faults)} damaged" if checked.faults else "all is what was written"
    say(console, f"{checked.run_dir}: {what}: {verdict}")


def _print_fault(console: Console, fault: Fault) -> None:
    say(console, f"  {fault.path} {fault.what}\n      {fault.follows}")
