"""A real round: vLLM rollouts, LLM judge, PRM, DeepSpeed, gloo push, on Ray. What it leaves must hold together.

It was killed in training, and its second round was stopped (tests/real_run.py): that must not be seen in it.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from bcpg_cluster.records import SampleId, VerdictStatus
from bcpg_cluster.stages.push.canaries import read_canaries
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import (
    outcomes_from,
    reference_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.prometheus.catalog import METRICS
from bcpg_cluster_cli.app import app
from tests.real_run import RealRun, iterate_command, real_environment

pytestmark = pytest.mark.engine


def test_tables_hold_together(real_run: RealRun) -> None:
    run_dir = real_run.directory
    state = read_manifest(run_dir)

    def table(name: str, round_: int = 1) -> list[dict[str, object]]:
        return read_table(run_dir, state.receipts(round_, name))

    rollouts = {rollout.id: rollout for rollout in rollouts_from(table("rollouts"))}
    outcomes = outcomes_from(table("outcomes"))
    steps = steps_from(table("steps"))
    weighted = {row.id: row for row in weighted_from(table("weighted"))}
    reference = {id_: row.logprobs for (id_, _), row in reference_from(table("reference")).items()}
    assert len(rollouts) == 24 * 8 and rollouts.keys() == outcomes.keys()
    assert {rollout.policy_version for rollout in rollouts.values()} == {0}
    assert all(len(r.token_ids) == len(r.sampler_logprobs) == len(r.token_texts) > 0 for r in rollouts.values())
    assert len({rollout.seed for rollout in rollouts.values()}) == len(rollouts)
    assert reference.keys() == weighted.keys()
    wrong = {id_ for id_, row in weighted.items() if row.reward == 0.0}
    assert steps.keys() == wrong and wrong
    for judge in ("llm", "prm", "truth"):
        verdicts = verdicts_from(table(f"verdicts.{judge}"))
        assert {id_: len(of_sample) for id_, of_sample in verdicts.items()} == {i: len(s) for i, s in steps.items()}
        said = [verdict for of_sample in verdicts.values() for verdict in of_sample]
        judged = [verdict for verdict in said if verdict.status is VerdictStatus.JUDGED]
        assert len(judged) >= 0.95 * len(said)
        assert all((v.label is None) != (v.score is None) for v in judged)
    for id_, row in weighted.items():
        assert "".join(rollouts[id_].token_texts) == "".join(s.text for s in steps.get(id_, [])) or row.reward == 1.0
        assert len(row.token_weights) == len(row.token_ids) == len(reference[id_])
        if row.reward == 1.0:
            assert set(row.token_weights) == {1.0}


def test_sampler_and_trainer_agree_on_the_samples(real_run: RealRun) -> None:
    """At the same weights vLLM's and the trainer's log-probs of a response are the same to float32 accuracy."""
    run_dir = real_run.directory
    state = read_manifest(run_dir)
    rollouts = {r.id: r for r in rollouts_from(read_table(run_dir, state.receipts(1, "rollouts")))}
    reference = {
        id_: row.logprobs
        for (id_, _), row in reference_from(read_table(run_dir, state.receipts(1, "reference"))).items()
    }
    worst = max(
        abs(sampled - trained)
        for id_, values in reference.items()
        for sampled, trained in zip(rollouts[id_].sampler_logprobs, values, strict=True)
    )
    assert worst < 1e-3


def test_push_was_proven(real_run: RealRun) -> None:
    run_dir = real_run.directory
    state = read_manifest(run_dir)
    push = state.pushes[1]
    assert push.method == "gloo" and push.num_members == 2
    assert push.canaries == "passed"
    assert push.worst_nats < 1e-3 < push.separation_nats
    assert push.cached_prefix_nats is not None and push.cached_prefix_nats < 1e-3
    evaluated = rollouts_from(read_table(run_dir, state.receipts(1, "eval_rollouts")))
    assert {rollout.policy_version for rollout in evaluated} == {1}


def test_snapshot_is_an_ordinary_checkpoint(real_run: RealRun) -> None:
    """transformers loads it, and gives the log-probs that the trainer wrote beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir = real_run.directory
    record = read_manifest(run_dir).snapshots[1]
    folder = run_dir / record.path
    assert verify_snapshot(folder) == record.digests
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    canary = read_canaries(folder)[0]
    ids = torch.tensor([canary.prompt_token_ids + canary.token_ids])
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    start = len(canary.prompt_token_ids)
    found = [float(logprobs[start + i - 1, token]) for i, token in enumerate(canary.token_ids)]
    assert max(abs(a - b) for a, b in zip(found, canary.after, strict=True)) < 1e-4


def test_running_it_again_changes_nothing(real_run: RealRun) -> None:
    run_dir = real_run.directory
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "run.lock"}
    started = time.monotonic()
    done = subprocess.run(
        iterate_command(run_dir, 1), env=real_environment(), capture_output=True, text=True, timeout=120, check=True
    )
    assert "done already" in done.stdout and "after round 1:" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "run.lock"} == before
    assert "ray:" not in done.stdout, f"no engine may start ({time.monotonic() - started:.1f} s)"


def test_what_a_person_sees(real_run: RealRun) -> None:
    from typer.testing import CliRunner

    run_dir, printed = real_run.directory, real_run.printed
    for words in ("test accuracy, sampled", "mined share", "llm against truth", "prm against truth", "tokens/s"):
        assert words in " ".join(printed.split()), words
    status = json.loads(CliRunner().invoke(app, ["status", "--run-dir", str(run_dir), "--json"]).stdout)
    assert [entry["round"] for entry in status["rounds"]] == [0, 1]
    assert {"accuracy", "stderr", "accuracy_greedy"} <= status["rounds"][1].keys()
    samples = status["rounds"][1]["samples"]
    assert samples["asked"] == 24 * 8 == samples["kept"] + sum(samples["dropped"].values())
    shown = CliRunner().invoke(app, ["inspect", "--run-dir", str(run_dir), "--number", "2"])
    assert shown.exit_code == 0 and "gold answer" in shown.stdout


def test_seeds_name_the_sample(real_run: RealRun) -> None:
    from bcpg_cluster.stages.generate.stage import request_seed

    run_dir = real_run.directory
    rollouts = rollouts_from(read_table(run_dir, read_manifest(run_dir).receipts(1, "rollouts")))
    for rollout in rollouts:
        assert rollout.seed == request_seed(0, "rollouts", SampleId(1, rollout.id.prompt_id, rollout.id.sample))


def test_its_metrics_were_exported(real_run: RealRun) -> None:
    """Read from Ray's agent while the run went on. The process that was killed made the data, the other the weights."""
    state, killed, series = read_manifest(real_run.directory), real_run.killed, real_run.series
    receipts, report = state.receipts(1, "rollouts"), state.reports[1]
    assert report.judges
    for what in ("samples", "tokens"):
        made = sum(receipt.metrics[what] for receipt in receipts)
        assert killed.get(f"ray_bcpg_{what}_total", stage="generate") == made
    assert killed.get("ray_bcpg_samples_total", stage="judge.llm") > 0
    assert killed.get("ray_bcpg_mined_share") == pytest.approx(report.mined_share)
    agreement = report.judges.agreement["llm+prm"].agreement
    assert killed.get("ray_bcpg_judge_agreement", judges="llm+prm") == pytest.approx(agreement)
    for pool in ("rollout", "judge.llm", "prm", "cpu"):
        assert 0 <= killed.get("ray_bcpg_busy_share", pool=pool) <= 1, pool
        assert killed.get("ray_bcpg_pool_members", pool=pool, state="ready") >= 1, pool
    train, push, trained = state.snapshots[1].training, state.pushes[1], real_run.trained
    assert train
    assert trained.get("ray_bcpg_loss") == pytest.approx(train.loss_last)
    assert trained.get("ray_bcpg_grad_norm") == pytest.approx(train.grad_norm_last)
    assert trained.get("ray_bcpg_delta_per_token", tokens="right") == pytest.approx(train.delta_per_token_right_last)
    assert series.get("ray_bcpg_push_seconds") == pytest.approx(push.seconds)
    assert series.get("ray_bcpg_push_worst_nats") == pytest.approx(push.worst_nats)
    assert series.get("ray_bcpg_policy_version", weights="served") == 1
    last_steps = {"bcpg_round_seconds", "bcpg_steps_without_verdict", "bcpg_faults", "bcpg_clipped_share"}
    of_one_process = {"bcpg_round_bound_seconds", "bcpg_round_took_seconds"}
    expected = {metric.series for metric in METRICS if metric.name not in last_steps | of_one_process}
    assert expected <= killed.names() | series.names()
    assert not {metric.series for metric in METRICS if metric.name in of_one_process} & series.names()
