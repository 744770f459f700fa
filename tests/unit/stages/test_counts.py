"""counts.py of generate, verify and weigh: names are stable, and what is written is read back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import DropReason, Outcome, OutcomeStatus, SampleId, StopReason, VerdictStatus
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.weigh.counts import PairCell, QualityCell, WeighCounts
from bcpg_cluster.stages.weigh.right_steps import RightStepCounts

number = st.integers(0, 10**6)
mass = st.floats(0, 1e6)
judge = st.sampled_from(["llm", "prm", "a-b", "c_d"])
said = st.sampled_from(["right", "wrong", "none"])


def test_rollouts_by_hand():
    counts = RolloutCounts.of([(3, StopReason.STOP), (5, StopReason.LENGTH), (2, StopReason.STOP)])
    assert counts.metrics() == {
        "samples": 3.0, "tokens": 10.0, "stop.stop": 2.0, "stop.length": 1.0, "stop.aborted": 0.0,
        "stop.prompt_too_long": 0.0,
    }  # fmt: skip
    assert RolloutCounts.read(counts.metrics()) == counts


def test_outcomes_by_hand():
    rewards = [(OutcomeStatus.VERIFIED, 1.0), (OutcomeStatus.VERIFIED, 0.0), (OutcomeStatus.ENGINE_LOST, None)]
    outcomes = [Outcome(SampleId(1, "p", n), status, reward, None) for n, (status, reward) in enumerate(rewards)]
    counts = OutcomeCounts.of(outcomes, unparsed=1, tokens=9)
    assert counts.metrics() == {
        "status.verified": 2.0, "status.engine_lost": 1.0, "samples": 3.0, "unparsed": 1.0, "tokens": 9.0, "rewards": 1.0
    }  # fmt: skip
    assert OutcomeCounts.read(counts.metrics()) == counts
    assert counts.mean_reward == 0.5  # the lost sample is no zero
    assert OutcomeCounts.read({}).mean_reward is None


def test_weighing_by_hand():
    counts = WeighCounts(asked=4, kept=3, wrong_tokens=8, mined_tokens=2, dropped=Counter(all_right=1))
    counts.abstained["llm", "timeout"] = 2
    counts.pairs[PairCell("llm", "prm", "right", "none")] = 5
    counts.quality[QualityCell("consensus", "truth", "wrong", "right", "tokens")] = 7
    counts.wrong_mass, counts.mined_mass = 2.0, 0.5
    counts.right_steps["consensus"] = RightStepCounts(3, 2, 0.75, 8, 2)
    named = {name: value for name, value in counts.metrics().items() if value}
    assert named == {
        "asked": 4.0, "kept": 3.0, "tokens.wrong": 8.0, "tokens.mined": 2.0, "dropped.all_right": 1.0,
        "abstained.llm.timeout": 2.0, "pair.llm+prm.right.none": 5.0, "quality.consensus.truth.wrong.right.tokens": 7.0,
        "mass.wrong": 2.0, "mass.mined": 0.5, "right_steps.consensus.answers": 3.0, "right_steps.consensus.with_right": 2.0,
        "right_steps.consensus.prefix_shares": 0.75, "right_steps.consensus.tokens": 8.0,
        "right_steps.consensus.uncertain": 2.0,
    }  # fmt: skip
    assert counts.mined_share == 0.25
    assert (counts.mined_gradient_share, counts.uncertain_right_share) == (0.25, 0.25)
    nothing = WeighCounts.read({"tokens.wrong": 8.0, "tokens.mined": 2.0})  # weighed before these were counted
    assert (nothing.mined_share, nothing.mined_gradient_share, nothing.uncertain_right_share) == (0.25, None, None)
    assert nothing.right_steps == {} and WeighCounts().mined_share is None
    assert WeighCounts.read({**counts.metrics(), "of.another.program": 1.0, "pair.x.y": 1.0}) == counts


@given(
    st.lists(number, min_size=13, max_size=13),
    st.dictionaries(st.sampled_from([str(reason) for reason in DropReason]), number),
    st.dictionaries(st.tuples(judge, st.sampled_from([str(status) for status in VerdictStatus])), number),
    st.dictionaries(st.builds(PairCell, judge, judge, said, said), number),
    st.dictionaries(st.builds(QualityCell, judge, judge, said, said, st.sampled_from(["tokens", "steps"])), number),
    st.tuples(mass, mass),
    st.dictionaries(judge, st.builds(RightStepCounts, number, number, mass, number, number)),
)
def test_any_account_survives_its_metrics(plain, dropped, abstained, pairs, quality, masses, right_steps):
    counts = WeighCounts(
        *plain, Counter(dropped), Counter(abstained), Counter(pairs), Counter(quality), *masses, right_steps
    )
    assert WeighCounts.read(counts.metrics()) == counts
