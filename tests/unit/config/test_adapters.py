"""run.py: adapters are pushed alone only where engines can serve them; all else is refused with the reason."""

from __future__ import annotations

import pytest

from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import ConfigError

ADAPTERS = ["push.carries=adapters", "train.lora={}"]


def test_adapters_are_for_trained_adapters_over_a_wire():
    config = load_config("laptop", ADAPTERS)
    assert (config.push.carries, config.push.backend) == ("adapters", "gloo")
    assert load_config("laptop", [*ADAPTERS, "push.backend=nccl"]).push.carries == "adapters"
    assert load_config("laptop", ["train.lora={}"]).push.carries == "weights"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["push.carries=adapters"], "train.lora is null, so whole weights are trained and there are none"),
        ([*ADAPTERS, "push.backend=disk"], "push.backend 'disk' sends nothing"),
        ([*ADAPTERS, "policy={kind: fake, model: fake}"], "a fake has no weights"),
        ([*ADAPTERS, "train.kind=fake", "pools.trainer.members=1"], "a fake has no weights"),
        ([*ADAPTERS, "policy.engine_args.quantization=fp8"], "the engines quantise the policy"),
        ([*ADAPTERS, "policy.engine_args.load_format=dummy"], "by load_format 'dummy'"),
    ],
)
def test_what_cannot_serve_adapters_is_refused(overrides: list[str], why: str):
    with pytest.raises(ConfigError, match=r"push\.carries is 'adapters', but ") as caught:
        load_config("laptop", overrides)
    assert why in str(caught.value) and "set it to 'weights'" in str(caught.value)


def test_what_a_push_carries_is_part_of_a_runs_identity_when_it_is_set():
    plain, whole, adapters = (
        load_config("laptop", ["train.lora={}", *more])
        for more in ([], ["push.carries=weights"], ["push.carries=adapters"])
    )
    assert plain.identity == whole.identity != adapters.identity
