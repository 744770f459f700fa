"""Commands about judges and steps. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bcpg_cluster_cli.options import (
    ConfigOption,
    JsonOption,
    RoundOption,
    RunDirOption,
    SetOption,
)

commands = typer.Typer()


@commands.command(name="judge-eval")
def judge_eval(
    data: Annotated[
        list[str],
        typer.Option("--data", "-d", help="NAME=FILE or FILE: ProcessBench, TRL, PRM800K, or a label a step."),
    ],
    config: ConfigOption = None,
    set_: SetOption = None,
    judge: Annotated[list[str] | None, typer.Option("--judge", help="A judge of the config (default: all).")] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="A consensus rule (default: those that apply).")
    ] = None,
    abstention: Annotated[
        Literal["against", "left_out"], typer.Option("--abstention", help="What a judge without an answer counts as.")
    ] = "against",
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
    segmenters: Annotated[
        str | None,
        typer.Option(
            "--segmenters", help="Compare these: labelled,structural,fixed:fixed_tokens=32 (KIND[:KEY=VALUE...])."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="With --segmenters: counts tokens (default: words stand for them)."),
    ] = None,
    stress: Annotated[
        bool, typer.Option("--stress", help="How the judges bear perturbed solutions, instead of how good they are.")
    ] = False,
    perturbations: Annotated[
        str | None, typer.Option("--perturbations", help="With --stress: some of them, as split,padded (default: all).")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """How good a config's judges are, alone and together, on solutions with labelled steps."""
    from functools import partial

    from bcpg_cluster.run.build.default_config import read_config
    from bcpg_cluster.run.build.judges import make_judge
    from bcpg_cluster_cli.judging.judge_eval import run_judge_eval
    from bcpg_cluster_cli.judging.judge_stress import check_stress, run_judge_stress

    check_stress(stress, perturbations, segmenters, tokenizer)
    measure = (
        partial(run_judge_stress, perturbations=perturbations)
        if stress
        else partial(run_judge_eval, segmenters=segmenters, tokenizer=tokenizer)
    )
    measure(
        data,
        read_config(config, set_ or [], None),
        make_judge,
        judges=judge or [],
        rules=rule or [],
        abstention=abstention,
        accuracies=accuracy or [],
        prior=prior,
        limit=limit,
        batch=batch,
        output=output,
        as_json=json_,
    )


@commands.command()
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
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="NAME=FILE or FILE of labelled steps, as judge-eval reads; asks the judge."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="With --data: solutions a file.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="With --data: solutions a call (default: 64).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="With --data: where answers are kept (default: judge-eval's place).")
    ] = None,
    min_mined: Annotated[int, typer.Option("--min-mined", min=1, help="Fewest mined steps a choice rests on.")] = 20,
    points: Annotated[int, typer.Option("--points", min=2, help="Rows of the printed curve.")] = 21,
    json_: JsonOption = False,
) -> None:
    """Choose the threshold (lambda) of a judge that scores, on labelled steps."""
    from bcpg_cluster_cli.judging.calibrate import Choice, run_calibrate
    from bcpg_cluster_cli.judging.calibrate_files import check_one_source, run_calibrate_on_files

    check_one_source(
        {"--data": data, "--labels": labels, "--run-dir": run_dir, "--measure": measure, "--round": rounds},
        {"--config": config, "--set": set_, "--limit": limit, "--batch": batch, "--output": output},
    )
    if data:
        from bcpg_cluster.run.build.default_config import read_config
        from bcpg_cluster.run.build.judges import make_judge

        choice = Choice(precision, min_mined, points, json_)
        chosen = read_config(config, set_ or [], None)
        run_calibrate_on_files(data, chosen, make_judge, judge, choice, limit=limit, batch=batch or 64, output=output)
        return
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


@commands.command()
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


@commands.command(name="segment-text")
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
    from bcpg_cluster.run.build.segmenters import marked_cues
    from bcpg_cluster_cli.judging.own_segmenter import of_one_text, own_segmenter
    from bcpg_cluster_cli.judging.segment_text import run_segment_text

    chosen = read_config(config, set_ or [], None)
    with own_segmenter(chosen) as segmenter:
        run_segment_text(
            file, of_one_text(segmenter), tokenizer=tokenizer, cues=marked_cues(chosen.segment), as_json=json_
        )
