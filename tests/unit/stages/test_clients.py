"""generate/client.py, train/client.py, job.py and cluster/lifecycle.py: every typed call names a method that its member has."""

from __future__ import annotations

import inspect
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.cluster import lifecycle
from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.generate.client import RolloutClient
from bcpg_cluster.stages.generate.protocol import RolloutEngine
from bcpg_cluster.stages.job import StageJob, StageWorker, run_job
from bcpg_cluster.stages.push.adapters.versions import AdapterPush
from bcpg_cluster.stages.push.protocol import PushGroup
from bcpg_cluster.stages.train.client import TrainerClient
from bcpg_cluster.stages.train.worker import ReferencePiece, TrainJob, TrainWorker

ADAPTERS = AdapterPush({}, 2.0, "start", "result")
GROUP = PushGroup("127.0.0.1", 1, 2, "gloo")
STAGE_JOB = StageJob(Path(), "verify", "outcomes", 1, 0, "a", {})
TRAIN_JOB = TrainJob(Path(), 1, "model", (), None, "")  # type: ignore[arg-type]

ROLLOUT_CALLS: dict[str, tuple[Any, ...]] = {
    "policy_version": (),
    "max_model_len": (),
    "load_snapshot": ("path", 1, {}),
    "score_tokens": ([((1,), (2,))],),
    "score_next": ((1,), 2),
    "join_push_group": (GROUP, 1),
    "receive_weights": ([], 1),
    "adapter_start": (),
    "receive_adapters": ([], ADAPTERS, 1),
    "leave_push_group": (),
}
TRAINER_CALLS: dict[str, tuple[Any, ...]] = {
    "begin": (TRAIN_JOB,),
    "open": (TRAIN_JOB,),
    "reference": (TRAIN_JOB, ReferencePiece(0, {}), "attempt"),
    "canary_sequences": (3,),
    "score": ([((1,), (2,))],),
    "train": (TRAIN_JOB, [], lambda: None),
    "steps": (0,),
    "check_checkpoint": (TRAIN_JOB, StepCheckpoint(2, "digest")),
    "newest_checkpoint": (),
    "save_snapshot": (Path("/v1"), 1),
    "drop_passing_files": (TRAIN_JOB,),
    "push_address": (),
    "join_push_group": (GROUP, 1),
    "push_specs": ("adapters", 1.0),
    "push_weights": ("weights", 1),
    "leave_push_group": (),
}
LIFECYCLE_CALLS: dict[str, tuple[Any, ...]] = {
    "ping": (),
    "sleep": (),
    "wake_up": (),
    "rendezvous": (),
    "meet": ("127.0.0.1", 1),
    "progress": (),
}


def public(kind: type) -> set[str]:
    return {name for name, member in vars(kind).items() if inspect.isfunction(member) and not name.startswith("_")}


def fits(host: type, method: str, args: tuple[Any, ...]) -> None:
    """The host has the method (or property), and it takes these arguments."""
    found = inspect.getattr_static(host, method)
    if isinstance(found, property):
        assert args == ()
        return
    inspect.signature(found).bind(None, *args)


@pytest.fixture
def calls(scripted: Any) -> list[Any]:
    def answer(call: Any) -> None:
        call.answer.set_result(("127.0.0.1", 1) if call.method == "rendezvous" else [])

    scripted.on_call = answer
    return scripted.calls


def test_every_call_is_tried_here():
    assert public(RolloutClient) == set(ROLLOUT_CALLS)
    assert public(TrainerClient) == set(TRAINER_CALLS)
    of_lifecycle = {name for name, member in vars(lifecycle).items() if inspect.isfunction(member)}
    assert of_lifecycle == set(LIFECYCLE_CALLS)


@pytest.mark.parametrize("name", ROLLOUT_CALLS)
def test_a_rollout_call_reaches_the_engine(name: str, scripted: Any, calls: list[Any]):
    member = scripted.start(MemberSpec("rollout/0", dict, {}))
    assert isinstance(getattr(RolloutClient(member), name)(*ROLLOUT_CALLS[name]), Future)
    (call,) = calls
    assert call.method == "engine_call"
    fits(StageWorker, call.method, call.args)
    method, *args = call.args
    assert method == name
    fits(RolloutEngine, method, tuple(args))


@pytest.mark.parametrize("name", TRAINER_CALLS)
def test_a_trainer_call_reaches_every_rank(name: str, scripted: Any, calls: list[Any]):
    gang = Gang("trainer", scripted, lambda group, rank: MemberSpec(f"trainer/{rank}", dict, {}), 2)
    gang.begin_start()
    del calls[:]
    with suppress(IndexError):  # what rank 0 answered is not looked at here
        getattr(TrainerClient(gang), name)(*TRAINER_CALLS[name])
    only_rank_0 = name in ("steps", "newest_checkpoint", "push_address")
    assert [call.method for call in calls] == [name] * (1 if only_rank_0 else 2)
    for call in calls:
        fits(TrainWorker, call.method, call.args)


@pytest.mark.parametrize("name", LIFECYCLE_CALLS)
def test_a_member_answers_what_pools_and_gangs_ask(name: str, scripted: Any, calls: list[Any]):
    member = scripted.start(MemberSpec("x/0", dict, {}))
    getattr(lifecycle, name)(member, *LIFECYCLE_CALLS[name])
    (call,) = calls
    assert call.method == name
    hosts = {"ping": (StageWorker, TrainWorker), "sleep": (StageWorker,), "wake_up": (StageWorker,)}
    for host in hosts.get(name, (TrainWorker,)):
        fits(host, call.method, call.args)


def test_a_job_is_run_by_a_stage_worker(scripted: Any, calls: list[Any]):
    run_job(scripted.start(MemberSpec("cpu/0", dict, {})), STAGE_JOB, "verify round 1 shard 0")
    (call,) = calls
    fits(StageWorker, call.method, call.args)
    assert call.args == (STAGE_JOB,)
