"""The overview of a run, from its manifest and ``live.json`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.graph import evaluation_stages
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.watch.live import Live
from bcpg_cluster.watch.view.overview.records import (
    SCHEMA,
    Answer,
    Files,
    JudgeFacts,
    Overview,
    Round,
    RunEvent,
    RunFacts,
    ShardLine,
    StageCount,
)
from bcpg_cluster.watch.view.overview.rounds import round_of
from bcpg_cluster.watch.view.overview.settings import config_lines, method_words
from bcpg_cluster.watch.view.overview.timeline import Shards, Timeline, bound_of, gantt_of


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run directory at one moment.

    Attributes:
        live: ``None`` where the run keeps no live status.
        is_running: a process works on it.
        shards: ``state.shards`` with every table unfolded.
    """

    directory: str
    config: Config
    state: ManifestState
    timeline: Timeline
    live: Live | None
    is_running: bool
    shards: Shards


def overview_of(
    seen: RunSeen, *, labels: str | None = None, notices: Sequence[str] = (), start_here: Sequence[Answer] = ()
) -> Overview:
    """The first page.

    Args:
        labels: the file that hand labels go to.
        notices: what could not be read so far.
        start_here: answers, which take a look into some shards.
    """
    rounds = _rounds(seen)
    bounds = [bound_of(report, seen.timeline, seen.config) for _, report in sorted(seen.state.reports.items())]
    lines = shard_lines(seen)
    return Overview(
        SCHEMA,
        _run(seen),
        (*_unfinished(lines, seen), *notices),
        tuple(start_here),
        tuple(rounds),
        gantt_of(seen.timeline, bounds, seen.config),
        _events(seen),
        config_lines(seen.config),
        lines,
        Files(labels),
    )


# --- the run


def _run(seen: RunSeen) -> RunFacts:
    config, live = seen.config, seen.live
    state, why = _state(seen)
    return RunFacts(
        config.name,
        seen.directory,
        _made_with(seen.state),
        state,
        why,
        seen.timeline.created,
        None if live is None else live.heartbeat,
        config.objective.name,
        method_words(config),
        tuple(
            JudgeFacts(
                name,
                judge.role,
                judge.kind,
                judge.model or judge.class_,
                judge.rule,
                None if judge.only_labels else judge.threshold,
            )
            for name, judge in config.judges.items()
        ),
    )


def _state(seen: RunSeen) -> tuple[str, str | None]:
    if seen.is_running:
        return "running", None
    if seen.live is not None and seen.live.ended is not None:
        ended = seen.live.ended
        return ("done" if ended.how == "done" else "stopped"), ended.why or None
    rounds = {round_ for round_, _ in seen.shards}
    if rounds and max(rounds) in seen.state.reports:
        return "done", None
    return "stopped", "Its process ended without a word; `bcpg-cluster iterate` resumes it."


def _made_with(state: ManifestState) -> str | None:
    program = None if state.created is None else f"bcpg-cluster {state.created['program_version']}"
    if not state.made_with:
        return program
    made = state.made_with[-1]
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    device = f"{made.device.num_cpus} CPUs" + "".join(f", {gpu}" for gpu in made.device.gpus)
    return "; ".join(part for part in (program if not versions else None, versions, device) if part)


# --- rounds


def _rounds(seen: RunSeen) -> list[Round]:
    numbers = sorted({round_ for round_, _ in seen.shards} | set(seen.state.reports))
    return [
        round_of(number, seen.state.reports.get(number), _round_state(number, seen), _stages(number, seen), seen.config)
        for number in numbers
    ]


def _round_state(number: int, seen: RunSeen) -> str:
    if number in seen.state.reports:
        return "done" if number else "base"
    return "under way" if seen.is_running else "stopped"


def _stages(number: int, seen: RunSeen) -> tuple[StageCount, ...]:
    """Pieces of each stage; what the run says of the round under way comes before what the manifest counts."""
    if seen.is_running and seen.live is not None and number not in seen.state.reports:
        told = [StageCount(stage.name, stage.done, stage.total) for stage in seen.live.stages if stage.round == number]
        if told:
            return tuple(told)

    def num(table: str) -> int:
        return len(seen.shards.get((number, table), {}))

    specs = evaluation_stages() if number == 0 else seen.config.data_stages
    counted = [StageCount(spec.name, num(spec.output), num(spec.inputs[0])) for spec in specs]
    if number:
        total = num("prompts")
        counted = [replace(stage, total=total) for stage in counted]
        counted += [
            StageCount("train", int(number in seen.state.snapshots), 1),
            StageCount("push", int(number in seen.state.pushes), 1),
        ]
        counted += [
            StageCount(spec.name, num(spec.output), num("eval_prompts"))
            for spec in evaluation_stages()
            if num("eval_prompts")
        ]
    return tuple(counted)


def shard_lines(seen: RunSeen) -> tuple[ShardLine, ...]:
    """Every shard of responses, with the tables it still lacks."""
    tables = [spec.output for spec in seen.config.data_stages if spec.output != "rollouts"]
    found = []
    for (round_, table), receipts in sorted(seen.shards.items()):
        if table != "rollouts":
            continue
        for shard, receipt in sorted(receipts.items()):
            lacks = tuple(name for name in tables if shard not in seen.shards.get((round_, name), {}))
            found.append(ShardLine(round_, shard, receipt.num_rows, lacks))
    return tuple(found)


def _unfinished(lines: Sequence[ShardLine], seen: RunSeen) -> list[str]:
    """A sentence for each round that was begun and is not whole."""
    found = []
    for round_ in sorted({round_ for round_, _ in seen.shards} - set(seen.state.reports)):
        of_round = [line for line in lines if line.round == round_]
        total = len(seen.shards.get((round_, "prompts"), {}))
        waiting = sum(bool(line.waiting_for) for line in of_round)
        if not round_:
            continue
        what = "is under way" if seen.is_running else "was not finished"
        found.append(
            f"Round {round_} {what}: responses of {len(of_round)} of {total} shards are there, {waiting} of them still "
            "wait for other tables."
        )
    return found


def _events(seen: RunSeen) -> tuple[RunEvent, ...]:
    """The manifest's events, and the notes that only ``live.json`` keeps."""
    told = () if seen.live is None else seen.live.events
    notes = [RunEvent(event.time, None, event.kind, event.text) for event in told if event.kind == "note"]
    return tuple(sorted((*seen.timeline.events, *notes), key=lambda event: event.time))
