"""Which trainings may resume each other's step checkpoints."""

from __future__ import annotations

import pytest

from bcpg_cluster.stages.train.objective import Bcpg, Dpo, Objective
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_plan import lay_out_training

# Of earlier versions, whose step checkpoints are still there.
EARLIER = {
    ("bcpg", "padded", 1): "076fd404b7ebd7cff0a1cc8874a74a97f19ed6dea94d7087dbf973b96aa37e86",
    ("bcpg", "padded", 2): "6f0cc7390ba8d57bee4ca12495b2dff22828c3b5cf83eadf9ea258f9e13fa935",
    ("bcpg", "packed", 1): "efb487c965175e0cc228f5db2b0f7cd0787e51d91940844e3107364fb2e6c318",
    ("bcpg", "packed", 2): "97f89f780cdff03c4e4053fe4caf2cf8a6b20ffc81a0d085dc9f0608d9d827c2",
    ("dpo", "padded", 1): "bae81437f7a0084d80fe790b8d238ca8cb933883d03e758702d9923120ad4fa6",
    ("dpo", "padded", 2): "fad0388ef8364f1e4d4c09746a4245391558eb5da46550da9d40def03c4977f7",
    ("dpo", "packed", 1): "55501802f111574a4782ded25aba7a449686808c46bdcad15b8eab7bf26ee51d",
    ("dpo", "packed", 2): "4db3ecb52089af4019b47f6be45a6d9d0e47ab986c393620cd0c4663bb76b293",
}


def row(length: int) -> TrainRow:
    """A pair of so many tokens, and of about twice as many."""
    rival = 2 * length - 1
    reference = ReferenceLogprobs((-1.0,) * length, (-2.0,) * rival)
    ones, none = (1.0,) * length, (False,) * length
    return TrainRow((1, 2), (3,) * length, ones, 0.5, 1.0, 0.5, 2, none, (4,) * rival, reference)


@pytest.mark.parametrize(("name", "packing", "world_size"), EARLIER)
def test_a_training_resumes_what_an_earlier_version_began_only_if_its_steps_are_cut_alike(
    name: str, packing: str, world_size: int
) -> None:
    objective: Objective = Bcpg() if name == "bcpg" else Dpo()
    settings = TrainSettings(objective=objective, learning_rate=1e-4, min_learning_rate=1e-5, packing=packing)  # type: ignore[arg-type]
    found = lay_out_training([row(length) for length in range(1, 5)], settings, world_size, "/nowhere").fingerprint
    assert (found == EARLIER[name, packing, world_size]) is (world_size == 1)
