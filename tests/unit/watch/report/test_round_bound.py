"""watch.report.round_bound: bounds and busy shares by hand, and that no schedule beats the bound."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.config.run import Config
from bcpg_cluster.stages.graph import StageSpec, data_stages
from bcpg_cluster.watch.report.round_bound import (
    ONE_SHARD,
    Capacity,
    Layout,
    Piece,
    RoundTimes,
    bound_text,
    busy_shares,
    covered_s,
    layout_of,
    longest_way_s,
    most_at_once,
    round_bound,
)

STAGES = data_stages({"llm": "judge.llm", "prm": "prm"}, {"llm": ["prm"]})
LEASES = {"rollout": 2, "judge.llm": 1, "prm": 1, "cpu": 2}


def layout(leases: dict[str, int] | None = None, stages: tuple[StageSpec, ...] = STAGES) -> Layout:
    pools = {spec.output: spec.pool for spec in stages} | {"eval_rollouts": "rollout"}
    return Layout(stages, pools, {pool: Capacity(n, False) for pool, n in (leases or LEASES).items()})


TWO = (StageSpec("generate", "rollout", ("prompts",), "rollouts"), StageSpec("weigh", "cpu", ("rollouts",), "weighted"))


def piece(table: str, shard: int, began: float, ended: float, round_: int = 1) -> Piece:
    return Piece(round_, table, shard, began, ended)


def times(*pieces: Piece, reference_s: float = 0.0, train_s: float = 20.0, push_s: float = 2.0) -> RoundTimes:
    return RoundTimes(pieces, 100.0, 160.0, reference_s, train_s, push_s)


# --- by hand


def test_the_busiest_pools_work_is_spread_over_what_it_can_do_at_once():
    generated = [piece("rollouts", k, 100.0 + 8 * (k // 2), 108.0 + 8 * (k // 2)) for k in range(4)]
    weighed = [piece("weighted", k, 116.0, 117.0) for k in range(4)]
    found = round_bound(times(*generated, *weighed), layout(stages=TWO))
    assert found is not None
    # rollout: 4 x 8 s over 2 at once; cpu: 4 s over 2; one shard's way is 8 + 1
    assert (found.data_s, found.longest) == (16.0, "rollout")
    assert (found.bound_s, found.took_s, found.ratio) == (16.0 + 20.0 + 2.0, 60.0, 60.0 / 38.0)
    assert bound_text(found) == "max(D 16.0 s of rollout, R 0.0 s) + T 20.0 s + P 2.0 s"


def test_one_long_shard_is_a_bound_of_its_own():
    pieces = [piece("rollouts", 0, 100.0, 120.0), piece("rollouts", 1, 100.0, 101.0)]
    pieces += [piece("weighted", 0, 120.0, 123.0), piece("weighted", 1, 101.0, 102.0)]
    found = round_bound(times(*pieces), layout(stages=TWO))
    assert found is not None
    assert (found.data_s, found.longest) == (23.0, ONE_SHARD)


def test_judges_stand_side_by_side_unless_one_comes_after_another():
    seconds = {"generate": 8.0, "verify": 1.0, "segment": 1.0, "judge.llm": 4.0, "judge.prm": 3.0, "weigh": 0.5}
    for after, way in (({}, 8 + 1 + 1 + 4 + 0.5), ({"llm": ["prm"]}, 8 + 1 + 1 + 3 + 4 + 0.5)):
        names = {"prm": "prm", "llm": "judge.llm"}
        assert longest_way_s({spec: {0: seconds[spec.name]} for spec in data_stages(names, after)}) == way


def test_a_reference_pass_counts_where_it_was_under_way_however_it_was_cut():
    pieces = [piece("rollouts", 0, 100.0, 110.0), piece("weighted", 0, 110.0, 111.0)]
    serial = [piece("reference", rank, 111.0, 131.0 - rank) for rank in range(2)]  # two ranks at the same pass
    cut = [piece("reference", 0, 105.0, 118.0), piece("reference", 1, 120.0, 127.0)]  # waits between its pieces
    for passed in (serial, cut):
        found = round_bound(times(*pieces, *passed, reference_s=99.0), layout(stages=TWO))
        assert found is not None
        assert (found.data_s, found.reference_s, found.bound_s) == (11.0, 20.0, 20.0 + 20.0 + 2.0)
    untold = round_bound(times(*pieces, reference_s=30.0), layout(stages=TWO))
    assert untold is not None
    assert (untold.reference_s, untold.bound_s) == (30.0, 52.0)


def test_the_evaluation_is_not_in_the_bound():
    pieces = [piece("rollouts", 0, 100.0, 110.0), piece("weighted", 0, 110.0, 111.0)]
    evaluated = piece("eval_rollouts", 0, 133.0, 158.0)
    assert round_bound(times(*pieces, evaluated), layout(stages=TWO)) == round_bound(times(*pieces), layout(stages=TWO))


def test_a_stage_without_pieces_leaves_no_bound():
    assert round_bound(times(piece("rollouts", 0, 100.0, 110.0)), layout(stages=TWO)) is None


def test_more_at_once_than_configured_counts_where_a_pool_may_vary():
    spans = [(0.0, 4.0), (1.0, 5.0), (2.0, 6.0)]
    assert Capacity(2, may_vary=False).seen(spans) == 2
    assert Capacity(2, may_vary=True).seen(spans) == 3
    assert Capacity(8, may_vary=True).seen(spans) == 8


def test_times_covered_and_at_once():
    assert covered_s([(5.0, 8.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.0)]) == 6.0
    assert covered_s([]) == 0.0
    assert most_at_once([(0.0, 1.0), (1.0, 2.0)]) == 1
    assert most_at_once([(0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == 3
    assert most_at_once([]) == 0


def test_busy_shares_by_hand():
    pieces = [
        piece("eval_rollouts", 0, 95.0, 105.0, round_=0),  # 5 of its seconds lie in the turn of round 1
        piece("rollouts", 0, 105.0, 115.0),
        piece("rollouts", 1, 105.0, 120.0),
        piece("weighted", 0, 115.0, 116.0),
        piece("reference", 0, 110.0, 113.0),
        piece("rollouts", 0, 150.0, 170.0, round_=2),
    ]
    shares = busy_shares(pieces, layout(stages=TWO), 100.0, 150.0, 12.0)
    assert shares == {
        "rollout": (5.0 + 10.0 + 15.0) / (2 * 50.0),
        "judge.llm": 0.0,
        "prm": 0.0,
        "cpu": 1.0 / (2 * 50.0),
        "trainer": (3.0 + 12.0) / 50.0,
    }
    assert "trainer" not in busy_shares(pieces[:1], layout(stages=TWO), 100.0, 150.0, None)
    assert busy_shares(pieces, layout(stages=TWO), 100.0, 100.0, 12.0) == {}


def test_the_layout_of_a_configuration(make_config: Callable[..., Config]):
    config = make_config(pools={"rollout": {"members": 3, "leases_per_member": 4}, "cpu": {"members": 2, "max": 5}})
    found = layout_of(config)
    assert found.capacities == {"rollout": Capacity(12, may_vary=False), "cpu": Capacity(4, may_vary=True)}
    assert (found.pools["rollouts"], found.pools["eval_outcomes"]) == ("rollout", "cpu")
    assert "reference" not in found.pools
    on_gpus = layout_of(make_config(pools={"rollout": {"num_gpus": 1}}))
    assert on_gpus.capacities["rollout"] == Capacity(2, may_vary=True)  # as many shards as keep the engine full


# --- for any schedule


def scheduled(seconds: dict[tuple[str, int], float], leases: dict[str, int], seed: int) -> list[Piece]:
    """Some order in which pools work pieces off as soon as they can, none of them ever before its inputs."""
    rng, ends, left = random.Random(seed), {}, set(seconds)
    free = {pool: [0.0] * number for pool, number in leases.items()}
    found = []
    spec_of = {spec.output: spec for spec in STAGES}
    while left:
        ready = [key for key in sorted(left) if all((table, key[1]) not in left for table in spec_of[key[0]].inputs)]
        table, shard = rng.choice(ready)
        left.remove((table, shard))
        spec = spec_of[table]
        slot = rng.randrange(len(free[spec.pool]))
        began = max([free[spec.pool][slot], *(ends.get((name, shard), 0.0) for name in spec.inputs)])
        began += rng.choice([0.0, 0.0, rng.random()])
        ends[table, shard] = free[spec.pool][slot] = began + seconds[table, shard]
        found.append(Piece(1, table, shard, began, ends[table, shard]))
    return found


rounds = st.fixed_dictionaries(
    {
        "num_shards": st.integers(1, 6),
        "leases": st.fixed_dictionaries({pool: st.integers(1, 4) for pool in LEASES}),
        "seed": st.integers(0, 10_000),
        "reference_s": st.floats(0.0, 30.0),
        "train_s": st.floats(0.0, 30.0),
        "push_s": st.floats(0.0, 5.0),
        "wait_s": st.floats(0.0, 5.0),
    }
)


def drawn(facts: dict) -> tuple[RoundTimes, Layout]:  # type: ignore[type-arg]
    """A round of random pieces in a random order; the reference pass began with the data, or after it."""
    rng = random.Random(facts["seed"])
    tables = [spec.output for spec in STAGES]
    seconds = {(table, shard): rng.expovariate(1.0) for table in tables for shard in range(facts["num_shards"])}
    pieces = scheduled(seconds, facts["leases"], facts["seed"])
    data_ended = max(piece.ended for piece in pieces)
    passed = rng.choice([0.0, data_ended])
    reference = Piece(1, "reference", 0, passed, passed + facts["reference_s"])
    ended = max(data_ended, reference.ended) + facts["wait_s"] + facts["train_s"] + facts["push_s"]
    told = RoundTimes([*pieces, reference], 0.0, ended, 0.0, facts["train_s"], facts["push_s"])
    return told, layout(facts["leases"])


@given(rounds)
def test_no_schedule_is_faster_than_its_bound(facts: dict):  # type: ignore[type-arg]
    told, of = drawn(facts)
    found = round_bound(told, of)
    assert found is not None
    assert found.bound_s <= found.took_s + 1e-9
    varying = replace(of, capacities={pool: Capacity(1, may_vary=True) for pool in of.capacities})
    loose = round_bound(told, varying)  # what pools can do at once is only known from what they did
    assert loose is not None
    assert loose.bound_s <= found.took_s + 1e-9
    shares = busy_shares(told.pieces, of, told.began, told.ended, facts["train_s"])
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares.values())


@given(rounds, st.integers(0, 1000), st.floats(0.01, 10.0))
def test_longer_pieces_never_lower_a_bound_and_more_members_never_raise_it(facts: dict, which: int, more: float):  # type: ignore[type-arg]
    told, of = drawn(facts)
    found = round_bound(told, of)
    pieces = list(told.pieces)
    one = pieces[which % len(pieces)]
    pieces[which % len(pieces)] = replace(one, ended=one.ended + more)
    slower = round_bound(replace(told, pieces=pieces), of)
    larger = {pool: Capacity(held.num_slots + 1, False) for pool, held in of.capacities.items()}
    roomier = round_bound(told, replace(of, capacities=larger))
    assert found is not None
    assert slower is not None
    assert roomier is not None
    assert slower.bound_s >= found.bound_s - 1e-9
    assert roomier.bound_s <= found.bound_s + 1e-9
    for later in (replace(told, train_s=told.train_s + more), replace(told, push_s=told.push_s + more)):
        raised = round_bound(later, of)
        assert raised is not None
        assert raised.bound_s == pytest.approx(found.bound_s + more)
