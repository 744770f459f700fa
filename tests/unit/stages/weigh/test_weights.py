"""stages/weigh/weights.py: advantages, drops and token weights."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import DropReason, Step
from bcpg_cluster.stages.segment.structure import StepRules, segment
from bcpg_cluster.stages.weigh.weights import (
    flip_labels,
    group_advantages,
    mined_steps,
    mined_tokens,
    token_weights,
)


def test_advantages_by_hand():
    result = group_advantages([1.0, 0.0, None, 0.0], 0.5)
    assert result.mean == pytest.approx(1 / 3)
    right, wrong = pytest.approx(2 / 3), pytest.approx(-1 / 3)
    assert [m.advantage for m in result.members] == [right, wrong, None, wrong]
    assert [m.drop_reason for m in result.members] == [None, None, DropReason.UNVERIFIED, None]
    assert result.num_verified == 3


@pytest.mark.parametrize(
    ("rewards", "share", "dropped"),
    [
        ([1.0, 1.0], 0.5, {DropReason.ALL_CORRECT: 2}),
        ([0.0, None, 0.0, 0.0], 0.5, {DropReason.ALL_WRONG: 3, DropReason.UNVERIFIED: 1}),
        ([1.0, None, 0.0, None], 0.75, {DropReason.GROUP_UNVERIFIED: 2, DropReason.UNVERIFIED: 2}),
        ([1.0, 0.0, 1.0, None], 0.75, {DropReason.UNVERIFIED: 1}),  # exactly the share is enough
        ([None, None], 0.0, {DropReason.UNVERIFIED: 2}),
        ([], 0.5, {}),
    ],
)
def test_drop_reasons(rewards: list, share: float, dropped: dict):
    result = group_advantages(rewards, share)
    assert len(result.members) == len(rewards)
    assert Counter(m.drop_reason for m in result.members if m.drop_reason is not None) == dropped


def test_an_empty_response_counts_in_the_mean_and_is_dropped():
    result = group_advantages([1.0, 0.0, 0.0], 0.5, num_tokens=[5, 0, 4])
    assert result.mean == pytest.approx(1 / 3)
    assert result.members[1].drop_reason is DropReason.EMPTY
    assert [m.drop_reason is None for m in result.members] == [True, False, True]


@given(st.lists(st.sampled_from([0.0, 1.0, None]), max_size=12), st.floats(0, 1))
def test_every_sample_is_kept_or_dropped_and_advantages_sum_to_zero(rewards: list, share: float):
    result = group_advantages(rewards, share)
    assert len(result.members) == len(rewards)
    assert sum(m.advantage for m in result.members if m.advantage is not None) == pytest.approx(0.0, abs=1e-9)
    for member, reward in zip(result.members, rewards, strict=True):
        assert (member.advantage is None) == (member.drop_reason is not None)
        assert (member.drop_reason is DropReason.UNVERIFIED) == (reward is None)
        if member.advantage is not None:
            assert (member.advantage > 0) == (reward == 1.0)


@pytest.mark.parametrize(("rewards", "share", "lengths"), [([0.5], 0.5, None), ([1.0], 1.5, None), ([1.0], 0.5, [])])
def test_what_is_no_group(rewards: list, share: float, lengths: list | None):
    with pytest.raises(ValueError):
        group_advantages(rewards, share, lengths)


T, U = DropReason.TRUNCATED, DropReason.UNVERIFIED
CORRECT, WRONG = DropReason.ALL_CORRECT, DropReason.ALL_WRONG


@pytest.mark.parametrize(
    ("policy", "rewards", "cut_off", "mean", "advantages", "reasons"),
    [
        # one of two wrong responses cut off: used, left out but in the mean, out of both
        ("negative", [1, 0, 0, 1], [0, 1, 0, 0], 0.5, [0.5, -0.5, -0.5, 0.5], [None] * 4),
        ("mask", [1, 0, 0, 1], [0, 1, 0, 0], 0.5, [0.5, None, -0.5, 0.5], [None, T, None, None]),
        ("drop", [1, 0, 0, 1], [0, 1, 0, 0], 2 / 3, [1 / 3, None, -2 / 3, 1 / 3], [None, T, None, None]),
        # the only wrong one cut off: without it the group is all right
        ("negative", [1, 0], [0, 1], 0.5, [0.5, -0.5], [None, None]),
        ("mask", [1, 0], [0, 1], 0.5, [0.5, None], [None, T]),
        ("drop", [1, 0], [0, 1], 1.0, [None, None], [CORRECT, T]),
        # a cut-off response that holds the right answer is no different
        ("mask", [1, 0, 1], [1, 0, 0], 2 / 3, [None, -2 / 3, 1 / 3], [T, None, None]),
        ("drop", [1, 0], [1, 0], 0.0, [None, None], [T, WRONG]),
        # what is all wrong is that first, and nothing is left when all are cut off; no reward is no reward
        ("mask", [0, 0], [1, 0], 0.0, [None, None], [WRONG, WRONG]),
        ("drop", [1, 0], [1, 1], None, [None, None], [T, T]),
        ("drop", [1, None, 0], [0, 1, 0], 0.5, [0.5, None, -0.5], [None, U, None]),
    ],
)
def test_truncated_responses_by_hand(
    policy: str, rewards: list, cut_off: list, mean: float | None, advantages: list, reasons: list
):
    result = group_advantages(rewards, 0.5, truncated=cut_off, truncated_are=policy)
    assert result.mean == (None if mean is None else pytest.approx(mean))
    assert [m.advantage for m in result.members] == [None if a is None else pytest.approx(a) for a in advantages]
    assert [m.drop_reason for m in result.members] == reasons
    in_mean = [r for r, c in zip(rewards, cut_off, strict=True) if r is not None and not (c and policy == "drop")]
    assert result.num_verified == len(in_mean)


def test_the_verified_share_does_not_depend_on_the_policy():
    for policy in ("negative", "mask", "drop"):  # three of four verified; without the truncated one two of four
        result = group_advantages(
            [1.0, 0.0, 0.0, None], 0.75, truncated=[False, False, True, False], truncated_are=policy
        )
        assert DropReason.GROUP_UNVERIFIED not in {member.drop_reason for member in result.members}


GROUPS = st.lists(st.tuples(st.sampled_from([0.0, 1.0, None]), st.booleans()), max_size=10)


@given(GROUPS, st.floats(0, 1))
def test_leaving_truncated_responses_out_keeps_nothing_that_was_not_kept(group: list, share: float):
    """What stage `segment` relies on: steps cut under `negative` do for `mask` and `drop`."""
    rewards, cut_off = [r for r, _ in group], [c for _, c in group]

    def kept(policy: str) -> set[int]:
        result = group_advantages(rewards, share, truncated=cut_off, truncated_are=policy)
        assert len(result.members) == len(group)
        return {index for index, member in enumerate(result.members) if member.drop_reason is None}

    everything, whole = kept("negative"), {index for index, is_cut_off in enumerate(cut_off) if not is_cut_off}
    assert kept("mask") == everything & whole
    assert kept("drop") <= everything & whole
    assert group_advantages(rewards, share) == group_advantages(rewards, share, truncated=cut_off)
    if not any(cut_off):
        assert kept("drop") == everything


def test_flags_and_policies_that_are_none():
    with pytest.raises(ValueError, match="1 truncation flags for 2 rewards"):
        group_advantages([1.0, 0.0], 0.5, truncated=[True])
    with pytest.raises(ValueError, match="'ignore'"):
        group_advantages([1.0, 0.0], 0.5, truncated_are="ignore")  # type: ignore[arg-type]


LABELS = st.lists(st.integers(0, 1), max_size=40)


@given(LABELS, st.integers(0, 9) | st.text(max_size=3), st.floats(0, 1), st.floats(0, 1))
def test_flips_grow_with_the_rate_and_spare_the_last(labels: list[int], seed: int | str, one: float, other: float):
    low, high = (
        {k for k, (a, b) in enumerate(zip(labels, flip_labels(labels, rate, seed), strict=True)) if a != b}
        for rate in sorted((one, other))
    )
    assert low <= high <= set(range(len(labels) - 1))
    assert flip_labels(labels, 0.0, seed) == labels
    assert flip_labels(labels, 1.0, seed) == [*(1 - label for label in labels[:-1]), *labels[-1:]]
    assert flip_labels(labels, one, seed) == flip_labels(labels, one, seed)


def test_the_flipped_share_is_the_rate_and_another_seed_flips_others():
    flipped = flip_labels([0] * 4001, 0.25, "1/flips/1/a/0")
    assert sum(flipped) == pytest.approx(1000, abs=110)  # four standard deviations; the seed is fixed
    assert flipped != flip_labels([0] * 4001, 0.25, "1/flips/1/a/1")
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="flip_rate"):
            flip_labels([1, 0], rate, 0)


STEPS = [Step(0, 2, "ab"), Step(2, 5, "cde", shares_last_token=True), Step(5, 6, "f"), Step(6, 9, "ghi")]


def test_weights_by_hand():
    assert token_weights(9, STEPS, [1, 0, 1, 1], 0.5, eos_is_last=True) == (0.5, 0.5, 1, 1, 1, 0.5, 1, 1, 1)
    # the shared token counts only when both of its steps are mined
    assert mined_tokens(9, STEPS, [0, 1, 0, 0], eos_is_last=True) == (False,) * 2 + (True, True) + (False,) * 5
    assert mined_tokens(9, STEPS, [0, 1, 1, 0], eos_is_last=True) == (False,) * 2 + (True,) * 4 + (False,) * 3


@pytest.mark.parametrize(
    ("labels", "prefix"),
    [
        ([], []),
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([0, 1, 1, 1], [0, 0, 0, 0]),
        ([1, 1, 0, 1], [1, 1, 0, 0]),
        ([1, 0, 1, 0], [1, 0, 0, 0]),
    ],
)
def test_prefix_mining_by_hand(labels: list[int], prefix: list[int]):
    assert mined_steps(labels, "prefix") == prefix
    assert mined_steps(labels, "consensus") == labels
    with pytest.raises(ValueError, match="'suffix'"):
        mined_steps(labels, "suffix")  # type: ignore[arg-type]


@given(LABELS)
def test_the_prefix_is_the_longest_run_of_right_steps_from_the_start(labels: list[int]):
    prefix = mined_steps(labels, "prefix")
    number = sum(prefix)
    assert prefix == [1] * number + [0] * (len(labels) - number)
    assert all(label >= mined for label, mined in zip(labels, prefix, strict=True))
    assert number == len(labels) or labels[number] == 0
    nothing_right_after_a_mistake = labels == sorted(labels, reverse=True)
    assert (prefix == labels) == nothing_right_after_a_mistake
    assert mined_steps(prefix, "prefix") == prefix


@given(LABELS, st.randoms())
def test_what_follows_the_first_mistake_is_of_no_account(labels: list[int], random: Random):
    number = sum(mined_steps(labels, "prefix"))
    tail = labels[number + 1 :]
    random.shuffle(tail)
    assert mined_steps([*labels[: number + 1], *tail], "prefix") == mined_steps(labels, "prefix")


@given(LABELS.filter(bool), st.data(), st.booleans())
def test_tokens_mined_by_prefix_are_mined_by_consensus(labels: list[int], data: st.DataObject, eos: bool):
    shared = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    steps = [Step(2 * k, 2 * k + 2, "ab", shares_last_token=is_shared) for k, is_shared in enumerate(shared)]
    masks = {
        mine: mined_tokens(2 * len(labels), steps, mined_steps(labels, mine), eos_is_last=eos)
        for mine in ("consensus", "prefix")
    }
    assert all(all_right or not prefix for all_right, prefix in zip(masks["consensus"], masks["prefix"], strict=True))
    number = sum(masks["prefix"])
    assert masks["prefix"] == (True,) * number + (False,) * (2 * len(labels) - number)


def test_the_step_before_the_answer_keeps_its_shared_token_out():
    steps = [Step(0, 2, "ab", shares_last_token=True), Step(2, 3, "c")]
    assert mined_tokens(3, steps, [1, 1], eos_is_last=False) == (True, False, False)


def test_right_and_empty_responses():
    assert token_weights(3, [], [], -1.0, eos_is_last=True) == (1.0, 1.0, 1.0)
    assert token_weights(0, [], [], 0.5, eos_is_last=False) == ()
    assert token_weights(2, [Step(0, 2, "ab")], [1], 0.5, eos_is_last=False) == (1.0, 1.0)  # a single step is the last


@pytest.mark.parametrize(
    ("num_tokens", "steps", "mined", "beta"),
    [
        (9, STEPS, [1, 0, 1, 1], 1.01),
        (9, STEPS, [1, 0, 1, 1], float("nan")),
        (9, STEPS, [1, 0, 1], 0.5),
        (9, STEPS, [1, 0, 1, 2], 0.5),
        (8, STEPS, [1, 0, 1, 1], 0.5),
        (9, STEPS[1:], [0, 1, 1], 0.5),
        (9, [STEPS[0], *STEPS[2:]], [0, 1, 1], 0.5),
    ],
)
def test_what_does_not_fit(num_tokens: int, steps: list[Step], mined: list[int], beta: float):
    with pytest.raises(ValueError):
        token_weights(num_tokens, steps, mined, beta, eos_is_last=True)


@given(
    st.lists(st.sampled_from(["a", "\n", "b\nc", "", "🎉", " ", "wait"]), min_size=1, max_size=30),
    st.data(),
    st.floats(-1, 1),
    st.booleans(),
)
def test_a_mined_token_has_no_visible_text_of_an_unmined_step(
    pieces: list[str], data: st.DataObject, beta: float, eos: bool
):
    steps = segment(pieces, StepRules())
    mined = data.draw(st.lists(st.integers(0, 1), min_size=len(steps), max_size=len(steps)))
    mask = mined_tokens(len(pieces), steps, mined, eos_is_last=eos)
    owner = [index for index, step in enumerate(steps) for _ in range(step.start, step.end)]
    for token, is_mined in enumerate(mask):
        step = owner[token]
        if is_mined:
            assert mined[step] == 1 and step < len(steps) - 1 and not (eos and token == len(pieces) - 1)
            if steps[step].shares_last_token and token == steps[step].end - 1:
                assert mined[step + 1] == 1 and step + 1 < len(steps) - 1
    assert token_weights(len(pieces), steps, mined, beta, eos_is_last=eos) == tuple(beta if m else 1.0 for m in mask)
    plain = token_weights(len(pieces), steps, mined, 1.0, eos_is_last=eos)
    assert plain == (1.0,) * len(pieces)  # beta = 1 is BCPG
