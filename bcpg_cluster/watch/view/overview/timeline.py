"""When what happened, by the lines of the manifest: bars of work by pool, the least a round could take, and events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.cluster.turns import TRAINER
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import REFERENCE, evaluation_stages
from bcpg_cluster.store.faults import FaultEvent
from bcpg_cluster.store.reports import RoundBound, RoundReport, TrainingSummary
from bcpg_cluster.watch.report.round_bound import (
    Layout,
    Piece,
    RoundTimes,
    bound_text,
    busy_shares,
    layout_of,
    round_bound,
)
from bcpg_cluster.watch.view.overview.records import Bar, Bound, Gantt, Lane, RunEvent

Shards = Mapping[tuple[int, str], Mapping[int, Receipt]]
"""Accepted pieces by round and table; none of them folded, since each look into a folded table costs."""
_MANY = 3000  # more bars than this are joined by lane, round and stage


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the journal's lines say beyond the state they leave.

    Attributes:
        created: when the run was made; ``None`` without such a line.
        pieces: by round, then by table and shard; none of a round whose report has its bound, unless they were asked for.
        reported: when a round's report was written.
    """

    created: float | None
    bars: Mapping[str, Sequence[Bar]]
    pieces: Mapping[int, Mapping[tuple[str, int], Piece]]
    reported: Mapping[int, float]
    events: tuple[RunEvent, ...]


def read_timeline(lines: Iterable[bytes], config: Config, *, keep_pieces: bool = False) -> Timeline:
    """The journal's lines in order. One that cannot be read is passed over: :func:`read_manifest` tells of it.

    Args:
        keep_pieces: also those of rounds whose report has its bound.
    """
    stages = _stages(config)
    bars: dict[str, list[Bar]] = defaultdict(list)
    pieces: dict[int, dict[tuple[str, int], Piece]] = defaultdict(dict)
    reported: dict[int, float] = {}
    events: list[RunEvent] = []
    created: float | None = None
    for line in lines:
        try:
            event = json.loads(line)
            kind, time = event["event"], float(event["time"])
            if kind == "created":
                created = time
            elif kind == "shard" and event["table"] in stages:
                stage, pool = stages[event["table"]]
                bars[pool].append(_shard_bar(event, stage, time))
                piece = Piece(event["round"], event["table"], event["shard"], time - event["seconds"], time)
                pieces[piece.round][piece.table, piece.shard] = piece
            elif kind == "snapshot":
                bars[TRAINER] += _training_bars(event, time)
            elif kind == "push":
                bars["push"].append(
                    Bar(time - event["seconds"], time, "push", event["version"], f"version {event['version']}")
                )
            elif kind == "report":
                reported[event["round"]] = time
                if "bound" in event["report"] and not keep_pieces:
                    pieces.pop(event["round"], None)
            events += _event(kind, event, time)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return Timeline(created, bars, pieces, reported, tuple(events))


def gantt_of(timeline: Timeline, bounds: Sequence[Bound], config: Config) -> Gantt | None:
    """The lanes of all pools that did something; ``None`` where none did."""
    bars = [bar for of_pool in timeline.bars.values() for bar in of_pool]
    if not bars:
        return None
    order = [*config.pool_names(), "push"]
    join = len(bars) > _MANY
    lanes = [
        Lane(pool, tuple(_joined(timeline.bars[pool]) if join else sorted(timeline.bars[pool], key=_begin)))
        for pool in sorted(timeline.bars, key=lambda pool: order.index(pool) if pool in order else len(order))
    ]
    return Gantt(min(bar.start for bar in bars), tuple(lanes), tuple(bounds))


def _begin(bar: Bar) -> float:
    return bar.start


def _stages(config: Config) -> dict[str, tuple[str, str]]:
    """By table, the stage that writes it and the pool it runs in."""
    specs = (*config.data_stages, *evaluation_stages())
    return {spec.output: (spec.name, spec.pool) for spec in specs} | {REFERENCE: ("reference", TRAINER)}


def _shard_bar(event: Mapping[str, Any], stage: str, time: float) -> Bar:
    text = f"shard {event['shard']}: {event['num_rows']:,} rows in {event['seconds']:.1f} s"
    return Bar(time - event["seconds"], time, stage, event["round"], text)


def _training_bars(event: Mapping[str, Any], time: float) -> list[Bar]:
    """The optimiser steps and the snapshot behind them; none of a round that taught nothing."""
    training = TrainingSummary.read(event["metrics"] or {})
    if training.train_s is None or training.snapshot_s is None:
        return []
    round_, began = event["version"], time - training.snapshot_s
    return [
        Bar(began - training.train_s, began, "train", round_, f"{training.steps:,.0f} optimiser steps"),
        Bar(began, time, "snapshot", round_, f"version {round_}"),
    ]


def _joined(bars: Sequence[Bar]) -> list[Bar]:
    """Bars of one round and stage that touch, as one."""
    found: list[Bar] = []
    by_stage: dict[tuple[int, str], list[Bar]] = defaultdict(list)
    for bar in bars:
        by_stage[bar.round, bar.stage].append(bar)
    for (round_, stage), of_stage in by_stage.items():
        spans: list[list[float]] = []  # start, end, pieces
        for bar in sorted(of_stage, key=_begin):
            if spans and bar.start <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], bar.end)
                spans[-1][2] += 1
            else:
                spans.append([bar.start, bar.end, 1])
        found += [Bar(start, end, stage, round_, f"{number:,.0f} shards") for start, end, number in spans]
    return sorted(found, key=_begin)


# --- events


def _event(kind: str, event: Mapping[str, Any], time: float) -> list[RunEvent]:
    match kind:
        case "created":
            return [RunEvent(time, None, kind, f"made by bcpg-cluster {event['program_version']}")]
        case "report":
            return [RunEvent(time, event["round"], kind, f"round {event['round']} is done")]
        case "retry":  # before faults were records
            return [RunEvent(time, None, kind, f"{event['what']}: {event['why']}"[:500])]
        case "fault":
            fault = FaultEvent.read(event)
            return [RunEvent(time, fault.round, str(fault.kind), fault.text[:500])]
        case "push":
            proof = f"canaries {event['canaries']}"
            text = f"version {event['version']} reached {event['num_members']} engines by {event['method']}, {proof}"
            return [RunEvent(time, event["version"], kind, text)]
        case "imported":
            text = f"{event['num_samples']:,} responses made elsewhere, from {event['source']}"
            return [RunEvent(time, 1, kind, text)]
        case "prompts" if event["changes"]:
            return [RunEvent(time, None, kind, f"problems changed: {', '.join(map(str, event['changes']))}"[:500])]
        case "reopened":
            text = f"let go of {', '.join(event['tables']) or 'later rounds'}"
            text += "; the configuration changed" if event.get("changed") else ""
            return [RunEvent(time, event["round"], kind, text)]
    return []


# --- the least a round could take


def bound_of(report: RoundReport, timeline: Timeline, config: Config) -> Bound:
    """As the report has it; of a round before reports had one, by the times of its pieces and the pools as configured."""
    if report.bound is not None:
        return _shown(report.round, report.bound, report.busy)
    took = report.seconds.get("round", 0.0)
    if report.round == 0:
        return Bound(0, None, took, "Round 0 is an evaluation alone: it has no bound. Its time includes start-up.", {})
    found = _counted_again(report, timeline, layout_of(config))
    return Bound(report.round, None, took, found, {}) if isinstance(found, str) else found


def _shown(round_: int, bound: RoundBound, busy: Mapping[str, float]) -> Bound:
    text = f"{bound_text(bound)}. {_WORDS}"
    return Bound(round_, bound.bound_s, bound.took_s, text, dict(busy))


_WORDS = (
    "D: the longest pool's work spread evenly, or the longest way of one shard. R: the reference pass. T: optimiser steps and "
    "snapshot. P: the push. Evaluation and start-up are not in it."
)


def _counted_again(report: RoundReport, timeline: Timeline, layout: Layout) -> Bound | str:
    """The bound of a round whose report has none, or why there is none."""
    train, push, reported = report.train, report.push, timeline.reported.get(report.round)
    if train is None or train.train_s is None or push is None or reported is None or "round" not in report.seconds:
        return "No bound: the round made no optimiser step, or noted no seconds of it."
    pieces, began = tuple(timeline.pieces.get(report.round, {}).values()), reported - report.seconds["round"]
    if any(piece.ended < began for piece in pieces):
        return "No bound: a part of the round was done before its last process began, or by another run."
    train_s, reference_s = train.train_s + (train.snapshot_s or 0.0), train.reference_s or 0.0
    bound = round_bound(RoundTimes(pieces, began, reported, reference_s, train_s, push.seconds), layout)
    if bound is None:
        return "No bound: shards of the data half are missing."
    is_passed = any(piece.table == REFERENCE for piece in pieces)
    busy = busy_shares(pieces, layout, began, reported, train_s if is_passed else train_s + reference_s)
    return _shown(report.round, bound, busy)
