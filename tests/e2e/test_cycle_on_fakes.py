"""The whole cycle in this process, on fakes: what three rounds must leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import outcomes_from, rollouts_from, steps_from, verdicts_from, weighted_from
from bcpg_cluster.store.shards import read_table

MakeConfig = Callable[..., Any]
RunRounds = Callable[..., Any]


TRUTHS = {"oracle": "vote", "truth": "measure"}


def table(run: Any, round_: int, name: str) -> list[dict[str, Any]]:
    state = read_manifest(run.directory)
    assert (round_, name) in state.sealed or name.endswith("prompts")
    return read_table(run.directory, state.receipts(round_, name))


def test_accuracy_rises(finished_run: Any):
    accuracy = [finished_run.reports[round_]["accuracy"] for round_ in range(4)]
    assert accuracy == sorted(accuracy)
    assert accuracy[3] > accuracy[0] + 0.2
    assert finished_run.reports[3]["accuracy_greedy"] > finished_run.reports[0]["accuracy_greedy"]
    assert finished_run.reports[3]["change_from_base"]["accuracy"]["mean"] == pytest.approx(accuracy[3] - accuracy[0])


def test_samples_are_conserved_and_rows_agree_with_the_report(finished_run: Any):
    for round_ in (1, 2, 3):
        samples = finished_run.reports[round_]["samples"]
        rollouts = rollouts_from(table(finished_run, round_, "rollouts"))
        weighted = weighted_from(table(finished_run, round_, "weighted"))
        assert samples["asked"] == len(rollouts) == 12 * 8
        assert samples["kept"] == len(weighted)
        assert samples["asked"] == samples["kept"] + sum(samples["dropped"].values())
        assert len({rollout.id for rollout in rollouts}) == len(rollouts)
        outcomes = outcomes_from(table(finished_run, round_, "outcomes"))
        assert set(outcomes) == {rollout.id for rollout in rollouts}
        steps = steps_from(table(finished_run, round_, "steps"))
        wrong = {row.id for row in weighted if row.reward == 0.0}
        assert set(steps) == wrong  # wrong responses of kept groups, and nothing else, are cut and judged
        for judge in ("llm", "prm", "truth"):
            verdicts = verdicts_from(table(finished_run, round_, f"verdicts.{judge}"))
            assert {id_: len(said) for id_, said in verdicts.items()} == {id_: len(cut) for id_, cut in steps.items()}


def test_weights_are_beta_on_mined_tokens_of_wrong_responses(finished_run: Any):
    for round_ in (1, 2, 3):
        weighted = weighted_from(table(finished_run, round_, "weighted"))
        assert {w for row in weighted if row.reward == 1.0 for w in row.token_weights} == {1.0}
        wrong = [w for row in weighted if row.reward == 0.0 for w in row.token_weights]
        assert set(wrong) == {0.5, 1.0}
        assert finished_run.reports[round_]["mined_share"] == pytest.approx(wrong.count(0.5) / len(wrong))


def test_every_rollout_knows_the_weights_that_wrote_it(finished_run: Any):
    for round_ in (1, 2, 3):
        assert {r.policy_version for r in rollouts_from(table(finished_run, round_, "rollouts"))} == {round_ - 1}
    for round_ in range(4):
        assert {r.policy_version for r in rollouts_from(table(finished_run, round_, "eval_rollouts"))} == {round_}


def test_prompts_and_seeds_are_fresh_every_round_and_the_benchmark_stays(finished_run: Any):
    rollouts = {round_: rollouts_from(table(finished_run, round_, "rollouts")) for round_ in (1, 2, 3)}
    prompts = [{r.id.prompt_id for r in of_round} for of_round in rollouts.values()]
    assert len(set.union(*prompts)) == 36
    seeds = [r.seed for of_round in rollouts.values() for r in of_round]
    assert len(set(seeds)) == len(seeds)
    tested = [{r["prompt_id"] for r in table(finished_run, round_, "eval_rollouts")} for round_ in range(4)]
    assert tested[0] == tested[1] == tested[2] == tested[3]
    assert len(tested[0]) == 24


def test_every_push_was_proven(finished_run: Any):
    state = read_manifest(finished_run.directory)
    assert set(state.pushes) == {1, 2, 3}
    for round_ in (1, 2, 3):
        push = finished_run.reports[round_]["push"]
        assert push["canaries"] == "passed"
        assert push["method"] == "gloo"
        assert push["separation_nats"] > 1e-3 > push["worst_nats"]
    assert state.faults == []


def test_reports_are_files_and_plain_json(finished_run: Any):
    for round_, report in finished_run.reports.items():
        path = finished_run.directory / f"rounds/{round_:04d}/report.json"
        assert json.loads(path.read_text()) == json.loads(json.dumps(report, allow_nan=False))
        assert {"accuracy", "stderr", "accuracy_greedy", "stderr_greedy", "seconds", "pass_at_k"} <= set(report)
    assert {"samples", "mined_share", "judges", "push", "train", "tokens_per_s", "change"} <= set(
        finished_run.reports[1]
    )
    quality = finished_run.reports[1]["judges"]["quality"]
    assert quality["consensus"]["truth"]["tokens"]["precision"] > quality["prm"]["truth"]["tokens"]["precision"]


def test_old_snapshots_go_by_the_rule(finished_run: Any):
    assert [path.name[:5] for path in sorted((finished_run.directory / "snapshots").iterdir())] == ["v0002", "v0003"]


def test_a_finished_run_is_a_no_op(
    finished_run: Any, run_rounds: RunRounds, tree_digest: Callable[..., dict[str, str]]
):
    before = tree_digest(finished_run.directory, ignore=("run.lock",))
    times = {path: path.stat().st_mtime_ns for path in finished_run.directory.rglob("*.parquet")}
    again = run_rounds(finished_run.directory, finished_run.config, 3)
    assert again.reports == finished_run.reports
    assert tree_digest(finished_run.directory, ignore=("run.lock",)) == before
    assert {path: path.stat().st_mtime_ns for path in finished_run.directory.rglob("*.parquet")} == times


def test_the_seed_decides(tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig, finished_run: Any):
    small = {"evaluate": {"num_prompts": 6}, "prompts": {"per_round": 6}}
    runs = {
        name: run_rounds(tmp_path / name, make_config(seed=seed, **small), 1)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    texts = {name: [r.text for r in rollouts_from(table(run, 1, "rollouts"))] for name, run in runs.items()}
    assert texts["a"] == texts["b"] != texts["c"]
    assert runs["a"].reports[1]["samples"] == runs["b"].reports[1]["samples"]
    assert runs["a"].reports[1]["per_problem"] == runs["b"].reports[1]["per_problem"]


def test_more_members_give_the_same_results(
    tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig, finished_run: Any
):
    pools = {"rollout": {"members": 3, "leases_per_member": 1}, "cpu": {"members": 2}}
    run = run_rounds(tmp_path / "r", make_config(pools=pools), 1)
    for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem"):
        assert run.reports[1][key] == finished_run.reports[1][key]
    assert run.reports[1]["push"]["num_members"] == 3


STATUS = {
    "garbage": (StopReason.STOP, OutcomeStatus.NO_ANSWER),
    "empty": (StopReason.STOP, OutcomeStatus.NO_ANSWER),
    "endless": (StopReason.LENGTH, OutcomeStatus.TRUNCATED),
    "aborted": (StopReason.ABORTED, OutcomeStatus.ENGINE_LOST),
}


@pytest.mark.parametrize("kind", list(STATUS))
def test_responses_of_no_use_end_cleanly_and_leave_the_weights(
    tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig, kind: str
):
    """The rule: a round in which every group is uniform (or unverified) teaches nothing, and the run goes on."""
    config = make_config(
        policy={"model": f"fake:{kind}"},
        prompts={"per_round": 5},
        evaluate={"num_prompts": 3},
        snapshots={"keep_last": 1},
        verify={"max_error_share": 1.0},  # an engine that gives up all it is asked stops the run otherwise
    )
    run = run_rounds(tmp_path / "r", config, 3)
    stop, status = STATUS[kind]
    for round_ in (1, 2, 3):
        report = run.reports[round_]
        assert {r.stop_reason for r in rollouts_from(table(run, round_, "rollouts"))} == {stop}
        assert {o.status for o in outcomes_from(table(run, round_, "outcomes")).values()} == {status}
        reason = "unverified" if kind == "aborted" else "all_wrong"
        assert report["samples"] == {"asked": 40, "kept": 0, "dropped": {reason: 40}}
        assert report["mined_share"] is None
        assert report["push"]["canaries"] == "not discriminating"
        assert report["train"] == {}
        if kind == "aborted":
            assert "accuracy" not in report
            assert report["unverified"] == 15
        else:
            assert report["accuracy"] == report["accuracy_greedy"] == 0.0
        assert report["truncated_share"] == (1.0 if kind == "endless" else 0.0)
    assert {r.policy_version for r in rollouts_from(table(run, 3, "rollouts"))} == {2}
    again = run_rounds(tmp_path / "r", config, 4)  # and it can go on later
    assert set(again.reports) == {0, 1, 2, 3, 4}


def test_weights_stay_when_all_are_right_and_training_goes_on_after(
    tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig, finished_run: Any
):
    """A uniform round in the middle of a run: groups of two are often uniform, so ask for one prompt a round."""
    config = make_config(
        generate={"group_size": 2}, prompts={"per_round": 1}, evaluate={"num_prompts": 3}, snapshots={"keep_last": 1}
    )
    run = run_rounds(tmp_path / "r", config, 8)
    kept = [run.reports[round_]["samples"]["kept"] for round_ in range(1, 9)]
    assert 0 in kept
    assert any(kept)
    state = read_manifest(run.directory)
    for round_ in range(1, 9):
        before = state.snapshots[round_ - 1].path if round_ > 1 else ""
        assert (state.snapshots[round_].path == before) == (kept[round_ - 1] == 0)
        if kept[round_ - 1] == 0 and round_ > 1:
            assert state.snapshots[round_].files == state.snapshots[round_ - 1].files
            assert state.snapshots[round_].digests == state.snapshots[round_ - 1].digests
    assert any(state.snapshots[round_].files for round_ in range(2, 9) if not kept[round_ - 1])
    newest = state.snapshots[8].path
    assert not newest or (run.directory / newest).is_dir()


def test_pools_that_take_turns_give_the_same_results(
    tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig, finished_run: Any
):
    judges = {
        "llm": {"kind": "fake", "precision": 0.9, "recall": 0.8, "pool": "judge.llm"},
        "prm": {"kind": "fake", "precision": 0.85, "recall": 0.7, "pool": "prm"},
    }
    config = make_config(placement="colocated", judges=judges, pools={"rollout": {"members": 2}})
    run = run_rounds(tmp_path / "r", config, 2)
    for round_ in (1, 2):
        for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem"):
            assert run.reports[round_][key] == finished_run.reports[round_][key]
        push = run.reports[round_]["push"]
        assert (push["method"], push["canaries"]) == ("disk", "passed")
        assert {r.policy_version for r in rollouts_from(table(run, round_, "rollouts"))} == {round_ - 1}
        assert {r.policy_version for r in rollouts_from(table(run, round_, "eval_rollouts"))} == {round_}
    assert read_manifest(run.directory).faults == []
    again = run_rounds(tmp_path / "r", make_config(judges=judges), 3)  # and the run goes on the other way
    assert again.reports[3]["per_problem"] == finished_run.reports[3]["per_problem"]


def test_true_labels_by_either_rule(tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig):
    """`local` mines what `propagated` does and the right work after mistakes; each is exact against its own truth."""
    reports = {}
    for rule in ("propagated", "local"):
        truths = {name: {"kind": "chain_truth", "rule": rule, "role": role} for name, role in TRUTHS.items()}
        spare = {name: {"kind": "fake", "role": "spare"} for name in ("llm", "prm")}
        config = make_config(judges={**truths, **spare})
        reports[rule] = run_rounds(tmp_path / rule, config, 1).reports[1]
        assert reports[rule]["judges"]["quality"]["consensus"]["truth"]["steps"]["precision"] == 1.0
        verdicts = table(run_rounds(tmp_path / rule, config, 1), 1, "verdicts.oracle")
        errors = {row["error_type"] for row in verdicts}
        assert ("propagated" in errors) == (rule == "propagated")
    paper, local = reports["propagated"], reports["local"]
    assert local["mined_share"] > paper["mined_share"] > 0
    # Up to the first mistake the rules agree.
    assert local["right_steps"]["truth"]["prefix_share"] == pytest.approx(paper["right_steps"]["truth"]["prefix_share"])


def test_prompts_and_responses_at_the_border_of_the_context(
    tmp_path: Path, run_rounds: RunRounds, make_config: MakeConfig
):
    """One prompt is longer than the context, and responses run into its end: a named drop, and a push that is proven on what
    fits.
    """
    train = [json.loads(line) for line in Path(make_config().prompts.train).read_text().splitlines()[:11]]
    train.append({"prompt_id": "L", "question": "1 " * 40 + "+1", "answer": "1"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    changed = {
        "policy": {"engine_args": {"max_model_len": 60}},
        "prompts": {"train": str(tmp_path / "train.jsonl")},
    }
    done = run_rounds(tmp_path / "run", make_config(**changed), 1)
    report = done.reports[1]
    assert report["samples"]["dropped"]["prompt_too_long"] == 8
    assert report["samples"]["asked"] == 96 == report["samples"]["kept"] + sum(report["samples"]["dropped"].values())
    assert report["samples"]["kept"] > 0
    rollouts = rollouts_from(table(done, 1, "rollouts"))
    assert {r.id.prompt_id for r in rollouts if r.stop_reason is StopReason.PROMPT_TOO_LONG} == {"L"}
    assert max(len(r.prompt_token_ids) + len(r.token_ids) for r in rollouts if r.token_ids) == 60
    assert report["push"]["canaries"] == "passed"
    assert read_manifest(done.directory).faults == []
