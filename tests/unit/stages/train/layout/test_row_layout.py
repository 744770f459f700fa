"""Pairs in two forwards come back in the order an objective wants."""

from __future__ import annotations

import torch

from bcpg_cluster.stages.train.layout.row_layout import TokenPair, lay_out, lay_out_pairs

CPU = torch.device("cpu")


def sequence(prompt: int, *response: int) -> TokenPair:
    return (tuple(range(100, 100 + prompt)), response)


def test_the_longer_of_each_pair_goes_first_and_all_come_back_in_place() -> None:
    """Two pairs: 3 tokens beside 1, and 1 beside 2."""
    own = [sequence(2, 1, 2, 3), sequence(1, 4)]
    rivals = [sequence(2, 5), sequence(1, 6, 7)]
    layout = lay_out_pairs(own, rivals, CPU)
    longer, shorter = layout.layouts
    assert longer.input_ids.tolist() == [[100, 101, 1, 2, 3], [100, 6, 7, 0, 0]]
    assert shorter.input_ids.tolist() == [[100, 101, 5], [100, 4, 0]]
    joined = layout.join([longer.targets.float(), shorter.targets.float()])
    assert joined.tolist() == [[1, 2, 3], [4, 0, 0], [5, 0, 0], [6, 7, 0]]
    whole = lay_out([*own, *rivals], "padded", CPU)
    assert torch.equal(layout.mask, whole.mask)
    assert torch.equal(joined, whole.scatter(whole.targets.float()))


def test_a_rank_without_pairs_makes_two_forwards_all_the_same() -> None:
    assert [each.input_ids.shape for each in lay_out_pairs([], [], CPU).layouts] == [(1, 2), (1, 2)]
