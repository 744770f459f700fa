"""changes.py: what differs between two configs of a run, and what a stage may be run again with."""

from __future__ import annotations

import pytest

from bcpg_cluster.config.changes import check_rerun_changes, deciding_changes
from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import UserError


def _shown(overrides: list[str], before: list[str] | None = None) -> list[str]:
    return [
        str(change)
        for change in deciding_changes(load_config("laptop", before or []), load_config("laptop", overrides))
    ]


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["seed=1", "weigh.beta=0.25", "name=other"], ["seed (0 -> 1)", "weigh.beta (0.0 -> 0.25)"]),
        (["autoscaling=true", "judges.llm.cache=/c", "pools.rollout.members=1", "storage.options.a=1"], []),
        (["pools.trainer.members=3"], ["pools.trainer.members (2 -> 3)"]),
        (["policy.engine_args.seed=1"], ["policy.engine_args.seed (absent -> 1)"]),
        (["policy.revision=v1"], ["policy.revision (None -> 'v1')"]),  # left out of the identity while it is not set
        (["judges.llm.trust_remote_code=true"], ["judges.llm.trust_remote_code (False -> True)"]),
        (
            ["prompts.columns={}"],
            ["prompts.columns (None -> {'question': 'question', 'answer': 'answer', 'prompt_id': None})"],
        ),
        (["weigh.accuracies={}", "train.lora=null"], []),
    ],
)
def test_only_what_decides_results_is_a_change(overrides: list[str], shown: list[str]):
    assert _shown(overrides) == shown


def test_a_key_inside_a_section_that_both_have():
    assert _shown(["train.lora.rank=8"], before=["train.lora={}"]) == ["train.lora.rank (16 -> 8)"]


def test_options_of_another_objective_are_changes():
    shown = _shown(["objective={name: rft}"])
    assert "objective.name ('bcpg' -> 'rft')" in shown
    assert "objective.tau (0.1 -> absent)" in shown
    assert all(change.startswith("objective.") for change in shown)


ALLOWED = {
    "segment": ["segment.min_tokens=3", "weigh.min_verified_share=0.3", "weigh.beta=0.25", "train.epochs=2"],
    "weigh": ["weigh={beta: 0.1}", "judges.prm.threshold=0.7", "judges.truth.role=spare", "objective={name: dpo}", "train.lora={}"],
    "train": ["train.learning_rate=1e-3", "train.group_timeout_s=1"],
    "evaluate": ["evaluate.num_samples=4", "pools.rollout.members=1"],  # no change, and one that may come at any start
}  # fmt: skip
REFUSED = {
    "segment": ["judges.llm.max_tokens=9", "verify.numeric=false", "seed=1"],
    "weigh": ["weigh.min_verified_share=0.3", "segment.min_tokens=3", "judges.prm.model=other", "push.num_canaries=1"],
    "train": ["weigh.beta=0.25", "objective.tau=1", "pools.trainer.members=1", "judges.prm.threshold=0.7"],
    "judge.llm": ["judges.llm.max_tokens=9"],
    "evaluate": ["evaluate.num_samples=5"],
}


@pytest.mark.parametrize(("stage", "change"), [(stage, change) for stage in ALLOWED for change in ALLOWED[stage]])
def test_changes_that_a_stage_may_be_run_again_with(stage: str, change: str):
    check_rerun_changes(stage, load_config("laptop"), load_config("laptop", [change]))


@pytest.mark.parametrize(("stage", "change"), [(stage, change) for stage in REFUSED for change in REFUSED[stage]])
def test_changes_that_something_before_the_stage_reads(stage: str, change: str):
    allowed = ["train.epochs=2"] if stage in ("segment", "weigh", "train") else []
    with pytest.raises(UserError, match=rf"cannot change when '{stage}' is run again") as caught:
        check_rerun_changes(stage, load_config("laptop"), load_config("laptop", [*allowed, change]))
    assert caught.value.problem.startswith(change.partition("=")[0])
    assert "train.epochs" not in caught.value.problem
    assert caught.value.rule and caught.value.remedy
