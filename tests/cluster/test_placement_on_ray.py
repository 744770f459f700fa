"""Groups of resources, waiting for nodes, and the choice of a config, on a real Ray of several logical nodes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.cluster.runtime import Group, MemberSpec
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, UserError
from bcpg_cluster.run.build.default_config import choose_config
from bcpg_cluster_cli.session import start_runtime

pytestmark = pytest.mark.engine

NICENESS = "RAY_worker_niceness"  # 0: at Ray's 15 imports crawl on a busy machine
GPU_NODE = {"num_cpus": 4, "num_gpus": 2, "resources": {"judge": 2}}


class Hosted:
    def ping(self) -> str:
        return "ready"

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def meet(self, host: str, port: int) -> None:
        pass

    def place(self) -> tuple[str, str | None]:
        import ray

        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without GPUs and a node with two (which exist in Ray's books alone)."""
    import ray
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    os.environ[NICENESS] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(**GPU_NODE)
    yield made
    made.shutdown()
    del os.environ[NICENESS]


@pytest.fixture
def runtime(cluster: Any) -> Iterator[RayRuntime]:
    made = RayRuntime(ClusterChoice(cluster.address, "a test"), namespace="bcpg-placement")
    yield made
    made.shutdown()


def groups() -> dict[str, str]:
    import ray

    return {group["name"]: group["state"] for group in ray.util.placement_group_table().values()}


def test_a_member_of_several_gpus_has_them_on_one_node_and_gives_them_back(runtime: RayRuntime):
    bundle = {"CPU": 0.5, "GPU": 2.0, "judge": 2.0}
    for name in ("judge.llm/0", "judge.llm/1"):  # the second takes what the first gave back
        group = Group(name, (bundle,), "STRICT_PACK")
        member = runtime.start(
            MemberSpec(name, Hosted, {}, num_cpus=0.5, num_gpus=2.0, resources={"judge": 2.0}, group=group)
        )
        _, devices = member.call("place").result(120)
        assert devices == "0,1"
        assert member.is_placed()
        assert groups()[f"bcpg-placement/{name}"] == "CREATED"
        member.kill()
        assert groups()[f"bcpg-placement/{name}"] == "REMOVED"


def gang(runtime: RayRuntime, size: int, resource: str, **more: Any) -> Gang:
    def spec(generation: int, rank: int) -> MemberSpec:
        bundles = ({"CPU": 0.1, resource: 1.0},) * size
        return MemberSpec(
            f"trainer/{rank}.{generation}", Hosted, {}, num_cpus=0.1, resources={resource: 1.0},
            group=Group(f"trainer.{generation}", bundles), bundle=rank,
        )  # fmt: skip

    return Gang("trainer", runtime, spec, size, **more)


def test_the_trainers_have_one_group_that_is_made_anew_with_them(runtime: RayRuntime):
    trainers = gang(runtime, 2, "judge")
    trainers.ensure_up()
    assert len({node for node, _ in trainers.call_all("place")}) == 1
    assert groups()["bcpg-placement/trainer.0"] == "CREATED"
    trainers.kill()
    trainers.ensure_up()  # it needs what the first group had
    states = groups()
    assert (states["bcpg-placement/trainer.0"], states["bcpg-placement/trainer.1"]) == ("REMOVED", "CREATED")
    trainers.kill()


def test_a_group_waits_for_a_node_and_says_so(cluster: Any, runtime: RayRuntime):
    said: list[str] = []
    nodes: list[Any] = []

    def bring(what: str) -> None:
        said.append(what)
        nodes.append(cluster.add_node(num_cpus=1, resources={"late": 2}))

    trainers = gang(runtime, 2, "late", start_timeout_s=120.0, on_wait=bring)
    trainers.ensure_up()
    assert said == ["trainer waits for nodes with room for trainer/0.0, trainer/1.0"]
    assert len(trainers.call_all("place")) == 2
    trainers.kill()
    cluster.remove_node(nodes[0])


def test_a_group_does_not_wait_for_ever(runtime: RayRuntime):
    trainers = gang(runtime, 1, "never", placement_timeout_s=0.1)
    with pytest.raises(UserError, match=r"no nodes with room for trainer/0\.0 of trainer came up within") as caught:
        trainers.ensure_up()
    assert "pools.trainer.placement_timeout_s" in caught.value.remedy
    assert not trainers.is_up
    assert groups()["bcpg-placement/trainer.0"] == "REMOVED"


def test_a_member_that_waits_is_not_placed(runtime: RayRuntime):
    first = runtime.start(MemberSpec("first", Hosted, {}, resources={"judge": 2.0}))
    assert first.call("ping").result(120) == "ready"
    second = runtime.start(MemberSpec("second", Hosted, {}, resources={"judge": 2.0}))
    answer = second.call("ping")
    assert (first.is_placed(), second.is_placed()) == (True, False)
    first.kill()
    assert answer.result(120) == "ready"
    assert second.is_placed()
    second.kill()


def test_a_cluster_without_a_trainer_gpu_says_so_at_once(
    cluster: Any, make_config: Callable[..., Config], tmp_path: Path
):
    import ray

    console = Console(file=io.StringIO(), width=200)
    pools = {"rollout": {"num_gpus": 1}, "trainer": {"num_gpus": 2}, "cpu": {"num_cpus": 0.1}}
    with pytest.raises(ConfigError) as caught:
        start_runtime(make_config(pools=pools), tmp_path / "run", cluster.address, inline=False, console=console)
    assert "3 GPU asked for (rollout, trainer), 2 there" in caught.value.problem
    assert "cluster has" in caught.value.problem
    assert not ray.is_initialized()
    for changes, waits in (({"placement": "colocated"}, False), ({"autoscaling": True}, True)):
        config = make_config(pools=pools, **changes)
        start_runtime(config, tmp_path / "run", cluster.address, inline=False, console=console)[0].shutdown()
        assert ("may bring it" in console.file.getvalue()) == waits  # type: ignore[attr-defined]


def test_without_a_config_the_cluster_decides(cluster: Any):
    console = Console(file=io.StringIO(), width=300)
    assert choose_config(None, cluster.address, console.print) == "one-gpu"
    assert "the largest that fits the cluster at" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_cluster_without_gpus_never_runs_the_laptop_default_unasked():
    from ray.cluster_utils import Cluster

    small = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with pytest.raises(ConfigError, match="which has 0 GPUs") as caught:
            choose_config(None, small.address, Console(file=io.StringIO()).print)
        assert "laptop (0 GPUs)" in caught.value.remedy
        assert "r1-distill-qwen-14b (64 GPUs)" in caught.value.remedy
    finally:
        small.shutdown()
