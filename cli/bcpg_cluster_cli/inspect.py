"""``bcpg-cluster inspect``: samples with their steps, verdicts and weights, in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bcpg_cluster.config import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.records import Rollout, SampleId, Step, Verdict
from bcpg_cluster.run_directory import load_run_config
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.schema import (
    WeightedRow,
    outcomes_from,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table
from bcpg_cluster_cli.session import find_run


def run_inspect(run_dir: Path | None, round_: int, prompt: str | None, sample: int | None, number: int) -> None:
    """Show up to ``number`` samples of a round: the ones asked for, else wrong ones with mined steps."""
    directory = find_run(run_dir)
    config, state = load_run_config(directory), read_manifest(directory)
    weighted = {row.id: row for row in weighted_from(read_table(directory, state.receipts(round_, "weighted")))}
    if not weighted:
        raise UserError(
            f"round {round_} of {directory} has no weighted samples yet",
            rule="inspect shows samples that went through judging and weighing",
            remedy="wait for the round, or choose another --round",
        )
    chosen = choose_samples(weighted, prompt, sample)[:number]
    if not chosen:
        raise UserError(
            f"no kept sample of prompt {prompt!r}" + (f", number {sample}" if sample is not None else ""),
            rule="only samples that were kept for training are shown",
            remedy=f"prompts of this round: {', '.join(sorted({id_.prompt_id for id_ in weighted})[:5])}, ...",
        )
    _show(Console(), directory, config, state, round_, [weighted[id_] for id_ in chosen])


def choose_samples(weighted: Mapping[SampleId, WeightedRow], prompt: str | None, sample: int | None) -> list[SampleId]:
    """The samples that fit, those with mined tokens first."""
    fitting = [
        id_
        for id_ in sorted(weighted)
        if (prompt is None or id_.prompt_id == prompt) and (sample is None or id_.sample == sample)
    ]
    return sorted(fitting, key=lambda id_: all(weight == 1.0 for weight in weighted[id_].token_weights))


def _show(
    console: Console, directory: Path, config: Config, state: ManifestState, round_: int, rows: Sequence[WeightedRow]
) -> None:
    def table(name: str) -> list[dict[str, object]]:
        return read_table(directory, state.receipts(round_, name))

    prompts = {p.prompt_id: p for p in prompts_from(table("prompts"))}
    rollouts = {rollout.id: rollout for rollout in rollouts_from(table("rollouts"))}
    outcomes = outcomes_from(table("outcomes"))
    steps = steps_from(table("steps"))
    verdicts = {name: verdicts_from(table(f"verdicts.{name}")) for name in config.judges}
    for row in rows:
        prompt, outcome = prompts[row.id.prompt_id], outcomes[row.id]
        console.print(
            f"\n{row.id.prompt_id} sample {row.id.sample}, policy version "
            f"{rollouts[row.id].policy_version}\nquestion: {prompt.question}\ngold answer: {prompt.answer}   "
            f"found: {outcome.extracted}   reward: {row.reward:g}   advantage: {row.advantage:+.3f} "
            f"(group mean {row.group_mean:.3f} of {row.group_size})",
            highlight=False,
            markup=False,  # a question may hold brackets
        )
        if row.id not in steps:
            console.print(Text(rollouts[row.id].text, style="green"))
            console.print("right response: no steps, every token weight is 1", style="dim")
            continue
        console.print(
            steps_table(rollouts[row.id], steps[row.id], {n: v[row.id] for n, v in verdicts.items()}, row, config)
        )


def steps_table(
    rollout: Rollout,
    steps: Sequence[Step],
    verdicts: Mapping[str, Sequence[Verdict]],
    row: WeightedRow,
    config: Config,
) -> Table:
    """One line a step: mined ones green, steps some judge calls right yellow, the rest red."""
    table = Table("step", "tokens", "text", *verdicts, "weight")
    for index, step in enumerate(steps):
        weights = row.token_weights[step.start : step.end]
        cells = [_verdict_text(of_judge[index], config.judges[name].threshold) for name, of_judge in verdicts.items()]
        is_mined = any(weight != 1.0 for weight in weights) or (config.weigh.beta == 1.0 and all(c[1] for c in cells))
        style = "green" if is_mined else "yellow" if any(cell[1] for cell in cells) else "red"
        shown = sorted(set(weights))
        table.add_row(
            str(index),
            f"{step.start}-{step.end - 1}",
            Text(step.text.rstrip("\n"), style=style),
            *(cell[0] for cell in cells),
            ", ".join(f"{weight:g}" for weight in shown),
        )
    return table


def _verdict_text(verdict: Verdict, threshold: float) -> tuple[str, bool]:
    """How a verdict is shown, and whether it calls the step right."""
    if verdict.label is not None:
        kind = f" ({verdict.error_type})" if verdict.error_type and not verdict.label else ""
        return ("right" if verdict.label else f"wrong{kind}"), bool(verdict.label)
    if verdict.score is not None:
        return f"{verdict.score:.2f}", verdict.score > threshold
    return str(verdict.status), False
