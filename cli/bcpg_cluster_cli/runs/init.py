"""``bcpg-cluster init``: a first config for a model and data of one's own."""

from __future__ import annotations

import sys
from dataclasses import replace

import typer

from bcpg_cluster.errors import UserError
from bcpg_cluster.new_config.write import Wanted, write_first_config
from bcpg_cluster_cli.terminal import Terminal


def run_init(wanted: Wanted) -> None:
    """Write the config and say what was guessed; on a terminal, ask for what was not given.

    Raises:
        UserError: something is missing, and nobody can be asked.
    """
    if not wanted.model or not wanted.train:
        wanted = _ask(wanted)
    console = Terminal()
    console.print("reading model, problems and machine ...", style="dim")
    written = write_first_config(wanted)
    for line in written.guesses:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    for path in written.files:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"next: bcpg-cluster iterate --config {written.path} --dry-run", style="bold", soft_wrap=True)


def _ask(wanted: Wanted) -> Wanted:
    if not sys.stdin.isatty():
        raise UserError(
            f"init needs {'--model' if not wanted.model else '--train'}",
            rule="a run has a model and problems; only a terminal is asked for them",
            remedy="bcpg-cluster init --model DIR --train FILE",
        )
    model = wanted.model or typer.prompt("model (a Hugging Face directory or a hub id)", default="embedded:sums/policy")
    default = "embedded:sums/prompts/train.jsonl" if model.startswith("embedded:") else None
    train = wanted.train or typer.prompt("problems to train on (a file, data set or task:NAME)", default=default)
    test = wanted.test or typer.prompt("problems to measure on (empty: some of those)", default="", show_default=False)
    judge = wanted.judge or typer.prompt(
        "judge (an endpoint's address, a directory or hub id; empty: the model itself)", default="", show_default=False
    )
    reward = wanted.reward or typer.prompt(
        "reward function as file.py:function (empty: compare with the gold answers)", default="", show_default=False
    )
    return replace(wanted, model=model, train=train, test=test or None, judge=judge or None, reward=reward or None)
