"""serving.py: a member that started under older weights loads the newest first."""

from __future__ import annotations

from typing import Any

import pytest

from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import EngineError, MemberLostError
from bcpg_cluster.run.serving import CatchUp, Serving, Weights, adapters_of
from bcpg_cluster.stages.push.adapters.versions import BASE_WEIGHTS, weights_id
from bcpg_cluster.store.manifest import ManifestState, SnapshotRecord


def spec(version: int, snapshot: str | None) -> MemberSpec:
    return MemberSpec("rollout/3", dict, {"policy_version": version, "snapshot": snapshot})


def test_nothing_to_load_when_it_holds_what_is_served(scripted: Any):
    serving = Serving(Weights(0, "base"))
    welcome = CatchUp(serving, "base")
    assert welcome(scripted.start(spec(0, None)), spec(0, None)) is None
    serving.change(Weights(2, "snapshots/v2"))
    assert welcome(scripted.start(spec(2, "snapshots/v2")), spec(2, "snapshots/v2")) is None
    assert scripted.calls == []


def test_it_loads_until_it_holds_the_newest(scripted: Any):
    serving = Serving(Weights(1, "v1"))
    welcome = CatchUp(serving, "base")
    member = scripted.start(spec(0, None))
    assert welcome(member, spec(0, None)) is scripted.calls[0].answer
    serving.change(Weights(2, "v2"))  # pushed to all others meanwhile
    assert welcome(member, spec(0, None)) is scripted.calls[1].answer
    assert welcome(member, spec(0, None)) is None
    assert [call.args for call in scripted.calls] == [("load_snapshot", "v1", 1), ("load_snapshot", "v2", 2)]


@pytest.mark.parametrize("arrived", [{"w": "b"}, {}, {"w": "a", "more": "a"}])
def test_a_late_member_that_read_other_weights_is_not_admitted(scripted: Any, arrived: dict[str, str]):
    started = spec(0, None)
    member = scripted.start(started)
    welcome = CatchUp(Serving(Weights(1, "v1", {"w": "a"})), "base")
    load = welcome(member, started)
    assert load is not None
    scripted.calls[0].answer.set_result(arrived)
    with pytest.raises(EngineError, match="loaded v1: "):  # the pool replaces a member for this
        load.result(0)


def test_a_late_member_that_read_what_was_written(scripted: Any):
    member = scripted.start(spec(0, None))
    load = CatchUp(Serving(Weights(1, "v1", {"w": "a"})), "base")(member, spec(0, None))
    assert load is not None
    scripted.calls[0].answer.set_result({"w": "a"})
    assert load.result(0) == {"w": "a"}


def test_a_late_member_that_is_lost_stays_lost(scripted: Any):
    member = scripted.start(spec(0, None))
    load = CatchUp(Serving(Weights(1, "v1", {"w": "a"})), "base")(member, spec(0, None))
    assert load is not None
    scripted.calls[0].answer.set_exception(MemberLostError("gone"))
    with pytest.raises(MemberLostError, match="gone"):
        load.result(0)


def test_another_runs_weights_of_the_same_version_are_others(scripted: Any):
    welcome = CatchUp(Serving(Weights(1, "b/v1")), "base")
    assert welcome(scripted.start(spec(1, "a/v1")), spec(1, "a/v1")) is not None


# --- what a push of adapters says of them


def test_adapters_stand_between_the_weights_before_and_after():
    state = ManifestState()
    trained = {version: {"w": f"d{version}"} for version in (1, 2)}
    for version, digests in trained.items():
        state.snapshots[version] = SnapshotRecord(version, f"snapshots/v{version}", digests, 1.0, adapters={"a": "x"})
    state.snapshots[3] = SnapshotRecord(3, "snapshots/v2", trained[2], 0.0)  # taught nothing
    config = load_config("laptop", ["train.lora={rank: 4, alpha: 6}", "push.carries=adapters"])
    first, second = adapters_of(state, 1, config), adapters_of(state, 2, config)
    assert first is not None and second is not None
    assert (first.start, first.result) == (BASE_WEIGHTS, weights_id(trained[1]))
    assert (second.start, second.result) == (weights_id(trained[1]), weights_id(trained[2]))
    assert (second.digests, second.scaling) == ({"a": "x"}, 1.5)
    assert adapters_of(state, 3, config) is None
    assert adapters_of(state, 2, load_config("laptop", ["train.lora={}"])) is None


def test_after_a_first_round_that_taught_nothing_adapters_start_from_the_base():
    state = ManifestState()
    state.snapshots[1] = SnapshotRecord(1, "", {}, 0.0)
    state.snapshots[2] = SnapshotRecord(2, "snapshots/v2", {"w": "d"}, 1.0, adapters={"a": "x"})
    found = adapters_of(state, 2, load_config("laptop", ["train.lora={}", "push.carries=adapters"]))
    assert found is not None and found.start == BASE_WEIGHTS
