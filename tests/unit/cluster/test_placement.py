"""cluster/placement.py, cluster/launcher.py and footprint.py: what a run asks and whether a cluster has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.cluster.on_ray.launcher import autoscaled_nodes
from bcpg_cluster.cluster.placement import Ask, added, in_words, largest_nodes, plan, table
from bcpg_cluster.cluster.runtime import Group
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.footprint import ask_of, check_placement, compare_with, member_group

HEAD = {"CPU": 8.0}
NODE = {"CPU": 48.0, "GPU": 4.0, "judge": 4.0}
JUDGES = Ask("judge.llm", ({"GPU": 2.0, "judge": 2.0},), 2, "STRICT_PACK")
TRAINERS = Ask("trainer", ({"GPU": 1.0},) * 4, 1)


def test_what_fits_fits():
    found = plan([[JUDGES]], [HEAD, NODE])
    assert (found.verdict, found.why) == ("fits", "")
    assert plan([[JUDGES, TRAINERS]], [HEAD, NODE, NODE]).verdict == "fits"


def test_a_trainer_gpu_that_is_not_there_is_said_with_the_table():
    found = plan([[JUDGES, TRAINERS]], [HEAD, NODE])
    assert found.verdict == "lacks"
    assert found.why == "8 GPU asked for (judge.llm, trainer), 4 there"
    assert table(found.lines).splitlines() == [
        "pool       members  resource  each  asked  at once  cluster has  free now  at most",
        "judge.llm  2        GPU       2     4      8        4 SHORT      4         4",
        "judge.llm  2        judge     2     4      4        4            4         4",
        "trainer    1        GPU       4     4      8        4 SHORT      4         4",
    ]
    with pytest.raises(ConfigError) as caught:
        check_placement(found)
    assert "cannot hold the run: 8 GPU asked for" in caught.value.problem
    assert "4 SHORT" in caught.value.problem
    assert "colocated" in caught.value.remedy


def test_pools_that_take_turns_need_room_for_one():
    assert plan([[JUDGES], [TRAINERS]], [HEAD, NODE]).verdict == "fits"


def test_a_member_that_no_node_can_hold():
    tight = Ask("rollout", ({"GPU": 8.0},), 1, "STRICT_PACK")
    found = plan([[tight]], [NODE, NODE])
    assert (found.verdict, found.why) == ("lacks", "no single node has {GPU: 8} (rollout)")
    spread = Ask("rollout", ({"GPU": 1.0},) * 8, 1, "PACK")
    assert plan([[spread]], [NODE, NODE]).verdict == "fits"


def test_enough_in_all_but_in_pieces_is_no_certain_lack():
    asks = [Ask(name, ({"GPU": 3.0},), 1, "STRICT_PACK") for name in ("a", "b")]
    found = plan([asks], [{"GPU": 4.0}, {"GPU": 2.0}])
    assert found.verdict == "tight"
    check_placement(found)


def test_nodes_that_may_come():
    asks = [[JUDGES, TRAINERS]]
    assert plan(asks, [HEAD], largest=(HEAD, NODE, NODE)).verdict == "may_come"
    assert plan(asks, [HEAD], largest=None).verdict == "may_come"
    beyond = plan(asks, [HEAD], largest=(HEAD, NODE))
    assert (beyond.verdict, beyond.lines[0].at_most) == ("lacks", 4.0)
    assert beyond.why == "8 GPU asked for (judge.llm, trainer), 4 there, even with all nodes the autoscaler may start"
    assert plan(asks, [HEAD, NODE, NODE], largest=()).verdict == "fits"
    assert "?" in table(plan(asks, [HEAD], largest=None).lines)


def test_what_others_use_shows_but_decides_nothing():
    found = plan([[JUDGES]], [NODE], free=[{"CPU": 48.0, "GPU": 1.0, "judge": 4.0}])
    assert (found.verdict, found.lines[0].has, found.lines[0].free) == ("fits", 4.0, 1.0)


def test_tenths_add_up():
    assert plan([[Ask("cpu", ({"CPU": 0.1},), 10, "STRICT_PACK")]], [{"CPU": 1.0}]).verdict == "fits"


BUNDLE = st.dictionaries(st.sampled_from(["CPU", "GPU", "judge"]), st.integers(1, 4).map(float), min_size=1)
ASK = st.builds(
    Ask, st.sampled_from(["a", "b", "c"]), st.lists(BUNDLE, min_size=1, max_size=3).map(tuple), st.integers(1, 3),
    st.sampled_from(["PACK", "STRICT_PACK"]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(ASK, min_size=1, max_size=3, unique_by=lambda ask: ask.pool), st.lists(BUNDLE, max_size=5))
def test_verdicts_keep_their_word(asks: list[Ask], nodes: list[dict[str, float]]):
    found = plan([asks], nodes)
    needed, has = added([ask.total() for ask in asks]), added(nodes)
    has_enough = all(amount <= has.get(name, 0.0) for name, amount in needed.items())
    if found.verdict in ("fits", "tight"):
        assert has_enough
    if found.verdict == "lacks" and has_enough:
        assert "no single node" in found.why
    assert any(line.is_short for line in found.lines) == (not has_enough)
    own_node_each = [added(ask.bundles) for ask in asks for _ in range(ask.num_members)]
    assert plan([asks], [*nodes, *own_node_each]).verdict != "lacks"


# --- from the configuration


def test_asks_of_a_configuration(make_config: Callable[..., Config]):
    tp = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    pools = {
        "judge.a": {"members": 3, "num_gpus": 4, "num_cpus": 2, "resources": {"judge": 4}},
        "judge.b": {"num_gpus": 4, "resources": {"judge": 1}},
        "trainer": {"members": 2, "num_gpus": 1, "num_cpus": 0},
        "rollout": {"num_gpus": 0.5},
    }
    judges = {
        "a": {"kind": "llm", "model": "m", "engine_args": tp},
        "b": {"kind": "llm", "model": "n", "engine_args": {**tp, "distributed_executor_backend": "ray"}},
    }
    config = make_config(judges=judges, pools=pools, train={"kind": "deepspeed"})
    whole = {"CPU": 2.0, "GPU": 4.0, "judge": 4.0}
    assert ask_of(config, "judge.a") == Ask("judge.a", (whole,), 3, "STRICT_PACK")
    assert member_group(config, "judge.a", "judge.a/0") == Group("judge.a/0", (whole,), "STRICT_PACK")
    first, *others = ask_of(config, "judge.b").bundles
    assert (first, others) == ({"CPU": 1.0, "judge": 1.0, "GPU": 1.0}, [{"GPU": 1.0}] * 3)
    assert ask_of(config, "trainer") == Ask("trainer", ({"GPU": 1.0},) * 2, 1)
    assert member_group(config, "trainer", "trainer.1") == Group("trainer.1", ({"GPU": 1.0},) * 2, "PACK")
    assert member_group(config, "rollout", "rollout/0") is None
    found = compare_with(config, [{"CPU": 9.0, "GPU": 4.0}])
    assert found.verdict == "lacks"
    assert found.why.startswith("9 CPU") is False
    assert "18.5 GPU asked for (rollout, judge.a, judge.b, trainer), 4 there" in found.why


@pytest.mark.parametrize(
    ("args", "gpus"), [({"tensor_parallel_size": 2}, 1), ({}, 2), ({"tensor_parallel_size": 4}, 2)]
)
def test_a_member_has_a_gpu_for_each_part_of_its_engine(make_config: Callable[..., Config], args: Any, gpus: int):
    judges = {"a": {"kind": "llm", "model": "m", "engine_args": {"dtype": "auto", **args}}}
    with pytest.raises(ConfigError, match=r"pools\.judge\.a\.num_gpus"):
        make_config(judges=judges, pools={"judge.a": {"num_gpus": gpus}})


# --- the launcher file


def test_the_launcher_file_says_how_large_a_cluster_may_get():
    content = yaml.safe_load((Path(__file__).parents[3] / "cluster.yaml").read_text())
    nodes = largest_nodes(content)
    assert added(nodes)["trainer"] >= 8
    small = {
        "max_workers": 3, "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 2}, "max_workers": 0},
            "gpu": {"resources": {"GPU": 4}, "max_workers": 2},
            "any": {"resources": {"judge": 1}},
            "unknown": {},
        },
    }  # fmt: skip
    assert largest_nodes(small) == ({"CPU": 2.0}, *[{"GPU": 4.0}] * 2, *[{"judge": 1.0}] * 3)
    assert largest_nodes({}) == ()


def _process(folder: Path, pid: int, *words: str) -> None:
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "cmdline").write_bytes("\0".join(words).encode())


def test_the_autoscaler_is_found_by_its_process(tmp_path: Path):
    file = tmp_path / "bootstrap.yaml"
    file.write_text(yaml.safe_dump({"available_node_types": {"a": {"resources": {"GPU": 1}, "max_workers": 2}}}))
    _process(tmp_path, 1, "python", "monitor.py", "--gcs-address=h:1", f"--autoscaling-config={file}")
    _process(tmp_path, 2, "python", "monitor.py", "--gcs-address=h:2")  # every head has one
    _process(tmp_path, 3, "python", "monitor.py", "--gcs-address=h:3", f"--autoscaling-config={tmp_path}/none")
    _process(tmp_path, 4, "vi", "monitor.py")
    (tmp_path / "5").mkdir()  # gone
    assert autoscaled_nodes("h:1", tmp_path) == ({"GPU": 1.0}, {"GPU": 1.0})
    assert autoscaled_nodes("h:2", tmp_path) == ()
    assert autoscaled_nodes("h:3", tmp_path) is None
    assert autoscaled_nodes("h:4", tmp_path) == ()


def test_bundles_in_words():
    assert in_words({"judge": 1.0, "GPU": 0.5}) == "{judge: 1, GPU: 0.5}"
