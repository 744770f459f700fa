"""identity.py: what decides a run's results, key by key; and the identities that runs on disk were made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from bcpg_cluster.config.changes import deciding_changes
from bcpg_cluster.config.identity import Decides, FirstReadBy, Marks, deciding_content, marks_at
from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import Section
from bcpg_cluster.config.task_defaults import complete_from_tasks
from bcpg_cluster.stages.train.objective import OBJECTIVES
from tests.unit.config.keys import another_value, every_key, full_config, with_value

LAPTOP = Path(__file__).parents[2] / "data" / "laptop_0ac596b.yaml"  # the default of that commit

# Digests by commit 0ac596b. A changed one means that runs on disk no longer resume. A new key needs Decides.WHEN_SET (an
# objective's option: `added_later`); only a shipped config or a default that changed on purpose gives a new digest.
SHIPPED = {
    "ablations/bcpg": "092c21968aea1bc4",
    "ablations/beta-0": "88ed2fc0d8c4f0e9",
    "ablations/beta-minus-0.5": "c4d79e2041fbbc34",
    "ablations/prefix": "11a74dace246195e",
    "ablations/rft": "8fb7053e2ec731e1",
    "one-gpu": "fce7b075e45ca8c9",
    "r1-distill-qwen-14b": "140590fe2bb86154",
    "real-llm-cpu": "34f1f2552d9d24af",
    "small-cluster": "b251ef3e22cdf172",
}
LIMITS = """extra_body: {a: {b: 1}}, timeout_s: 1, api_key_env: K, concurrency: 2, price_prompt: 1, price_answer: 1,
    max_unanswered: 0.1, token_limit_field: max_completion_tokens"""


def _api(more: str) -> str:
    return f"judges.api={{kind: openai, model: m, role: measure, endpoint: {{base_url: 'http://h/v1', {more}}}}}"


OVERRIDDEN = [
    pytest.param(["name=other"], "36f5288201c3d8e0", id="name"),
    pytest.param(["seed=7"], "e6ba802ef31aaa19", id="seed"),
    pytest.param(["placement=colocated"], "36f5288201c3d8e0", id="placement"),
    pytest.param(["autoscaling=false"], "36f5288201c3d8e0", id="autoscaling"),
    pytest.param(["storage.options={profile: x}"], "36f5288201c3d8e0", id="storage"),
    pytest.param(["tracking.wandb={project: p}"], "36f5288201c3d8e0", id="tracking"),
    pytest.param(["tracking.page=https://ci.example/run.html"], "36f5288201c3d8e0", id="page"),
    pytest.param(["snapshots.keep_last=9"], "36f5288201c3d8e0", id="snapshots"),
    pytest.param(["pools.rollout.members=1", "pools.cpu.memory_gib=3"], "36f5288201c3d8e0", id="pools"),
    pytest.param(["pools.trainer.members=1"], "7b8d2a80c348745b", id="one trainer"),
    pytest.param(["train.lora={}"], "0c8f3fff7476c1e9", id="lora"),
    pytest.param(["train.lora={rank: 8, target_modules: [q_proj]}"], "d4b88356cba6afd4", id="lora rank"),
    pytest.param(["train.lora=null"], "36f5288201c3d8e0", id="no lora"),
    pytest.param(["policy.revision=v1"], "09d2d341050091e8", id="revision"),
    pytest.param(["policy.revision=''"], "36f5288201c3d8e0", id="empty revision"),
    pytest.param(["policy.trust_remote_code=true"], "c58920318ea4c5ac", id="remote code"),
    pytest.param(["judges.llm.trust_remote_code=true"], "45f45b831cab64f0", id="judge's remote code"),
    pytest.param(["judges.llm.rule=propagated"], "36f5288201c3d8e0", id="judge's rule as it was"),
    pytest.param(
        [f"judges.{name}.rule=local" for name in ("llm", "prm", "truth")], "a61c68bb6e9469db", id="rule local"
    ),
    pytest.param(["judges.llm.cache=/somewhere"], "36f5288201c3d8e0", id="cache"),
    pytest.param(["push.tolerance_nats=0.5", "push.deadline_s=9"], "af5c6dadbb6249a7", id="push"),
    pytest.param(["train.checkpoint_every_steps=9", "train.group_timeout_s=9"], "36f5288201c3d8e0", id="checkpoints"),
    pytest.param(["weigh.beta=0.25", "weigh.flip_rate=0.1"], "e68df7ffa6d6b891", id="beta"),
    pytest.param(["weigh.mine=consensus"], "36f5288201c3d8e0", id="mine by consensus"),
    pytest.param(["weigh.mine=prefix"], "6bb1e34720a54387", id="mine prefixes"),
    pytest.param(["pools={}", "judges.prm.pool=other"], "a3a16fd6f92abfe9", id="judge's pool"),
    pytest.param(
        [_api("extra_body: {a: {b: 1}}")],
        "d5a11840b764ada6",
        id="endpoint",
    ),
    pytest.param(
        [_api(LIMITS)],
        "d5a11840b764ada6",
        id="endpoint's limits",
    ),
    pytest.param(
        [_api("structured: strict")],
        "cb0392e66c22bbd0",
        id="strict endpoint",
    ),
    pytest.param(
        ["prompts.columns={question: q.text}", "prompts.revision=''", "prompts.limit=5"],
        "2cda2900c2ef841f",
        id="columns",
    ),
    pytest.param(
        [
            "prompts.train=task:reasoning_gym/chain_sum",
            "prompts.generated={train_size: 9, parameters: {chain_sum: {max_terms: 4}}}",
        ],
        "27a16586f9e22117",
        id="generated",
    ),
    pytest.param(["segment={kind: delimiter, cut_after: [a], merge: false}"], "902e607f295b384a", id="segment"),
    pytest.param(["evaluate.num_prompts=5"], "33fbee62fdf09f1c", id="evaluate"),
    pytest.param(["train.deepspeed={a: [1, {b: null}]}"], "3fa6e4bae1889942", id="deepspeed"),
    pytest.param(["objective={name: asymre, offset: -0.5}"], "5f2c9ecd4af6468a", id="asymre offset"),
    pytest.param(["objective={name: bcpg}"], "4f177e61d6f73c1d", id="objective bcpg"),
    pytest.param(["objective={name: rft}"], "e9a07159c4b147de", id="objective rft"),
    pytest.param(["objective={name: dpo}"], "20f36e346eb0a0cd", id="objective dpo"),
    pytest.param(["objective={name: topr}"], "ac871428d5de4e3e", id="objective topr"),
    pytest.param(["objective={name: grpo}"], "b11c89a9c60cfde1", id="objective grpo"),
    pytest.param(["objective={name: asymre}"], "ffde6642eb8710c5", id="objective asymre"),
    pytest.param(["objective={name: kto}"], "03eee5fef71f3eaf", id="objective kto"),
    pytest.param(["objective={name: nft}"], "a4ff095ff7208901", id="objective nft"),
    pytest.param(["objective={name: weighted_reinforce}"], "4acf67687755ad48", id="objective weighted_reinforce"),
]
TASKS = {
    ("task:reasoning_gym/chain_sum", "task:reasoning_gym/chain_sum"): "98a437bd940be342",
    ("task:gsm8k", "task:math500"): "708b987b9ba99ac9",
}


@pytest.mark.parametrize(("name", "digest"), SHIPPED.items())
def test_shipped_configs_keep_their_identity(name: str, digest: str):
    assert load_config(name).identity == digest


def test_the_default_of_that_commit_keeps_its_identity():
    assert load_config(LAPTOP).identity == "36f5288201c3d8e0"


@pytest.mark.parametrize(("overrides", "digest"), OVERRIDDEN)
def test_changed_configs_keep_their_identity(overrides: list[str], digest: str):
    assert load_config(LAPTOP, overrides).identity == digest


@pytest.mark.parametrize(("train", "test"), TASKS)
def test_configs_completed_from_tasks_keep_their_identity(train: str, test: str):
    overrides = [f"prompts.train={train}", f"prompts.test={test}", "verify={}", "evaluate={}"]
    assert load_config(LAPTOP, overrides, complete_from_tasks).identity == TASKS[train, test]


def test_a_key_decides_the_identity_exactly_if_its_mark_says_so():
    assert len(list(every_key(full_config()))) > 200
    for config in map(full_config, OBJECTIVES):
        for path, annotation, value in every_key(config):
            changed = with_value(config, path, another_value(annotation, value))
            assert changed != config, path
            decides = marks_at(Config, path).decides is not Decides.NEVER or path == ("pools", "trainer", "members")
            assert (changed.identity != config.identity) is decides, path
            differing = [change.path[: len(path)] for change in deciding_changes(config, changed)]
            assert differing == ([path] if decides else []), path


NEVER = [
    "name",
    "placement",
    "autoscaling",
    "snapshots.keep_last",
    "storage.options",
    "judges.llm.cache",
    "push.deadline_s",
    "tracking.page",
    "tracking.wandb.mode",
    "train.checkpoint_every_steps",
    "train.group_timeout_s",
    "train.progress_timeout_s",
    "train.heartbeat_timeout_s",
    "pools.rollout.members",
    "judges.api.endpoint.timeout_s",
    "judges.api.endpoint.max_unanswered",
]
ALWAYS = [
    "seed",
    "weigh.beta",
    "judges.llm.threshold",
    "judges.llm.prompt",
    "judges.api.endpoint.base_url",
    "judges.api.endpoint.extra_body",
    "objective.tau",
    "objective.constant_tokens",
    "push.tolerance_nats",
    "evaluate.greedy",
    "policy.engine_args",
]


@pytest.mark.parametrize(
    ("keys", "decides"),
    [(NEVER, Decides.NEVER), (ALWAYS, Decides.ALWAYS), (["train.lora", "policy.revision"], Decides.WHEN_SET)],
)
def test_marks_of_some_keys(keys: list[str], decides: Decides):
    for key in keys:
        assert marks_at(Config, key.split(".")).decides is decides, key


def test_a_mark_holds_for_the_keys_inside_unless_they_have_their_own():
    assert marks_at(Config, ("weigh", "beta")).first_read_by == "weigh"
    assert marks_at(Config, ("weigh", "mine")) == Marks(Decides.WHEN_SET, "weigh")
    assert marks_at(Config, ("weigh", "min_verified_share")).first_read_by == "segment"
    assert marks_at(Config, ("weigh", "accuracies", "llm")).first_read_by == "weigh"
    assert marks_at(Config, ("train", "lora", "rank")) == Marks(Decides.WHEN_SET, "train")
    assert marks_at(Config, ("judges", "role", "role")).first_read_by == "weigh"  # a judge by the name of a key
    assert marks_at(Config, ("judges", "role", "model")) == marks_at(Config, ("judges", "role")) == Marks()


def test_a_stage_may_be_run_again_with_what_it_or_a_later_one_reads_first():
    stages = ("generate", "verify", "segment", "judge.llm", "weigh", "train", "evaluate")
    may = {mark: [s for s in stages if Marks(first_read_by=mark).may_change_with(s)] for mark in ("weigh", "train")}
    assert may == {"weigh": ["segment", "weigh"], "train": ["segment", "weigh", "train"]}
    assert not any(Marks().may_change_with(stage) for stage in stages)


@dataclass(frozen=True)
class _Options:
    added_later: ClassVar[frozenset[str]] = frozenset({"new"})
    old: int = 1
    new: int = 5


class _Inner(Section):
    size: int = 1


class _Grown(Section):
    """A section with keys that were added after runs were made."""

    old: int = 1
    number: Annotated[int, Decides.WHEN_SET] = Field(3, ge=0)
    text: Annotated[str | None, Decides.WHEN_SET] = None
    inner: Annotated[_Inner, Decides.WHEN_SET, FirstReadBy("train")] = Field(default_factory=_Inner)
    options: _Options = Field(default_factory=_Options)


def test_a_key_added_later_counts_only_once_it_is_set():
    old = {"old": 1, "options": {"old": 1}}
    assert deciding_content(_Grown()) == old
    assert deciding_content(_Grown(number=3, text=None, inner=_Inner(size=1), options=_Options(new=5))) == old
    assert deciding_content(_Grown(text="")) == old
    assert deciding_content(_Grown(number=0)) == {**old, "number": 0}
    assert deciding_content(_Grown(inner=_Inner(size=2))) == {**old, "inner": {"size": 2}}
    assert deciding_content(_Grown(options=_Options(new=6))) == {**old, "options": {"old": 1, "new": 6}}
