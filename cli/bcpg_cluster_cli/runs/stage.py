"""``bcpg-cluster stage``: run one stage of a round again, on the sealed tables it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from bcpg_cluster.config.changes import check_rerun_changes
from bcpg_cluster.config.load import change_config
from bcpg_cluster.errors import Interrupted, UserError
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.build.engines import snapshot_verifier
from bcpg_cluster.run.build.segmenters import check_stored
from bcpg_cluster.run.directory import load_run_config, open_run, write_config
from bcpg_cluster.run.launch import check_inline
from bcpg_cluster.run.listeners import listeners
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.run.preflight.prompt_digests import hold_prompts
from bcpg_cluster.run.recovery.unasked import judges_to_ask_again
from bcpg_cluster.run.snapshots import SnapshotCheck
from bcpg_cluster.stages.graph import REFERENCE, downstream, evaluation_stages
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.shards import read_shard
from bcpg_cluster_cli.console import ConsoleObserver
from bcpg_cluster_cli.session import find_run, start_runtime
from bcpg_cluster_cli.signals import stop_on_signals
from bcpg_cluster_cli.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Rerun:
    """What running a stage again will do.

    Attributes:
        made: the map stages that are done again.
        last_round: the newest round with a report, before anything is discarded.
    """

    round: int
    made: Sequence[str]
    last_round: int
    is_training: bool

    @property
    def sentence(self) -> str:
        """For people: what is done again now, and how later rounds come back."""
        trained = f", training of round {self.round} and its push" if self.is_training else ""
        text = f"to be done again: {', '.join(self.made)}{trained}".replace(": ,", ":")
        if self.last_round <= self.round:
            return text
        gone = ", ".join(str(later) for later in range(self.round + 1, self.last_round + 1))
        return (
            f"{text}. Rounds to train anew after that: {gone} (`bcpg-cluster iterate --rounds {self.last_round}` does)"
        )


def run_stage(
    name: str,
    round_: int,
    run_dir: str | RunPath | None,
    overrides: Sequence[str] = (),
    *,
    discard_later: bool,
    address: str | None,
    inline: bool,
    as_json: bool = False,
    take_over: bool = False,
) -> None:
    """Let go of what the stage made (and, if asked, of what was made from it), then do it again.

    ``overrides`` change the run's configuration from here on: another beta or lambda needs no judge again, except one that was
    not asked about steps that it decides now (``judges.*.after``).

    Raises:
        UserError: no such stage, the round is not that far, a changed key is read before the stage, or later results depend on
            it and may not be discarded.
    """
    console = Terminal(stderr=as_json)
    directory = find_run(run_dir).absolute()
    before = load_run_config(directory)
    config = change_config(before.model_dump(mode="json"), overrides, str(directory))
    data = config.data_stages
    measuring = evaluation_stages()
    outputs = {stage.name: stage.output for stage in (*data, *measuring)} | {"train": REFERENCE}
    if name not in outputs:
        raise UserError(f"unknown stage {name!r}", rule=f"stages are {', '.join(outputs)}", remedy="give one of these")
    check_inline(config, address, inline=inline)
    check_rerun_changes(name, before, config)
    is_measuring = name in {stage.name for stage in measuring}
    tables = downstream(measuring if is_measuring else data, outputs[name])
    if not is_measuring:
        tables += [REFERENCE, *(stage.output for stage in measuring)]
    with open_run(directory, before, take_over=take_over) as manifest, stop_on_signals(console) as stop_asked:
        if name == "weigh":  # what was not asked for by the settings of then may decide by those of now
            again = judges_to_ask_again(directory, manifest.state, round_, config)
            asked = {table for judge in again for table in downstream(data, f"verdicts.{judge}")}
            tables = [stage.output for stage in data if stage.output in asked and stage.output not in tables] + tables
        later = later_results(manifest.state, round_, is_measuring=is_measuring)
        made = [stage.name for stage in (*data, *measuring) if stage.output in tables]
        plan = Rerun(round_, made, max(manifest.state.reports, default=round_), is_training=not is_measuring)
        if (round_, "weighted" if name == "train" else outputs[name]) not in manifest.state.shards:
            raise UserError(
                f"round {round_} has no results of {name!r}",
                rule="`stage` only repeats what has run before",
                remedy="use `bcpg-cluster iterate` to get that far",
            )
        if later and not discard_later:
            raise UserError(
                f"{', '.join(later)} were made from the results of {name!r} in round {round_}",
                rule="a result is never kept without the results it was made from",
                remedy=f"add --discard-later to discard them (files stay on disk until then); {plan.sentence}",
            )
        if name == "segment":
            for receipt in manifest.state.receipts(round_, "rollouts"):
                check_stored(config.segment, read_shard(directory, receipt))
        start = round_ if is_measuring else round_ - 1
        check_weights_are_there(manifest, start)
        SnapshotCheck(manifest, snapshot_verifier(config.train.kind))(start)  # before results are given up for it
        prompts = preflight(config)
        if later:
            console.print(f"discarding {', '.join(later)}", highlight=False, markup=False, soft_wrap=True)
        console.print(plan.sentence, highlight=False, markup=False, soft_wrap=True)
        hold_prompts(manifest, config, prompts)
        # Measuring again changes no weights; anything else makes this round's snapshot and all after it void.
        versions = round_ + 1 if is_measuring else max(round_, 1)
        changed = {"identity": config.identity, "config": config.model_dump(mode="json")} if overrides else None
        if is_measuring and not later:  # the next round may be under way, or trained
            manifest.reopen_alone(round_, tables, changed)
        else:
            manifest.reopen(round_, tables, versions, changed)
        if overrides:
            write_config(directory, config)  # for people to read; the manifest's word counts
        runtime, placed = start_runtime(config, directory, address, inline=inline, console=console)
        try:
            with ConsoleObserver(console) as display, listeners(display, config, manifest, runtime) as observer:
                reports = build_coordinator(placed, manifest, runtime, observer, stop_asked, prompts).run(round_)
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; what was finished is kept") from None
        finally:
            runtime.shutdown()
    if as_json:
        typer.echo(json.dumps([report.plain() for report in reports.values()]))


def check_weights_are_there(manifest: Manifest, version: int) -> None:
    """Raises :class:`UserError` when the snapshot that has to answer was deleted by the rule for kept snapshots."""
    record = manifest.state.snapshots.get(version)
    if record is not None and record.path and not (manifest.run_dir / record.path).is_dir():
        raise UserError(
            f"snapshot v{version} is no longer there",
            rule="a stage is run again with the weights it had; of these the base, the best and the newest are kept",
            remedy="choose a later round, or raise snapshots.keep_last before the next run",
        )


def later_results(state: ManifestState, round_: int, *, is_measuring: bool) -> list[str]:
    """What would be given up: later rounds, and this round's snapshot unless only the measuring is repeated. A later round that is
    trained and not reported yet is named by its snapshot; it keeps all it has where only the measuring before it is repeated.
    """
    later = [f"round {later}" for later in sorted(state.reports) if later > round_]
    if is_measuring and not later:
        return []
    later += [f"snapshot v{v}" for v in sorted(state.snapshots) if v > round_ and v not in state.reports]
    if not is_measuring and round_ in state.snapshots:
        later.insert(0, f"snapshot v{round_}")
    return later
