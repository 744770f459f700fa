"""``bcpg-cluster compare``: many methods on one offline set, tuned alike, measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.markdown import Markdown

from bcpg_cluster.comparison.methods import parse_methods
from bcpg_cluster.comparison.runner import Comparison
from bcpg_cluster.comparison.setup import Arm, Setup, arm_config, check_directory, split_validation
from bcpg_cluster.errors import ConfigError, Interrupted
from bcpg_cluster.prompts.sets import round_prompts
from bcpg_cluster.run.build.default_config import choose_config, read_config
from bcpg_cluster.run.build.workforce import start_workforce
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.store.path import RunPath, local_only
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.report.comparison_report import (
    COMPARED,
    START,
    ArmResult,
    compare,
    markdown_table,
    write_results,
)
from bcpg_cluster_cli.console import ConsoleObserver
from bcpg_cluster_cli.session import new_run, start_runtime
from bcpg_cluster_cli.signals import stop_on_signals
from bcpg_cluster_cli.terminal import Terminal

REFERENCE = "bcpg_nsa"


def run_compare(
    methods: str,
    num_seeds: int,
    rounds: int,
    source: str | None,
    overrides: Sequence[str],
    run_dir: str | RunPath | None,
    learning_rates: str | None,
    epochs: str | None,
    validation_prompts: int,
    tuning_seed: int | None,
    address: str | None,
    *,
    one_at_a_time: bool,
    as_json: bool,
    inline: bool,
) -> None:
    """Check everything, then tune, train and measure every method on every seed, and write what came of it."""
    console = Terminal(stderr=as_json)
    chosen = parse_methods(methods)
    named = choose_config(source, address, partial(console.print, highlight=False), inline=inline)
    setup = make_setup(named, overrides, learning_rates, epochs, validation_prompts, num_seeds, tuning_seed)
    config = setup.config
    arms = [Arm(m.name, m.settings(config), tuned_as=m.name, rounds=rounds) for m in chosen]
    for arm in arms:
        arm_config(config, arm, config.seed, setup.grid[0])  # an invalid setting shows here
    directory = local_only(new_run(run_dir, config, f"compare-{config.name}"), "a comparison")
    reference = next((arm.name for arm in arms if arm.name.partition("@")[0] == REFERENCE), arms[0].name)
    seeds = [config.seed + index for index in range(num_seeds)]
    results: list[ArmResult] = []

    def write() -> str:
        titles = {START: "start", **{method.name: method.title for method in chosen}}
        comparison = compare(results, reference, titles=titles)
        write_results(directory, comparison, results)
        return markdown_table(comparison, measures=COMPARED)  # a terminal is narrow; the page has all measures

    table = ""
    with open_comparison(directory, setup, address, console, inline=inline, one_at_a_time=one_at_a_time) as comparison:
        comparison.tune(*arms)
        for of_seed in comparison.by_seed(arms, seeds):
            results += of_seed
            table = write()
    if as_json:
        typer.echo((directory / "comparison.json").read_text())
    else:
        console.print(Markdown(table))
    console.print(
        f"written to {directory}: comparison.md, .png, .json, results.csv",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def make_setup(
    source: str | None,
    overrides: Sequence[str],
    learning_rates: str | None,
    epochs: str | None,
    validation_prompts: int,
    num_seeds: int,
    tuning_seed: int | None,
) -> Setup:
    """All that is fixed for a comparison, checked before anything starts.

    Raises:
        UserError: a number, a grid, a configuration or prompts that cannot be used.
    """
    if num_seeds < 1:
        raise ConfigError(f"--seeds {num_seeds}", rule="at least one seed is measured", remedy="--seeds 5")
    config = read_config(source, overrides, None)
    rates = parse_rates(learning_rates, config.train.learning_rate)
    numbers = parse_epochs(epochs, config.train.epochs)
    num_tried = len(rates) * len(numbers)
    tuning = config.seed + 1000 if tuning_seed is None else tuning_seed
    if config.seed <= tuning < config.seed + num_seeds and num_tried > 1:
        raise ConfigError(
            f"--tuning-seed {tuning} is one of the measured seeds {config.seed} .. {config.seed + num_seeds - 1}",
            rule="learning rates and epochs are chosen on other data than the measured runs use",
            remedy="leave it out",
        )
    prompts = preflight(config)
    train, _ = split_validation(prompts.train, validation_prompts)
    round_prompts(train, 1, config.prompts.per_round, config.prompts.order, config.seed)
    if num_tried > 1 and validation_prompts < 1:
        raise ConfigError(
            f"--validation-prompts {validation_prompts} with {num_tried} pairs of learning rate and epochs to choose from",
            rule="they are chosen on a validation split",
            remedy="hold some prompts out, or give a single --learning-rates and --epochs",
        )
    return Setup(config, prompts, rates, numbers, validation_prompts, tuning)


def parse_rates(text: str | None, rate: float) -> tuple[float, ...]:
    """``1e-4,3e-4``; by default a third, once and three times the configuration's rate.

    Raises:
        ConfigError: not positive numbers, or one twice.
    """
    if text is None:
        return (float(f"{rate / 3:.1g}"), rate, float(f"{rate * 3:.1g}"))
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or any(not 0 < value < float("inf") for value in rates) or len(set(rates)) != len(rates):
        raise ConfigError(
            f"--learning-rates {text!r}",
            rule="comma-separated positive numbers, all different",
            remedy="e.g. 1e-4,3e-4",
        )
    return rates


def parse_epochs(text: str | None, epochs: int) -> tuple[int, ...]:
    """``1,2,5``; by default the configuration's alone.

    Raises:
        ConfigError: not whole numbers from 1 on, or one twice.
    """
    if text is None:
        return (epochs,)
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(numbers) != len(parts) or min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise ConfigError(
            f"--epochs {text!r}",
            rule="comma-separated whole numbers from 1 on, all different",
            remedy="e.g. 1,2,5",
        )
    return numbers


@contextmanager
def open_comparison(
    directory: Path,
    setup: Setup,
    address: str | None,
    console: Console,
    *,
    inline: bool,
    one_at_a_time: bool = False,
    may_begin: Callable[[], bool] = lambda: True,
) -> Iterator[Comparison]:
    """A comparison with its members started; they are gone at the end."""
    check_directory(directory, setup)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - started:6.0f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    with stop_on_signals(console) as stop_asked:
        runtime, placed = start_runtime(setup.config, directory, address, inline=inline, console=console)
        try:
            with QuietObserver(console) as observer:
                workforce = start_workforce(placed, runtime, stop_asked)
                yield Comparison(
                    directory,
                    replace(setup, config=placed),
                    workforce,
                    observer,
                    stop_asked,
                    say,
                    one_at_a_time=one_at_a_time,
                    may_begin=may_begin,
                )
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; what was finished is kept") from None
        finally:
            runtime.shutdown()


class QuietObserver(ConsoleObserver):
    """Progress bars, but no table for every round of every arm."""

    def finish(self, report: RoundReport) -> None:
        """Only take the round's bars away."""
        self.clear(report.round)
