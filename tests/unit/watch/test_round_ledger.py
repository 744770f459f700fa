"""watch.round_ledger: which rounds have a bound, on a clock of the test's own."""

from __future__ import annotations

import sys
import threading

import pytest

from bcpg_cluster.records import Receipt
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.reports import PushFacts, TrainingSummary
from bcpg_cluster.watch.observer import Noted, ShardAccepted
from bcpg_cluster.watch.report.round_bound import Capacity, Layout, RoundAccount
from bcpg_cluster.watch.round_ledger import RoundLedger

DATA = (StageSpec("generate", "rollout", ("prompts",), "rollouts"),)
LAYOUT = Layout(DATA, {"rollouts": "rollout", "eval_rollouts": "rollout"}, {"rollout": Capacity(1, may_vary=False)})
TRAINED = TrainingSummary(steps=3.0, train_s=20.0, snapshot_s=1.0, reference_s=4.0)
PUSHED = PushFacts(
    method="gloo", why="", seconds=2.0, num_members=1, worst_nats=0.0, separation_nats=1.0, cached_prefix_nats=None,
    canaries="passed", proof_s=0.1,
)  # fmt: skip


class Story:
    """A run whose shards are accepted at moments that the test names."""

    def __init__(self) -> None:
        self.now = 0.0
        self.state = ManifestState()
        self.ledger = RoundLedger(LAYOUT, clock=lambda: self.now)

    def begin(self, round_: int, at: float) -> None:
        self.now = at
        self.ledger.begin(round_)

    def accept(self, round_: int, table: str, shard: int, at: float, seconds: float, *, told: bool = True) -> None:
        self.now = at
        receipt = Receipt(table, round_, shard, "a", f"{table}/{shard}", 1, 1, "", seconds)
        self.state.add_receipt(receipt)
        if told:
            self.ledger.hear(ShardAccepted(round_, table, receipt))

    def account(self, round_: int, at: float) -> RoundAccount:
        self.now = at
        return self.ledger.account(round_, self.state, *((TRAINED, PUSHED) if round_ else (None, None)))


def test_a_round_in_one_go():
    story = Story()
    story.begin(1, 100.0)
    story.accept(1, "rollouts", 0, 110.0, 8.0)
    story.ledger.hear(Noted("nothing to it"))
    story.accept(1, "rollouts", 1, 118.0, 8.0)
    story.accept(1, "eval_rollouts", 0, 150.0, 6.0)
    found = story.account(1, 160.0)
    assert found.bound is not None
    assert (found.bound.bound_s, found.bound.took_s) == (16.0 + 21.0 + 2.0, 60.0)
    assert found.bound.reference_s == 4.0  # nothing told of its pieces
    assert found.busy == {"rollout": (16.0 + 6.0) / 60.0, "trainer": (21.0 + 4.0) / 60.0}


def test_a_turn_ends_where_the_next_begins():
    """The evaluation of round 1 hides behind round 2: its time is of the turn of round 2."""
    story = Story()
    story.begin(1, 100.0)
    story.accept(1, "rollouts", 0, 110.0, 8.0)
    story.begin(2, 140.0)
    story.accept(1, "eval_rollouts", 0, 150.0, 8.0)
    story.accept(2, "rollouts", 0, 160.0, 8.0)
    first = story.account(1, 161.0)
    assert first.bound is not None
    assert first.bound.took_s == 40.0
    assert first.busy["rollout"] == 8.0 / 40.0
    second = story.account(2, 180.0)
    assert second.bound is not None
    assert (second.bound.took_s, second.busy["rollout"]) == (40.0, 16.0 / 40.0)


def test_a_round_resumed_in_the_middle_has_neither():
    story = Story()
    story.accept(1, "rollouts", 0, 50.0, 8.0, told=False)  # by an earlier process, or by another run
    story.begin(1, 100.0)
    story.accept(1, "rollouts", 1, 110.0, 8.0)
    assert story.account(1, 160.0) == RoundAccount()
    story.begin(2, 160.0)
    story.accept(2, "rollouts", 0, 170.0, 8.0)
    assert story.account(2, 200.0).bound is not None


def test_a_round_that_nobody_began_has_neither():
    story = Story()
    story.accept(1, "rollouts", 0, 110.0, 8.0)
    assert story.account(1, 160.0) == RoundAccount()


def test_a_round_that_starts_over_keeps_its_beginning_and_its_last_pieces():
    story = Story()
    story.begin(1, 100.0)
    story.accept(1, "rollouts", 0, 110.0, 9.0)
    story.begin(1, 115.0)
    story.accept(1, "rollouts", 0, 125.0, 8.0)  # the first was damaged
    found = story.account(1, 160.0)
    assert found.bound is not None
    assert (found.bound.data_s, found.bound.took_s) == (8.0, 60.0)


def test_the_base_and_a_round_without_steps_have_no_bound_but_busy_pools():
    story = Story()
    story.begin(0, 100.0)
    story.accept(0, "eval_rollouts", 0, 110.0, 5.0)
    assert story.account(0, 110.0) == RoundAccount(busy={"rollout": 0.5})
    story.begin(1, 110.0)
    story.accept(1, "rollouts", 0, 120.0, 5.0)
    story.now = 130.0
    found = story.ledger.account(1, story.state, TrainingSummary(), PUSHED)
    assert found == RoundAccount(busy={"rollout": 0.25})


def test_pieces_are_forgotten_with_their_round():
    story = Story()
    for round_ in range(1, 4):
        story.begin(round_, 100.0 * round_)
        story.accept(round_, "rollouts", 0, 100.0 * round_ + 9.0, 8.0)
        story.account(round_, 100.0 * round_ + 50.0)
    assert story.ledger._pieces == {}


@pytest.mark.parametrize("table", ["prompts", "reference"])
def test_tables_of_no_pool_do_not_matter_to_whether_a_round_is_whole(table: str):
    story = Story()
    story.begin(1, 100.0)
    story.accept(1, table, 0, 101.0, 0.0, told=False)
    story.accept(1, "rollouts", 0, 110.0, 8.0)
    assert story.account(1, 160.0).bound is not None


def test_a_training_in_another_thread_may_tell_meanwhile():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    story, is_over = Story(), threading.Event()

    def tell() -> None:
        for shard in range(100_000):
            story.ledger.hear(
                ShardAccepted(
                    1,
                    "reference",
                    Receipt("reference", 1, shard % 3000, "a", "p", 1, 1, "", 0.0),
                )
            )
            if is_over.is_set():
                return

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for round_ in range(1000, 2000):
            story.begin(round_, -1.0)  # keeps the pieces of round 1
            story.account(round_ - 1, 1.0)
    finally:
        is_over.set()
        teller.join()
        sys.setswitchinterval(before)
