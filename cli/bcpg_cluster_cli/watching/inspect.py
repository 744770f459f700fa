"""``bcpg-cluster inspect``: samples with their steps, verdicts and weights, in colour."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.records import EXTERNAL_POLICY_VERSION, SampleId, Step, Verdict
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import (
    WeightedRow,
    outcomes_from,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table
from bcpg_cluster_cli.console import import_text
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.watching.inspect_json import sample_facts

_SCREEN_TOKENS = 600


def run_inspect(
    run_dir: str | RunPath | None,
    round_: int,
    prompt: str | None,
    sample: int | None,
    number: int,
    *,
    as_json: bool = False,
) -> None:
    """Show up to ``number`` training rows of a round: the ones asked for, else those that show most first."""
    directory = find_run(run_dir)
    config, state = load_run_config(directory), read_manifest(directory)
    weighted = weighted_from(read_table(directory, state.receipts(round_, "weighted")))
    if not weighted:
        raise UserError(
            f"round {round_} of {directory} has no weighted samples yet",
            rule="inspect shows samples that went through judging and weighing",
            remedy="wait for the round, or choose another --round",
        )
    chosen = choose_rows(weighted, prompt, sample)[:number]
    if not chosen:
        raise UserError(
            f"no kept sample of prompt {prompt!r}" + (f", number {sample}" if sample is not None else ""),
            rule="only samples that were kept for training are shown",
            remedy=f"prompts of this round: {', '.join(sorted({row.id.prompt_id for row in weighted})[:5])}, ...",
        )
    _show(Console(), directory, config, state, round_, chosen, as_json=as_json)


def choose_rows(rows: Sequence[WeightedRow], prompt: str | None, sample: int | None) -> list[WeightedRow]:
    """The rows that hold such a sample, as their own response or as the wrong one of a pair; those with mined tokens first."""

    def fits(row: WeightedRow) -> bool:
        # Another prompt's response beside a sample is no sample of that row: it would be shown once too often.
        paired = row.rival is not None and row.rival.id.prompt_id == row.id.prompt_id
        ids = [row.id, row.rival.id] if paired and row.rival else [row.id]
        return any(
            (prompt is None or id_.prompt_id == prompt) and (sample is None or id_.sample == sample) for id_ in ids
        )

    def rank(row: WeightedRow) -> tuple[object, ...]:
        """Examples that show most first: steps mined beside steps that are not, of a wrong response that fits a screen."""
        is_mixed = any(row.mined) and not all(row.mined)
        is_long = len(row.token_ids) > _SCREEN_TOKENS
        return (
            not any(row.mined),
            not is_mixed,
            row.reward > 0.0,
            is_long,
            row.id,
            row.rival.id if row.rival else row.id,
        )

    return sorted(filter(fits, rows), key=rank)


def _show(
    console: Console,
    directory: RunPath,
    config: Config,
    state: ManifestState,
    round_: int,
    rows: Sequence[WeightedRow],
    *,
    as_json: bool,
) -> None:
    def table(name: str) -> list[dict[str, object]]:
        return read_table(directory, state.receipts(round_, name))

    prompts = {p.prompt_id: p for p in prompts_from(table("prompts"))}
    rollouts = {rollout.id: rollout for rollout in rollouts_from(table("rollouts"))}
    outcomes = outcomes_from(table("outcomes"))
    steps = steps_from(table("steps"))
    verdicts = {name: verdicts_from(table(f"verdicts.{name}")) for name in config.judges}

    if as_json:
        found = [sample_facts(r, prompts[r.id.prompt_id], outcomes[r.id], rollouts, steps, verdicts) for r in rows]
        typer.echo(json.dumps(found, indent=2))
        return

    def show_response(id_: SampleId, row: WeightedRow | None) -> None:
        if id_ in steps:
            said = {name: of_judge[id_] for name, of_judge in verdicts.items()}
            console.print(steps_table(steps[id_], said, row, config))
        else:
            console.print(Text(rollouts[id_].text, style="green"))
            console.print("right response: no steps, every token weight is 1", style="dim")

    if any(rollouts[row.id].policy_version == EXTERNAL_POLICY_VERSION for row in rows):
        for facts in state.imports:
            console.print(import_text(facts), highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        prompt, outcome = prompts[row.id.prompt_id], outcomes[row.id]
        console.print(
            f"\n{row.id.prompt_id} sample {row.id.sample}, policy version "
            f"{rollouts[row.id].policy_version}\nquestion: {prompt.question}\ngold answer: {prompt.answer}   "
            f"found: {outcome.extracted}   reward: {row.reward:g}   advantage: {row.advantage:+.3f} "
            f"(group mean {row.group_mean:.3f} of {row.group_size})   mined tokens: {sum(row.mined)} of {len(row.mined)}",
            highlight=False,
            markup=False,  # a question may hold brackets
        )
        show_response(row.id, row)
        if row.rival is not None:
            is_pair = row.rival.id.prompt_id == row.id.prompt_id
            kind = "the wrong response of this pair" if is_pair else "another prompt's response, for the drift"
            console.print(
                f"rival: {row.rival.id.prompt_id} sample {row.rival.id.sample} ({kind})", highlight=False, markup=False
            )
            if is_pair:
                show_response(row.rival.id, None)
            else:
                console.print(Text(rollouts[row.rival.id].text, style="dim"))


def steps_table(
    steps: Sequence[Step],
    verdicts: Mapping[str, Sequence[Verdict]],
    row: WeightedRow | None,
    config: Config,
) -> Table:
    """One line a step: mined ones green, steps some judge calls right yellow, the rest red.

    ``row`` is the response's own; without one (a rival has no weights) the column of weights is left out.
    """
    table = Table("step", "tokens", "text", *verdicts, *(() if row is None else ("mined", "weight")))
    for index, step in enumerate(steps):
        cells = [_verdict_text(of_judge[index], config.judges[name].threshold) for name, of_judge in verdicts.items()]
        mined = 0 if row is None else sum(row.mined[step.start : step.end])
        style = "green" if mined else "yellow" if any(cell[1] for cell in cells) else "red"
        weights = [] if row is None else sorted(set(row.token_weights[step.start : step.end]))
        of_row = () if row is None else (str(mined or ""), ", ".join(f"{weight:g}" for weight in weights))
        table.add_row(
            str(index),
            f"{step.start}-{step.end - 1}",
            Text(step.text.rstrip("\n"), style=style),
            *(cell[0] for cell in cells),
            *of_row,
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
