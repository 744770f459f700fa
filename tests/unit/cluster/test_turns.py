"""cluster/turns.py and stages/graph.turns: pools that share a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.cluster.turns import TRAINER, Turns
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.run.build.footprint import held_together
from bcpg_cluster.stages.graph import data_stages, evaluation_stages, turns


def named(stages: Any) -> list[tuple[str | None, list[str]]]:
    return [(pool, [stage.name for stage in of_turn]) for pool, of_turn in turns(stages)]


def test_a_round_has_a_turn_for_every_pool_and_the_cpu_works_in_all():
    stages = data_stages({"llm": "judge.llm", "prm": "prm", "truth": "cpu", "second": "judge.llm"})
    assert named(stages) == [
        ("rollout", ["generate", "verify", "segment", "judge.truth"]),
        ("judge.llm", ["judge.llm", "judge.second"]),
        ("prm", ["judge.prm", "weigh"]),
    ]
    assert named(evaluation_stages()) == [("rollout", ["evaluate", "verify_evaluation"])]
    rest = [stage for stage in stages if stage.name in ("segment", "judge.prm", "weigh")]  # the others are sealed
    assert named(rest) == [(None, ["segment"]), ("prm", ["judge.prm", "weigh"])]


def test_no_stage_comes_before_its_inputs():
    stages = data_stages({f"j{n}": ("cpu", "a", "b", "rollout")[n % 4] for n in range(9)})
    when = {stage.output: index for index, (_, of_turn) in enumerate(turns(stages)) for stage in of_turn}
    assert set(when) == {stage.output for stage in stages}
    for stage in stages:
        assert all(when[table] <= when[stage.output] for table in stage.inputs if table in when)


POOLS = ("rollout", "prm", "cpu")


class Shared:
    """Scripted pools that take turns; members are ready at once."""

    def __init__(
        self, scripted: Any, sleepers: tuple[str, ...] = (), sleeps: Any = True, *, is_colocated: bool = True
    ) -> None:
        self.runtime, self.sleeps = scripted, sleeps
        scripted.on_call = self._answer
        self.pools = {
            name: Pool(name, scripted, lambda n, name=name: MemberSpec(f"{name}/{n}", dict, {}), PoolLimits())
            for name in POOLS
        }
        self.gang = Gang("trainer", scripted, lambda group, rank: MemberSpec(f"trainer/{rank}.{group}", dict, {}), 2)
        self.turns = Turns(self.pools, self.gang, is_colocated=is_colocated, sleepers=sleepers, patience_s=0.01)
        for pool in self.pools.values():
            pool.resize(2)

    def _answer(self, call: Any) -> None:
        if call.method == "sleep" and isinstance(self.sleeps, Exception):
            call.answer.set_exception(self.sleeps)
        elif call.method == "sleep" and self.sleeps is None:
            pass  # silent
        else:
            call.answer.set_result(self.sleeps if call.method == "sleep" else None)

    def take(self, name: str | None) -> list[str]:
        """The members that live afterwards."""
        self.turns.take(name)
        if name == TRAINER:
            self.gang.begin_start()
        for pool in self.pools.values():
            pool.poll(assign=False)
        return sorted(member.name for member in self.runtime.members if not member.is_killed)


def test_one_pool_at_a_time_has_engines(scripted: Any):
    shared = Shared(scripted)
    assert [shared.turns.is_closed(name) for name in POOLS] == [True, True, True]
    assert shared.take(None) == ["cpu/0", "cpu/1"]
    assert shared.take("rollout") == ["cpu/0", "cpu/1", "rollout/0", "rollout/1"]
    assert not shared.turns.is_closed("rollout")
    assert shared.take("rollout") == ["cpu/0", "cpu/1", "rollout/0", "rollout/1"]
    assert shared.take(None) == ["cpu/0", "cpu/1", "rollout/0", "rollout/1"]
    assert shared.take("prm") == ["cpu/0", "cpu/1", "prm/0", "prm/1"]
    shared.pools["rollout"].resize(1)  # by a person, out of turn
    assert shared.take(TRAINER) == ["cpu/0", "cpu/1", "trainer/0.0", "trainer/1.0"]
    assert shared.turns.is_closed("rollout")
    assert shared.take("rollout") == ["cpu/0", "cpu/1", "rollout/2"]
    assert not shared.gang.is_up


def test_a_pool_that_sleeps_keeps_its_members(scripted: Any):
    shared = Shared(scripted, sleepers=("rollout",))
    shared.take("rollout")
    assert shared.take("prm") == ["cpu/0", "cpu/1", "prm/0", "prm/1", "rollout/0", "rollout/1"]
    assert not shared.turns.is_closed("rollout")
    shared.take("rollout")
    assert shared.take(TRAINER)[2:] == ["rollout/0", "rollout/1", "trainer/0.0", "trainer/1.0"]
    assert shared.take("rollout")[2:] == ["rollout/0", "rollout/1"]
    assert [call.method for call in scripted.members[2].calls] == ["ping", "sleep", "wake_up", "sleep", "wake_up"]


@pytest.mark.parametrize("answer", [False, None, EngineError("broken")])
def test_what_cannot_sleep_is_closed(scripted: Any, answer: Any):
    shared = Shared(scripted, sleepers=("rollout",), sleeps=answer)
    shared.take("rollout")
    assert shared.take("prm") == ["cpu/0", "cpu/1", "prm/0", "prm/1"]
    assert shared.turns.is_closed("rollout")
    assert shared.take("rollout") == ["cpu/0", "cpu/1", "rollout/2", "rollout/3"]


def test_a_member_lost_asleep_is_replaced_when_its_turn_comes(scripted: Any):
    shared = Shared(scripted, sleepers=("rollout",))
    shared.take("rollout")
    shared.take("prm")
    scripted.members[2].die()
    assert shared.take("rollout")[2:] == ["rollout/1", "rollout/2"]


def test_pools_that_run_separately_take_no_turns(scripted: Any):
    shared = Shared(scripted, is_colocated=False)
    turns = shared.turns
    assert scripted.members == []  # none starts before it is needed
    turns.need(["rollout"])
    turns.need(["rollout"])
    assert [member.name for member in scripted.members] == ["rollout/0", "rollout/1"]
    assert not turns.is_closed("rollout") and turns.is_closed("cpu")
    turns.need(shared.pools)
    assert len(scripted.members) == 2 * len(shared.pools)
    before = len(scripted.calls)
    for name in ("rollout", TRAINER, None):
        turns.take(name)
        assert not turns.is_closed("rollout")
    assert len(scripted.calls) == before
    assert not any(member.is_killed for member in scripted.members)


def test_what_is_there_at_once(make_config: Callable[..., Any]):
    judges = {"a": {"kind": "llm", "model": "m", "engine_args": {"enable_sleep_mode": True}},
              "b": {"kind": "prm", "model": "m"}}  # fmt: skip
    separate = make_config(judges=judges)
    assert held_together(separate) == [("rollout", "judge.a", "judge.b", "cpu", "trainer")]
    turns_ = make_config(judges=judges, placement="colocated")
    assert held_together(turns_) == [
        ("rollout", "cpu"), ("judge.a", "cpu"), ("judge.b", "cpu"), ("cpu", "trainer"),
    ]  # fmt: skip
    sleeping = make_config(judges=judges, placement="colocated", pools={"judge.a": {"when_idle": "sleep"}})
    assert held_together(sleeping) == [
        ("rollout", "judge.a", "cpu"), ("judge.a", "cpu"), ("judge.a", "judge.b", "cpu"), ("judge.a", "cpu", "trainer"),
    ]  # fmt: skip
    for pool in ("judge.b", "cpu", "trainer", "rollout"):
        with pytest.raises(ConfigError, match="enable_sleep_mode"):
            make_config(judges=judges, pools={pool: {"when_idle": "sleep"}})
    assert separate.identity == turns_.identity == sleeping.identity
