"""watch.view.overview.timeline: bars from receipts, and the bound of a round, by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.view.overview import timeline
from bcpg_cluster.watch.view.overview.records import Bar
from bcpg_cluster.watch.view.overview.timeline import Timeline, bound_of, gantt_of, read_timeline

PUSH = {
    "method": "gloo", "why": "", "seconds": 2.0, "num_members": 2, "worst_nats": 0.0, "separation_nats": 1.0,
    "cached_prefix_nats": None, "canaries": "passed", "proof_s": 0.1,
}  # fmt: skip


def line(event: str, time: float, **facts: Any) -> bytes:
    return json.dumps({"event": event, "time": time, **facts}).encode() + b"\n"


def shard(table: str, time: float, seconds: float, number: int = 0) -> bytes:
    return line("shard", time, table=table, round=1, shard=number, num_rows=8, seconds=seconds)


def test_a_bar_ends_with_its_receipt(make_config: Callable[..., Config]):
    lines = [
        line("created", 100.0, program_version="0.1"),
        shard("prompts", 101.0, 0.0),
        shard("rollouts", 110.0, 8.0),
        shard("verdicts.llm", 112.0, 1.5),
        shard("eval_outcomes", 130.0, 0.5),
        line("snapshot", 125.0, version=1, metrics={"steps": 3, "train_s": 10.0, "snapshot_s": 1.0}),
        line("push", 128.0, version=1, **PUSH),
    ]
    found = read_timeline(lines, make_config())
    assert found.created == 100.0
    assert found.bars == {
        "rollout": [Bar(102.0, 110.0, "generate", 1, "shard 0: 8 rows in 8.0 s")],
        "cpu": [  # fakes run in the pool without engines
            Bar(110.5, 112.0, "judge.llm", 1, "shard 0: 8 rows in 1.5 s"),
            Bar(129.5, 130.0, "verify_evaluation", 1, "shard 0: 8 rows in 0.5 s"),
        ],
        "trainer": [
            Bar(114.0, 124.0, "train", 1, "3 optimiser steps"),
            Bar(124.0, 125.0, "snapshot", 1, "version 1"),
        ],
        "push": [Bar(126.0, 128.0, "push", 1, "version 1")],
    }
    gantt = gantt_of(found, [], make_config())
    assert gantt is not None
    assert gantt.start == 102.0
    assert [lane.pool for lane in gantt.lanes] == ["rollout", "cpu", "trainer", "push"]


def test_a_line_that_is_torn_or_strange_is_passed_over(make_config: Callable[..., Config]):
    found = read_timeline([b'{"event": "shar', b"[]\n", line("news", 1.0), shard("rollouts", 5.0, 1.0)], make_config())
    assert [len(bars) for bars in found.bars.values()] == [1]


def test_events_say_what_happened(make_config: Callable[..., Config]):
    lines = [
        line("retry", 1.0, what="judge.llm shard 3", why="engine lost"),
        line("reopened", 2.0, round=2, tables=["weighted"], versions=2, changed=None),
        line("report", 3.0, round=2, report={}),
        line("prompts", 4.0, sets={}, changes=[]),
        line("fault", 5.0, kind="fallback", what="push v2", cause="wire\nmore", consequence="from disk", round=2),
    ]
    assert [(event.round, event.kind, event.text) for event in read_timeline(lines, make_config()).events] == [
        (None, "retry", "judge.llm shard 3: engine lost"),
        (2, "reopened", "let go of weighted"),
        (2, "report", "round 2 is done"),
        (2, "fallback", "push v2: wire; from disk"),
    ]


def test_many_bars_are_joined_where_they_touch(make_config: Callable[..., Config], monkeypatch: Any):
    monkeypatch.setattr(timeline, "_MANY", 2)
    lines = [
        shard("rollouts", 10.0, 5.0),
        shard("rollouts", 12.0, 4.0, 1),
        shard("rollouts", 20.0, 3.0, 2),
    ]
    gantt = gantt_of(read_timeline(lines, make_config()), [], make_config())
    assert gantt is not None
    assert gantt.lanes[0].bars == (
        Bar(5.0, 12.0, "generate", 1, "2 shards"),
        Bar(17.0, 20.0, "generate", 1, "1 shards"),
    )


def report(number: int = 1, **train: float) -> RoundReport:
    return RoundReport.read(
        {"round": number, "train": {"steps": 1.0, **train}, "push": PUSH, "seconds": {"round": 60.0}},
    )


TABLES = ("outcomes", "steps", "verdicts.llm", "verdicts.prm", "verdicts.truth", "weighted")
TRAIN = {"train_s": 20.0, "snapshot_s": 1.0, "reference_s": 3.0}


def told(config: Config, num_shards: int, *more: bytes, reported: RoundReport | None = None) -> Timeline:
    """A round that began at 100 and was reported at 160: shards of 8 s are generated, the other stages take half a second."""
    lines = [shard("rollouts", 110.0 + k, 8.0, k) for k in range(num_shards)]
    lines += [shard(table, 125.0 + k / 8, 0.5, k) for table in TABLES for k in range(num_shards)]
    plain = (reported or report(**TRAIN)).plain()
    return read_timeline([*more, *lines, line("report", 160.0, round=1, report=plain)], config)


def test_the_bound_takes_the_busiest_pool(make_config: Callable[..., Config]):
    config = make_config(pools={"rollout": {"members": 2, "leases_per_member": 2}})
    # D: 80 s over 4 at once = 20 s (cpu: 30 s over 2); one shard's way is 8 + 3 * 0.5 + 0.5
    found = bound_of(report(**TRAIN), told(config, 10), config)
    assert found.bound_s == 20.0 + 21.0 + 2.0
    assert found.took_s == 60.0
    assert "max(D 20.0 s of rollout, R 3.0 s) + T 21.0 s + P 2.0 s" in found.text
    assert found.busy == {"rollout": 80 / (4 * 60), "cpu": 30 / (2 * 60), "trainer": 24 / 60}


def test_the_bound_is_no_less_than_one_shards_way_nor_the_reference_pass(make_config: Callable[..., Config]):
    config = make_config(pools={"rollout": {"members": 2, "leases_per_member": 2}})
    timeline = told(config, 2)
    found = bound_of(report(**TRAIN), timeline, config)
    assert found.bound_s == 10.0 + 21.0 + 2.0  # 8 + outcomes, steps and weights 1.5 + the slowest judge 0.5
    assert "of one shard" in found.text
    assert bound_of(report(**TRAIN | {"reference_s": 30.0}), timeline, config).bound_s == 30.0 + 21.0 + 2.0


def test_without_the_figures_there_is_no_bound(make_config: Callable[..., Config]):
    config = make_config()
    nothing = read_timeline([line("report", 160.0, round=1, report={})], config)
    assert bound_of(report(**TRAIN), nothing, config).bound_s is None
    assert bound_of(report(**TRAIN), read_timeline([], config), config).bound_s is None
    assert bound_of(report(), told(config, 2), config).bound_s is None
    base = bound_of(RoundReport.read({"round": 0, "seconds": {"round": 9.0}}), nothing, config)
    assert (base.bound_s, base.took_s) == (None, 9.0)


def test_a_round_resumed_in_the_middle_has_no_bound(make_config: Callable[..., Config]):
    config = make_config()
    earlier = shard("rollouts", 90.0, 8.0, 77)  # before the last process began, 60 s before the report
    found = bound_of(report(**TRAIN), told(config, 2, earlier), config)
    assert found.bound_s is None
    assert "before its last process began" in found.text
    again = bound_of(report(**TRAIN), told(config, 2, shard("rollouts", 90.0, 8.0, 1)), config)
    assert again.bound_s is not None  # that shard was made again


def test_the_bound_of_a_report_is_taken_as_it_stands(make_config: Callable[..., Config]):
    config = make_config()
    bound = {
        "bound_s": 40.0,
        "took_s": 50.0,
        "data_s": 18.0,
        "longest": "prm",
        "reference_s": 1.0,
        "train_s": 20.0,
        "push_s": 2.0,
    }
    reported = RoundReport.read({**report(**TRAIN).plain(), "bound": bound, "busy": {"prm": 0.5}})
    timeline = told(config, 2, reported=reported)
    assert not timeline.pieces  # they are many, and not needed
    found = bound_of(reported, timeline, config)
    assert (found.bound_s, found.took_s, found.busy) == (40.0, 50.0, {"prm": 0.5})
    assert "D 18.0 s of prm" in found.text
