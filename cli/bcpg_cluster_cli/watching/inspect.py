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
from bcpg_cluster.records import EXTERNAL_POLICY_VERSION, Receipt, SampleId, Step, Verdict
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import WeightedRow
from bcpg_cluster.store.shards import shard_by_shard
from bcpg_cluster.watch.examples.choice import choose_of_round, mined_flags, mined_mass
from bcpg_cluster.watch.examples.samples import RoundSamples, samples_by_shard
from bcpg_cluster.watch.examples.step_strip import state_words, step_strip
from bcpg_cluster.watch.examples.truth_words import truth_lines
from bcpg_cluster_cli.console import import_text
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal, shown
from bcpg_cluster_cli.watching.inspect_json import sample_facts

_PROMPTS_NAMED = 5  # in a message
_STYLES = {"m": "green", "d": "yellow", "x": "red", "?": "magenta", "e": "dim", ".": "dim"}


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
    weighted = state.receipts(round_, "weighted")
    if not any(receipt.num_rows for receipt in weighted):
        raise UserError(
            f"round {round_} of {directory} has no weighted samples yet",
            rule="inspect shows samples that went through judging and weighing",
            remedy="wait for the round, or choose another --round",
        )
    shards = samples_by_shard(directory, config, state, round_)
    chosen, samples = choose_of_round(shards, config, prompt, sample, number)
    if not chosen or samples is None:
        raise UserError(
            f"no kept sample of prompt {prompt!r}" + (f", number {sample}" if sample is not None else ""),
            rule="only samples that were kept for training are shown",
            remedy=f"prompts of this round: {', '.join(_first_prompts(directory, weighted))}, ...",
        )
    if as_json:
        typer.echo(json.dumps([_facts(row, samples) for row in chosen], indent=2))
        return
    console = Terminal()
    _say_imports(console, state, samples, chosen)
    for row in chosen:
        _show(console, row, samples, config)


def _first_prompts(directory: RunPath, weighted: Sequence[Receipt]) -> list[str]:
    """The first ids, in their order, of a round's prompts with a training row."""
    known: set[str] = set()
    for of_shard in shard_by_shard(directory, {"weighted": weighted}, {"weighted": ["prompt_id"]}):
        known = set(sorted(known | {row["prompt_id"] for row in of_shard["weighted"]})[:_PROMPTS_NAMED])
    return sorted(known)


def _facts(row: WeightedRow, samples: RoundSamples) -> dict[str, object]:
    prompt, outcome = samples.prompts[row.id.prompt_id], samples.outcomes[row.id]
    return sample_facts(row, prompt, outcome, samples.rollouts, samples.steps, samples.verdicts)


def _say_imports(console: Console, state: ManifestState, samples: RoundSamples, rows: Sequence[WeightedRow]) -> None:
    if any(samples.rollouts[row.id].policy_version == EXTERNAL_POLICY_VERSION for row in rows):
        for facts in state.imports:
            console.print(import_text(facts), highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, row: WeightedRow, samples: RoundSamples, config: Config) -> None:
    """One training row: what was asked and found, then its steps, and its rival's where it has one."""
    console.print(f"\n{_head(row, samples)}", highlight=False, markup=False)  # a question may hold brackets
    _show_response(console, row.id, row, samples, config)
    if row.rival is None:
        return
    is_pair = row.rival.id.prompt_id == row.id.prompt_id
    kind = "the wrong response of this pair" if is_pair else "another prompt's response, for the drift"
    console.print(
        f"rival: {row.rival.id.prompt_id} sample {row.rival.id.sample} ({kind})", highlight=False, markup=False
    )
    if is_pair:
        _show_response(console, row.rival.id, None, samples, config)
    else:
        console.print(Text(shown(samples.rollouts[row.rival.id].text), style="dim"))


def _head(row: WeightedRow, samples: RoundSamples) -> str:
    prompt, outcome = samples.prompts[row.id.prompt_id], samples.outcomes[row.id]
    share = mined_mass(row, samples)
    carried = "" if share is None or not any(row.mined) else f", {share:.0%} of its gradient mass"
    return (
        f"{row.id.prompt_id} sample {row.id.sample}, policy version {samples.rollouts[row.id].policy_version}\n"
        f"question: {prompt.question}\n"
        f"gold answer: {prompt.answer}   found: {outcome.extracted}   reward: {row.reward:g}   "
        f"advantage: {row.advantage:+.3f} (group mean {row.group_mean:.3f} of {row.group_size})\n"
        f"mined tokens: {sum(row.mined)} of {len(row.mined)}{carried}"
    )


def _show_response(
    console: Console, id_: SampleId, row: WeightedRow | None, samples: RoundSamples, config: Config
) -> None:
    """The steps as a table and, below it, where the truth disagrees; a right response has no steps, so its text."""
    if id_ not in samples.steps:
        console.print(Text(shown(samples.rollouts[id_].text), style="green"))
        console.print("right response: no steps, every token weight is 1", style="dim")
        return
    steps, said = samples.steps[id_], samples.said_of(id_)
    console.print(steps_table(steps, said, row, config))
    if row is not None:
        for line in truth_lines(mined_flags(row, steps[:-1]), said, config):
            console.print(line, highlight=False, markup=False)


def steps_table(
    steps: Sequence[Step],
    verdicts: Mapping[str, Sequence[Verdict]],
    row: WeightedRow | None,
    config: Config,
) -> Table:
    """One line a step, in the words and colours of the run page: mined, disputed, wrong, missing, last.

    ``row`` is the response's own; without one (a rival has no weights) the columns of weights are left out, and a step that all
    voters call right is green.
    """
    table = Table("step", "tokens", "text", *verdicts, *(() if row is None else ("is", "weight")))
    strip = step_strip(steps, verdicts, row, config)
    for index, (step, letter) in enumerate(zip(steps, strip, strict=True)):
        weights = [] if row is None else sorted(set(row.token_weights[step.start : step.end]))
        of_row = () if row is None else (state_words(letter, step, row), ", ".join(f"{w:g}" for w in weights))
        table.add_row(
            str(index),
            f"{step.start}-{step.end - 1}",
            Text(shown(step.text.rstrip("\n")), style=_STYLES[letter]),
            *(_verdict_text(of_judge[index], config.judges[name].threshold) for name, of_judge in verdicts.items()),
            *of_row,
        )
    return table


def _verdict_text(verdict: Verdict, threshold: float) -> str:
    if verdict.label is not None:
        kind = f" ({verdict.error_type})" if verdict.error_type and not verdict.label else ""
        return "right" if verdict.label else f"wrong{kind}"
    if verdict.score is not None:
        return f"{verdict.score:.2f}"
    return str(verdict.status)
