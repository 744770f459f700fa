"""When what happened, by the lines of the manifest: bars of work by pool, the least a round could take, and events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import evaluation_stages
from bcpg_cluster.store.faults import FaultEvent
from bcpg_cluster.store.reports import RoundReport, TrainingSummary
from bcpg_cluster.watch.view.overview.records import Bar, Bound, Gantt, Lane, RunEvent

TRAINER = "trainer"
Shards = Mapping[tuple[int, str], Mapping[int, Receipt]]
"""Accepted pieces by round and table; none of them folded, since each look into a folded table costs."""
_MANY = 3000  # more bars than this are joined by lane, round and stage


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the journal's lines say beyond the state they leave.

    Attributes:
        created: when the run was made; ``None`` without such a line.
    """

    created: float | None
    bars: Mapping[str, Sequence[Bar]]
    events: tuple[RunEvent, ...]


def read_timeline(lines: Iterable[bytes], config: Config) -> Timeline:
    """The journal's lines in order. One that cannot be read is passed over: :func:`read_manifest` tells of it."""
    stages = _stages(config)
    bars: dict[str, list[Bar]] = defaultdict(list)
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
            elif kind == "snapshot":
                bars[TRAINER] += _training_bars(event, time)
            elif kind == "push":
                bars["push"].append(
                    Bar(time - event["seconds"], time, "push", event["version"], f"version {event['version']}")
                )
            events += _event(kind, event, time)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return Timeline(created, bars, tuple(events))


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
    return {spec.output: (spec.name, spec.pool) for spec in specs} | {"reference": ("reference", TRAINER)}


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


def bound_of(report: RoundReport, shards: Shards, config: Config) -> Bound:
    """``max(D, R) + T + P``: the data half or the reference pass, then the optimiser steps and the push."""
    took = report.seconds.get("round", 0.0)
    if report.round == 0:
        return Bound(0, None, took, "Round 0 is an evaluation alone: it has no bound. Its time includes start-up.")
    train, push = report.train, report.push
    if train is None or train.train_s is None or push is None:
        return Bound(report.round, None, took, "No bound: the round made no optimiser step, or noted no seconds of it.")
    data_s, data_words = _data_half(report.round, shards, config)
    if data_s is None:
        return Bound(report.round, None, took, data_words)
    reference_s = train.reference_s or 0.0
    training_s = train.train_s + (train.snapshot_s or 0.0)
    bound = max(data_s, reference_s) + training_s + push.seconds
    text = (
        f"max(D {data_s:.1f} s, R {reference_s:.1f} s) + T {training_s:.1f} s + P {push.seconds:.1f} s. D: {data_words} "
        "R: the reference pass. T: optimiser steps and snapshot. P: the push. Evaluation and start-up are not in it."
    )
    return Bound(report.round, bound, took, text)


def _data_half(round_: int, shards: Shards, config: Config) -> tuple[float | None, str]:
    """Seconds of the longest pool's work, or of the longest shard's way through all stages, and what was taken in words."""
    specs = config.data_stages
    found = {spec: shards.get((round_, spec.output), {}) for spec in specs}
    if not all(found.values()):
        return None, "No bound: shards of the data half are missing."
    work: dict[str, float] = defaultdict(float)
    for spec, receipts in found.items():
        work[spec.pool] += sum(receipt.seconds for receipt in receipts.values())
    at_once = {pool: config.pool(pool).members * config.pool(pool).leases_per_member for pool in work}
    shares = {pool: seconds / at_once[pool] for pool, seconds in work.items()}
    pool = max(shares, key=lambda name: shares[name])
    chain = _longest_chain({spec.output: receipts for spec, receipts in found.items()})
    if chain > shares[pool]:
        return chain, "the longest shard's way from generation to weights (longer than any pool's work spread evenly)."
    return shares[pool], (
        f"{work[pool]:.1f} s of work of pool {pool}, spread evenly over {config.pool(pool).members} members with "
        f"{config.pool(pool).leases_per_member} shards at once each (as configured)."
    )


def _longest_chain(receipts: Mapping[str, Mapping[int, Receipt]]) -> float:
    """Seconds of the slowest shard: its stages one after another, its judges side by side."""
    lengths: dict[int, float] = defaultdict(float)
    judges: dict[int, float] = defaultdict(float)
    for table, by_shard in receipts.items():
        for shard, receipt in by_shard.items():
            if table.startswith("verdicts."):
                judges[shard] = max(judges[shard], receipt.seconds)
            else:
                lengths[shard] += receipt.seconds
    return max(lengths[shard] + judges[shard] for shard in lengths)
