"""Commands that watch a run and what it made. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcpg_cluster.errors import UserError
from bcpg_cluster_cli.options import (
    JsonOption,
    RoundOption,
    RunDirOption,
)

commands = typer.Typer()


@commands.command()
def status(
    run_dir: RunDirOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until the run ends.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Only what went wrong: when, where, why, and what was done.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="With --events: an age (10m, 2h, 1d) or an ISO time.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """What a run has done so far, and what it does now: pools, members, queues, progress."""
    from bcpg_cluster_cli.watching.events import run_events
    from bcpg_cluster_cli.watching.status import run_status

    if events or since is not None:
        if watch:
            raise UserError(
                "--watch was given with --events",
                rule="events are listed once; what happens now is shown by --watch alone",
                remedy="leave one of them out",
            )
        run_events(run_dir, since, as_json=json_)
        return
    run_status(run_dir, watch=watch, as_json=json_)


@commands.command()
def scale(
    sizes: Annotated[list[str], typer.Argument(help="POOL=MEMBERS, or POOL=auto to give it back to its own rule.")],
    run_dir: RunDirOption = None,
    wait: Annotated[float, typer.Option("--wait", min=1.0, help="Seconds to wait for the run's answer.")] = 60.0,
    json_: JsonOption = False,
) -> None:
    """Resize a running run's pools, e.g. `scale judge.llm=4 prm=2`."""
    from bcpg_cluster_cli.watching.scale import run_scale

    run_scale(sizes, run_dir, wait, as_json=json_)


@commands.command()
def monitor(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Where Prometheus listens, on 127.0.0.1.")
    ] = 9090,
    interval: Annotated[float, typer.Option("--interval", min=1.0, help="Seconds between two scrapes.")] = 10.0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of its data (default: in the Ray session's folder).")
    ] = None,
    grafana: Annotated[bool, typer.Option("--grafana", help="Start Grafana too, where it is installed.")] = False,
    grafana_port: Annotated[
        int, typer.Option("--grafana-port", min=1, max=65535, help="Where Grafana listens, on 127.0.0.1.")
    ] = 3000,
    ray_folder: Annotated[
        Path | None, typer.Option("--ray-folder", help="Ray's folder on this machine (default: /tmp/ray).")
    ] = None,
) -> None:
    """Collect the metrics of the Ray on this machine with Prometheus, until Ctrl-C. Start it on the head node."""
    from bcpg_cluster_cli.watching.monitor import run_monitor

    run_monitor(ray_folder, data, port, interval, grafana=grafana, grafana_port=grafana_port)


@commands.command()
def inspect(
    round_: RoundOption = 1,
    run_dir: RunDirOption = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="A prompt id (default: one with mined steps).")] = None,
    sample: Annotated[int | None, typer.Option("--sample", help="A sample number of that prompt.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many samples to show.")] = 1,
    json_: JsonOption = False,
) -> None:
    """Show samples with their steps, every judge's verdicts, and the weights the trainer saw."""
    from bcpg_cluster_cli.watching.inspect import run_inspect

    run_inspect(run_dir, round_, prompt, sample, number, as_json=json_)


@commands.command()
def view(
    run_dir: RunDirOption = None,
    host: Annotated[str, typer.Option("--host", help="Where the page listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0 takes a free one.")] = 0,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Write one HTML file (or DIR/index.html) instead of serving.")
    ] = None,
    rounds: Annotated[
        str | None, typer.Option("--rounds", help="Whose samples a bundle holds, e.g. 1,3 (default: all).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Where hand labels go (default: labels-<run>.jsonl here).")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in this machine's browser.")] = False,
) -> None:
    """Look at a run in the browser: rounds, samples, and every step with what each judge said of it."""
    from bcpg_cluster_cli.watching.view import run_view

    run_view(run_dir, host=host, port=port, bundle_to=bundle, rounds=rounds, labels=labels, has_browser=open_)
