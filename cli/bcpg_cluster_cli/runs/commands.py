"""Commands that make and run a run, and those that look at one before it starts. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    SkipBadOption,
    TakeChangedOption,
    TakeOverOption,
    TuningSeedOption,
    with_skip_bad,
)

commands = typer.Typer()
reproduce = typer.Typer(no_args_is_help=True, help="Check whether a run can be made again here, or make it again.")
commands.add_typer(reproduce, name="reproduce")

RunArgument = Annotated[str, typer.Argument(help="The run's directory, or s3://bucket/path.", show_default=False)]


@commands.command()
def init(
    model: Annotated[str | None, typer.Option("--model", help="A Hugging Face directory or a hub id.")] = None,
    train: Annotated[
        str | None, typer.Option("--train", help="Problems to train on: a file, a data set or task:NAME.")
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="Problems to measure on (default: some of --train, split off).")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", help="An endpoint's address, a directory or hub id (default: the policy's base model)."
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option("--reward", help="FILE.py:function (default: by what the gold answers look like).")
    ] = None,
    column: ColumnOption = None,
    judge_model: Annotated[
        str | None,
        typer.Option("--judge-model", help="The endpoint's name for its model (default: the first it serves)."),
    ] = None,
    judge_key_env: Annotated[
        str | None, typer.Option("--judge-key-env", help="Environment variable with the endpoint's key.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write (default: <model>-<problems>.yaml).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    address: AddressOption = None,
) -> None:
    """Write a config for a model and problems of your own. It runs as it is, and says what was guessed."""
    from bcpg_cluster.new_config.write import Wanted
    from bcpg_cluster_cli.exchange.import_rollouts import read_columns
    from bcpg_cluster_cli.runs.init import run_init

    run_init(
        Wanted(
            model or "",
            train or "",
            test,
            judge,
            reward,
            judge_model,
            judge_key_env,
            read_columns(column or []),
            out,
            address,
            force,
        )
    )


@commands.command()
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
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Try every part on two problems, say what each takes, and leave nothing behind."
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="tensorboard|trackio|wandb|mlflow", help="Also log there. Repeatable."),
    ] = None,
    take_changed_prompts: TakeChangedOption = False,
    take_over: TakeOverOption = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Run rounds of the main job. Run the same command again to resume a stopped run."""
    if dry_run:
        from bcpg_cluster_cli.runs.dry_run import run_dry

        run_dry(config, set_ or [], run_dir, seed, address, as_json=json_, inline=inline)
        return
    from bcpg_cluster_cli.runs.iterate import run_iterate

    run_iterate(
        rounds, config, with_skip_bad(set_, skip_bad), run_dir, seed, address,
        track=track or [], as_json=json_, inline=inline,
        take_changed_prompts=take_changed_prompts, take_over=take_over,
    )  # fmt: skip


@commands.command()
def compare(
    methods: Annotated[
        str,
        typer.Option("--methods", "-m", help="Comma-separated names, name@beta for another weight of mined tokens."),
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


@commands.command()
def stage(
    name: Annotated[str, typer.Argument(help="generate, verify, segment, judge.<name>, weigh, train or evaluate.")],
    round_: RoundOption,
    run_dir: RunDirOption = None,
    set_: SetOption = None,
    discard_later: Annotated[
        bool, typer.Option("--discard-later", help="Also discard what was made from this stage's results.")
    ] = False,
    address: AddressOption = None,
    json_: JsonOption = False,
    inline: Annotated[bool, typer.Option("--inline", help="Run in this process without Ray.")] = False,
    take_over: TakeOverOption = False,
) -> None:
    """Run one stage of a finished or stopped round again."""
    from bcpg_cluster_cli.runs.stage import run_stage

    run_stage(
        name, round_, run_dir, set_ or [], discard_later=discard_later, address=address, inline=inline, as_json=json_,
        take_over=take_over,
    )  # fmt: skip


@commands.command()
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


@commands.command()
def validate(
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    skip_bad: SkipBadOption = False,
    probe: Annotated[bool, typer.Option("--probe", help="Also ask the judges' endpoints, one call each.")] = False,
    json_: JsonOption = False,
) -> None:
    """Check a config, its prompts, its models' files and its vendor options. Starts nothing."""
    from bcpg_cluster_cli.runs.validate import run_validate

    run_validate(config, with_skip_bad(set_, skip_bad), run_dir, probe=probe, as_json=json_)


@commands.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSON lines with response and gold, perhaps stop_reason and expected.")],
    kind: Annotated[
        Literal["math", "exact", "code", "function"] | None,
        typer.Option("--kind", help="How answers are checked (default: math)."),
    ] = None,
    gold: Annotated[bool, typer.Option("--gold", help="List the gold answers that no response can match.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    column: ColumnOption = None,
    json_: JsonOption = False,
) -> None:
    """Check rewards on data of your own: each sample's reward, what was read from it, and why."""
    from bcpg_cluster_cli.runs.grade import run_grade

    run_grade(file, config, set_ or [], kind=kind, are_golds=gold, columns=column or [], as_json=json_)


@commands.command()
def doctor(json_: JsonOption = False) -> None:
    """What is installed, which engines would be used, and how to fix what is missing."""
    from bcpg_cluster_cli.runs.doctor import run_doctor

    run_doctor(as_json=json_)


@commands.command(name="config-schema")
def config_schema_() -> None:
    """Print the JSON schema of a config file, for editors."""
    from bcpg_cluster.new_config.schema import config_schema

    typer.echo(config_schema(), nl=False)


@commands.command()
def verify(
    run_dir: RunDirOption = None,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend", help="Restore what can be restored without an engine; have `iterate` make the rest again."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check every file of a run against what was written. (Answers are checked by the stage `verify`, and by `grade`.)

    Exit code 0: all is what was written, 1: something is damaged, 2: it is not a run.
    """
    from bcpg_cluster_cli.runs.verify import run_verify

    run_verify(run_dir, mend=mend, as_json=json_)


@reproduce.command(name="check")
def reproduce_check(run: RunArgument, json_: JsonOption = False) -> None:
    """What a run was made with, beside what is here. Exit code 0: the same, 1: it may come out different, 2: it cannot be made."""
    from bcpg_cluster_cli.runs.reproduce import run_check

    run_check(run, as_json=json_)


@reproduce.command(name="rerun")
def reproduce_rerun(
    run: RunArgument,
    rounds: Annotated[
        int | None, typer.Option("--rounds", "-n", min=1, help="How many (default: all finished ones).")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Where to make it (default: RUN-again).")] = None,
    address: AddressOption = None,
    inline: Annotated[bool, typer.Option("--inline", help="Run in this process without Ray.")] = False,
    json_: JsonOption = False,
) -> None:
    """Make a run again and compare. Exit code 0: equal, 1: something differs, 2: it cannot be made here."""
    from bcpg_cluster_cli.runs.reproduce import run_rerun

    run_rerun(run, out, rounds, address, inline=inline, as_json=json_)
