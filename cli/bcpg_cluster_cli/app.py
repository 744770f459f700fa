"""The ``bcpg-cluster`` command. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bcpg_cluster_cli.options import (
    AddressOption,
    ColumnOption,
    ConfigOption,
    EpochsOption,
    JsonOption,
    OneAtATimeOption,
    RatesOption,
    RoundOption,
    RunDirOption,
    SeedOption,
    SetOption,
    TuningSeedOption,
)

app = typer.Typer(
    name="bcpg-cluster",
    help="Iterative offline RL of reasoning LLMs: generate, segment, judge, train, push, round after round.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def iterate(
    rounds: Annotated[
        int, typer.Option("--rounds", "-n", min=1, help="Rounds to complete, counted from the base.")
    ] = 3,
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    seed: SeedOption = None,
    address: AddressOption = None,
    json_: JsonOption = False,
    inline: Annotated[
        bool, typer.Option("--inline", help="Run in this process without Ray (for fakes and tests).")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", help="Also log to tensorboard, trackio, wandb or mlflow. Repeatable."),
    ] = None,
) -> None:
    """Run rounds of the main job. Run the same command again to resume a stopped run."""
    from bcpg_cluster_cli.runs.iterate import run_iterate

    run_iterate(rounds, config, set_ or [], run_dir, seed, address, track=track or [], as_json=json_, inline=inline)


@app.command()
def compare(
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Comma-separated names; docs/compare.md lists them.")
    ] = "bcpg_nsa,bcpg,topr,grpo_offline,dpo,rft",
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds, counted from the config's.")] = 5,
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="Rounds of every method.")] = 1,
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", help="Where the comparison lives (default: runs/compare-<name>).")
    ] = None,
    learning_rates: RatesOption = None,
    epochs: EpochsOption = None,
    validation_prompts: Annotated[
        int, typer.Option("--validation-prompts", help="Train prompts held out to choose learning rate and epochs on.")
    ] = 200,
    tuning_seed: TuningSeedOption = None,
    one_at_a_time: OneAtATimeOption = False,
    address: AddressOption = None,
    json_: JsonOption = False,
    inline: Annotated[bool, typer.Option("--inline", help="Run in this process without Ray.")] = False,
) -> None:
    """Train methods on the same offline data and compare them. Run it again to resume, or to add methods and seeds."""
    from bcpg_cluster_cli.runs.compare import run_compare

    run_compare(
        methods,
        seeds,
        rounds,
        config,
        set_ or [],
        run_dir,
        learning_rates,
        epochs,
        validation_prompts,
        tuning_seed,
        address,
        one_at_a_time=one_at_a_time,
        as_json=json_,
        inline=inline,
    )


@app.command()
def calibrate(
    judge: Annotated[str, typer.Argument(help="A judge that scores.")],
    run_dir: RunDirOption = None,
    measure: Annotated[
        str | None, typer.Option("--measure", help="The judge taken as the truth (default: the run's own).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="JSON lines with scores and labels instead of a run.")
    ] = None,
    rounds: Annotated[list[int] | None, typer.Option("--round", help="A round (default: all).")] = None,
    precision: Annotated[
        float | None, typer.Option("--precision", help="Choose for this precision (default: for the best F1).")
    ] = None,
    min_mined: Annotated[int, typer.Option("--min-mined", min=1, help="Fewest mined steps a choice rests on.")] = 20,
    points: Annotated[int, typer.Option("--points", min=2, help="Rows of the printed curve.")] = 21,
    json_: JsonOption = False,
) -> None:
    """Choose the threshold (lambda) of a judge that scores, on labelled steps."""
    from bcpg_cluster_cli.judging.calibrate import run_calibrate

    run_calibrate(
        run_dir,
        judge,
        measure=measure,
        labels=labels,
        rounds=rounds,
        precision=precision,
        min_mined=min_mined,
        points=points,
        as_json=json_,
    )


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="policy, steps, preferences or verl.")],
    out: Annotated[Path, typer.Option("--out", help="A new directory.")],
    run_dir: RunDirOption = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", help="A round (default: all; for the policy the newest).")
    ] = None,
    style: Annotated[
        str, typer.Option("--style", help="Of preferences: conversational or standard.")
    ] = "conversational",
    data_source: Annotated[str | None, typer.Option("--data-source", help="Of verl's rows.")] = None,
    ability: Annotated[str, typer.Option("--ability", help="Of verl's rows.")] = "math",
    json_: JsonOption = False,
) -> None:
    """Write the policy as a Hugging Face directory, or a run's data as datasets others read."""
    from bcpg_cluster_cli.exchange.export import run_export

    run_export(what, out, run_dir, rounds or [], style=style, data_source=data_source, ability=ability, as_json=json_)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSON lines with prompt, response and answer.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    seed: SeedOption = None,
    column: ColumnOption = None,
    json_: JsonOption = False,
) -> None:
    """Start a run with responses made elsewhere; `iterate` continues by verifying them."""
    from bcpg_cluster_cli.exchange.import_rollouts import run_import

    run_import(file, config, set_ or [], run_dir, seed, column or [], as_json=json_)


@app.command(name="segment-text")
def segment_text(
    file: Annotated[str, typer.Argument(help="A text file; - reads the standard input.")] = "-",
    config: ConfigOption = None,
    set_: SetOption = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="A directory, embedded:NAME or hub id (default: words count as tokens)."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show a text cut into steps, as the stage `segment` would cut it."""
    from bcpg_cluster.run.build.default_config import read_config
    from bcpg_cluster.run.build.segmenters import make_segmenter, marked_cues
    from bcpg_cluster_cli.judging.segment_text import run_segment_text

    section = read_config(config, set_ or [], None).segment
    cues = marked_cues(section)
    run_segment_text(file, make_segmenter(section), tokenizer=tokenizer, cues=cues, as_json=json_)


@app.command(name="judge-eval")
def judge_eval(
    data: Annotated[
        list[str], typer.Option("--data", "-d", help="NAME=FILE or FILE: ProcessBench's format, or a label a step.")
    ],
    config: ConfigOption = None,
    set_: SetOption = None,
    judge: Annotated[list[str] | None, typer.Option("--judge", help="A judge of the config (default: all).")] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="A consensus rule (default: those that apply).")
    ] = None,
    abstention: Annotated[str, typer.Option("--abstention", help="against or left_out.")] = "against",
    accuracy: Annotated[
        list[str] | None, typer.Option("--accuracy", help="NAME=0.8, for the rule `weighted`; repeatable.")
    ] = None,
    prior: Annotated[float, typer.Option("--prior", help="Chance that a step is right, for `weighted`.")] = 0.5,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Solutions a file, spread over it (default: all).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Solutions a call.")] = 64,
    output: Annotated[
        Path | None, typer.Option("--output", help="Where answers and report go (default: runs/judge-eval-<name>).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """How good a config's judges are, alone and together, on solutions with labelled steps."""
    from bcpg_cluster.run.build.default_config import read_config
    from bcpg_cluster.run.build.judges import make_judge
    from bcpg_cluster_cli.judging.judge_eval import run_judge_eval

    run_judge_eval(
        data,
        read_config(config, set_ or [], None),
        make_judge,
        judges=judge or [],
        rules=rule or [],
        abstention=abstention,  # type: ignore[arg-type]  # checked there
        accuracies=accuracy or [],
        prior=prior,
        limit=limit,
        batch=batch,
        output=output,
        as_json=json_,
    )


@app.command()
def disagreements(
    round_: RoundOption = 1,
    run_dir: RunDirOption = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many samples to show.")] = 3,
    page: Annotated[Path | None, typer.Option("--page", help="Also write the first 50 as an HTML page.")] = None,
    judge: Annotated[list[str] | None, typer.Option("--judge", help="A judge to compare (default: all).")] = None,
    json_: JsonOption = False,
) -> None:
    """The samples of a round that the judges disagree about most."""
    from bcpg_cluster_cli.judging.disagreements import run_disagreements

    run_disagreements(run_dir, round_, number, page, judge or [], as_json=json_)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="generate, verify, segment, judge.<name>, weigh, train or evaluate.")],
    round_: RoundOption,
    run_dir: RunDirOption = None,
    set_: SetOption = None,
    discard_later: Annotated[
        bool, typer.Option("--discard-later", help="Also discard what was made from this stage's results.")
    ] = False,
    address: AddressOption = None,
    inline: Annotated[bool, typer.Option("--inline", help="Run in this process without Ray.")] = False,
) -> None:
    """Run one stage of a finished or stopped round again."""
    from bcpg_cluster_cli.runs.stage import run_stage

    run_stage(name, round_, run_dir, set_ or [], discard_later=discard_later, address=address, inline=inline)


@app.command()
def status(
    run_dir: RunDirOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until the run ends.")] = False,
    json_: JsonOption = False,
) -> None:
    """What a run has done so far, and what it does now: pools, members, queues, progress."""
    from bcpg_cluster_cli.watching.status import run_status

    run_status(run_dir, watch=watch, as_json=json_)


@app.command()
def scale(
    sizes: Annotated[list[str], typer.Argument(help="POOL=MEMBERS, or POOL=auto to give it back to its own rule.")],
    run_dir: RunDirOption = None,
    wait: Annotated[float, typer.Option("--wait", min=1.0, help="Seconds to wait for the run's answer.")] = 60.0,
    json_: JsonOption = False,
) -> None:
    """Resize a running run's pools, e.g. `scale judge.llm=4 prm=2`."""
    from bcpg_cluster_cli.watching.scale import run_scale

    run_scale(sizes, run_dir, wait, as_json=json_)


@app.command()
def monitor(
    port: Annotated[int, typer.Option("--port", help="Where Prometheus listens, on 127.0.0.1.")] = 9090,
    interval: Annotated[float, typer.Option("--interval", min=1.0, help="Seconds between two scrapes.")] = 10.0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of its data (default: in the Ray session's folder).")
    ] = None,
    grafana: Annotated[bool, typer.Option("--grafana", help="Start Grafana too, where it is installed.")] = False,
    grafana_port: Annotated[int, typer.Option("--grafana-port", help="Where Grafana listens, on 127.0.0.1.")] = 3000,
    ray_folder: Annotated[
        Path | None, typer.Option("--ray-folder", help="Ray's folder on this machine (default: /tmp/ray).")
    ] = None,
) -> None:
    """Collect the metrics of the Ray on this machine with Prometheus, until Ctrl-C. Start it on the head node."""
    from bcpg_cluster_cli.watching.monitor import run_monitor

    run_monitor(ray_folder, data, port, interval, grafana=grafana, grafana_port=grafana_port)


@app.command()
def inspect(
    round_: RoundOption = 1,
    run_dir: RunDirOption = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="A prompt id (default: one with mined steps).")] = None,
    sample: Annotated[int | None, typer.Option("--sample", help="A sample number of that prompt.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many samples to show.")] = 1,
) -> None:
    """Show samples with their steps, every judge's verdicts, and the weights the trainer saw."""
    from bcpg_cluster_cli.watching.inspect import run_inspect

    run_inspect(run_dir, round_, prompt, sample, number)


@app.command()
def plan(
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1)] = 3,
    config: ConfigOption = None,
    set_: SetOption = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Also compare with what this Ray cluster has (default: no cluster).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """What a run would cost: samples, tokens, judge calls, disk, memory, GPUs. Starts nothing."""
    from bcpg_cluster_cli.runs.plan import run_plan

    run_plan(rounds, config, set_ or [], address, as_json=json_)


@app.command()
def validate(config: ConfigOption = None, set_: SetOption = None, run_dir: RunDirOption = None) -> None:
    """Check a config, its prompts, its models' files and its vendor options. Starts nothing."""
    from bcpg_cluster_cli.runs.validate import run_validate

    run_validate(config, set_ or [], run_dir)


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSON lines with response and gold, perhaps stop_reason and expected.")],
    kind: Annotated[str | None, typer.Option("--kind", help="math (the default), exact, code or function.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="List the gold answers that no response can match.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    column: ColumnOption = None,
    json_: JsonOption = False,
) -> None:
    """Check rewards on data of your own: each sample's reward, what was read from it, and why."""
    from bcpg_cluster_cli.runs.grade import run_grade

    run_grade(file, config, set_ or [], kind=kind, are_golds=gold, columns=column or [], as_json=json_)


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """What is installed, which engines would be used, and how to fix what is missing."""
    from bcpg_cluster_cli.runs.doctor import run_doctor

    run_doctor(as_json=json_)


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
    except BcpgError as error:
        sys.exit(say_and_code(error))
