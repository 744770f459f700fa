"""The command line, driven as a user does it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from bcpg_cluster import __version__
from bcpg_cluster.cluster.on_ray import runtime as ray_runtime
from bcpg_cluster.cluster.on_ray.runtime import choose_cluster
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.build import default_config
from bcpg_cluster.run.build.default_config import choose_config
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.layout import ray_namespace
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import Estimate, RoundReport
from bcpg_cluster.store.rows import rollouts_from, steps_from, weighted_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.observer import Faulted, Noted
from bcpg_cluster_cli.console import ConsoleObserver, account_text, closing_lines, percent, points, print_report
from bcpg_cluster_cli.session import find_run


@pytest.fixture
def run_dir(tmp_path: Path, finished_run: Any) -> Path:
    return Path(shutil.copytree(finished_run.directory, tmp_path / "run"))


Bcpg = Callable[..., Any]


def test_help_and_version(bcpg: Bcpg):
    shown = bcpg("--help")
    assert shown.code == 0
    for command in (
        "iterate", "compare", "calibrate", "export", "import", "segment-text", "judge-eval", "disagreements", "stage",
        "status", "inspect", "plan", "grade", "validate", "doctor",
    ):  # fmt: skip
        assert command in shown.out
    assert bcpg("--version").out.strip() == __version__
    assert bcpg("iterat").code == 2
    assert bcpg("iterate", "--rounds", "0").code == 2


def test_iterate_prints_what_a_person_wants_to_know(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", tmp_path / "r", "--rounds", 1)
    assert ended.code == 0, ended.err
    for words in (
        "round 0 (base policy)", "test accuracy, sampled (avg@4)", "test accuracy, greedy", "asked 96 = kept",
        "mined share", "llm against truth", "consensus against truth", "agreement llm+prm", "canaries passed", "tokens/s",
        "seconds", "its bound of", "max(D ", "busy",
    ):  # fmt: skip
        assert words in ended.out
    moved, mined = ended.out.strip().splitlines()[-2:]
    assert moved.startswith("after round 1: sampled ")
    assert "points" in moved
    assert mined.startswith("mined in round 1: ") and mined.endswith("% of their gradient mass")
    assert set(read_manifest(tmp_path / "r").reports) == {0, 1}
    assert json.loads((tmp_path / "r/rounds/0001/report.json").read_text())["round"] == 1


def test_iterate_as_json_again_and_further(bcpg: Bcpg, config_file: Path, run_dir: Path):
    again = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--json")
    assert again.code == 0, again.err
    reports = json.loads(again.out)  # nothing else on stdout
    assert [report["round"] for report in reports] == [0, 1, 2, 3]
    assert "all 3 rounds are done already" in again.err
    fewer = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--json", "--rounds", 2)
    assert [report["round"] for report in json.loads(fewer.out)] == [0, 1, 2]
    more = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", run_dir, "--json", "--rounds", 4)
    assert [report["round"] for report in json.loads(more.out)] == [0, 1, 2, 3, 4]
    assert json.loads(more.out)[:4] == reports


def test_where_a_run_lives_by_default(bcpg: Bcpg, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    quick = ("--inline", "--rounds", 1, "--set", "evaluate.num_prompts=4", "--set", "prompts.per_round=4")
    assert bcpg("iterate", "-c", config_file, *quick).code == 0
    assert bcpg("iterate", "-c", config_file, "--seed", 3, *quick).code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["fakes", "fakes-seed3"]
    assert find_run(None).name == "fakes-seed3"  # the newest
    assert json.loads(bcpg("status", "--json").out)["run_dir"] == "runs/fakes-seed3"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-c", "nothing.yaml"], "config 'nothing.yaml' does not exist"),
        (["--set", "weigh.betta=1"], "did you mean weigh.beta for weigh.betta?"),
        (["--set", "weigh.beta=2"], "weigh.beta"),
        (["--set", "nonsense"], "cannot be read"),
        (["--set", "prompts.train=/none.jsonl"], "prompt file /none.jsonl does not exist"),
        (["--set", "prompts.per_round=1000"], "prompts.per_round is 1000"),
        (["--set", "policy.kind=vllm", "--set", "policy.model=/none"], "policy.model: /none is not a directory"),
        (["--set", "judges.llm.kind=llm"], "needs a model"),
        (["--set", "judges.llm.kind=openai", "--set", "judges.llm.model=m"], "needs an endpoint section"),
        (["--set", "segment.kind=sat"], "needs segment.model"),
        (["--set", "verify.kind=function"], "needs verify.function"),
        (["--set", "verify={kind: function, function: 'bcpg_cluster.none:f'}"], "No module named 'bcpg_cluster.none'"),
        (["--set", "prompts.columns.question=problem"], "no column 'problem'; known: prompt_id, question"),
        (["--set", "prompts.train=task:gsm9k"], "did you mean gsm8k?"),
        (["--set", "weigh.rule=k_of_n"], "num_needed"),
    ],
)
@pytest.mark.parametrize("command", ["iterate", "validate", "plan"])
def test_bad_input_ends_with_code_2_before_anything_is_made(
    bcpg: Bcpg, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str,
    arguments: list[str], words: str,
):  # fmt: skip
    if command == "plan" and "policy.kind=vllm" in arguments:
        pytest.skip("plan does not look at models")
    monkeypatch.chdir(tmp_path)
    config = [] if "-c" in arguments else ["-c", config_file]
    is_inline = (
        command == "iterate" and "policy.kind=vllm" not in arguments
    )  # which needs processes, and is refused for that
    ended = bcpg(command, *config, *arguments, *(["--inline"] if is_inline else []))
    assert ended.code == 2
    assert words in ended.err
    assert "rule:" in ended.err
    assert "remedy:" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_iterate_leaves_other_directories_alone(
    bcpg: Bcpg, config_file: Path, run_dir: Path, tmp_path: Path, tree_digest: Callable[..., dict[str, str]]
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    before = tree_digest(tmp_path)
    for directory, override, words in (
        (tmp_path / "mine", "seed=0", "is not a run"),
        (run_dir, "seed=8", "seed (0 -> 8)"),
        (tmp_path / "mine" / "notes.txt", "seed=0", "is a file"),
    ):
        ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", directory, "--set", override)
        assert ended.code == 2
        assert words in ended.err
        assert tree_digest(tmp_path) == before


def test_status(bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]):
    before = tree_digest(run_dir)
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert [row["round"] for row in facts["rounds"]] == [0, 1, 2, 3]
    for row in facts["rounds"]:
        assert {"accuracy", "stderr", "accuracy_greedy", "stderr_greedy"} <= set(row)
        if row["round"]:
            assert 0 < row["mined_gradient_share"] < 1
            assert row["uncertain_right_share"] == row["right_steps"]["consensus"]["uncertain_share"]
            assert set(row["right_steps"]) == {"consensus", "truth"}
    assert facts["policy_version"] == 3
    assert facts["ray_namespace"] == ray_namespace(run_dir) != ray_namespace(run_dir.parent)
    assert facts["is_running"] is False
    assert facts["in_progress"] == []
    text = bcpg("status", "--run-dir", run_dir)
    assert text.code == 0
    assert "not running" in text.out
    assert tree_digest(run_dir) == before
    missing = bcpg("status", "--run-dir", run_dir.parent)
    assert missing.code == 2
    assert "is not a run" in missing.err


def test_status_of_a_round_under_way(bcpg: Bcpg, run_dir: Path):
    lines = (run_dir / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    third = next(n for n, line in enumerate(lines) if b'"table": "steps"' in line and b'"round": 3' in line)
    (run_dir / "manifest.jsonl").write_bytes(b"".join(lines[: third + 1]))
    facts = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)
    assert {"round": 3, "table": "prompts", "shards": 3, "state": "open"} in facts["in_progress"]
    assert bcpg("status", "--run-dir", run_dir).code == 0


# --- 80 columns


def test_status_fits_80_columns(bcpg: Bcpg, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = bcpg("status", "--run-dir", run_dir)
    text = ended.out.replace(str(run_dir), "RUN")
    assert ended.code == 0 and "\u2026" not in text
    rows = [line.split() for line in text.splitlines() if line.strip()[:1] in ("0", "1", "2", "3")]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]  # a line a round: nothing wraps
    reports = read_manifest(run_dir).reports
    samples = reports[3].samples
    assert samples is not None and f"{samples.kept} / {samples.asked}" in " ".join(rows[3])
    assert max(len(line) for line in text.splitlines() if not line.startswith(("RUN", "ray namespace"))) <= 80


def test_status_tells_the_bound_of_a_round(bcpg: Bcpg, run_dir: Path, tmp_path: Path):
    rounds = json.loads(bcpg("status", "--run-dir", run_dir, "--json").out)["rounds"]
    assert "bound" not in rounds[0]  # an evaluation alone
    assert rounds[0]["busy"].keys() == {"rollout", "cpu"}
    for report in rounds[1:]:
        bound, seconds = report["bound"], report["seconds"]
        assert 0 < bound["bound_s"] <= bound["took_s"]
        parts = max(bound["data_s"], bound["reference_s"]) + bound["train_s"] + bound["push_s"]
        assert bound["bound_s"] == pytest.approx(parts)
        assert bound["data_s"] <= seconds["data"]
        assert report["busy"].keys() == {"rollout", "cpu", "trainer"}
        assert all(0 <= share <= 1 for share in report["busy"].values())
    text = bcpg("status", "--run-dir", run_dir).out
    assert "round 3 took " in text and "x its bound of " in text and "busy in round 3: " in text
    resumed = tmp_path / "resumed"
    shutil.copytree(run_dir, resumed)
    lines = (resumed / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    third = next(n for n, line in enumerate(lines) if b'"table": "weighted"' in line and b'"round": 3' in line)
    (resumed / "manifest.jsonl").write_bytes(b"".join(lines[:third]))
    whole = {*read_manifest(resumed).reports, 4} - {0}  # of the third round both processes did a part
    assert bcpg("iterate", "-c", resumed / "config.yaml", "--inline", "--run-dir", resumed, "--rounds", 4).code == 0
    rounds = json.loads(bcpg("status", "--run-dir", resumed, "--json").out)["rounds"]
    assert {number for number, report in enumerate(rounds) if "bound" in report} == whole
    assert "busy" not in rounds[3]


def test_watching_ends_with_the_whole_state(bcpg: Bcpg, run_dir: Path):
    ended = bcpg("status", "--watch", "--run-dir", run_dir)
    assert ended.code == 0
    assert "sampled" in ended.out and "not running" in ended.out


# --- one process


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["policy={kind: vllm, model: 'embedded:chain/policy'}"], "rollout"),
        (["judges.llm={kind: llm, model: 'embedded:chain/judge'}"], "judge.llm"),
        (["train.kind=deepspeed", "pools.trainer={members: 2}"], "trainer"),
    ],
)
@pytest.mark.parametrize("command", ["iterate", "compare"])
def test_engines_that_need_processes_are_not_run_inline(
    bcpg: Bcpg, config_file: Path, tmp_path: Path, command: str, overrides: list[str], named: str
):
    changes = [part for override in overrides for part in ("--set", override)]
    compared = ("--validation-prompts", 0, "--learning-rates", "1e-4") if command == "compare" else ()
    ended = bcpg(command, "-c", config_file, "--inline", "--run-dir", tmp_path / "r", *changes, *compared)
    assert ended.code == 2, ended.err
    assert f"--inline, but {named} cannot run in this process" in ended.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "command", [("iterate",), ("compare", "--validation-prompts", "0", "--learning-rates", "1e-4")], ids=lambda c: c[0]
)
def test_inline_needs_no_address(bcpg: Bcpg, config_file: Path, tmp_path: Path, command: tuple[str, ...]):
    ended = bcpg(*command, "-c", config_file, "--inline", "--address", "local", "--run-dir", tmp_path / "r")
    assert ended.code == 2 and "--inline with --address local" in ended.err
    assert not (tmp_path / "r").exists()


def test_a_stage_is_refused_before_anything_is_discarded(
    bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]
):
    before = tree_digest(run_dir, ignore=("run.lock",))
    again = ("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    ended = bcpg(*again, "--address", "local")
    assert ended.code == 2 and "--inline with --address local" in ended.err
    assert tree_digest(run_dir, ignore=("run.lock",)) == before


# --- stage


def test_stage_needs_leave_to_discard(bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]):
    before = tree_digest(run_dir, ignore=("run.lock",))
    ended = bcpg("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline")
    assert ended.code == 2
    assert "snapshot v3 were made from the results of 'weigh' in round 3" in ended.err
    assert "--discard-later" in ended.err
    assert tree_digest(run_dir, ignore=("run.lock",)) == before


def test_stage_says_what_it_will_train_again(bcpg: Bcpg, run_dir: Path):
    refused = bcpg("stage", "weigh", "--round", 2, "--run-dir", run_dir, "--inline")
    sentence = (
        "to be done again: weigh, evaluate, verify_evaluation, training of round 2 and its push. Rounds to train anew after "
        "that: 3 (`bcpg-cluster iterate --rounds 3` does)"
    )
    assert refused.code == 2 and sentence in refused.err
    ended = bcpg("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    said = "to be done again: weigh, evaluate, verify_evaluation, training of round 3 and its push"
    assert ended.code == 0 and f"discarding snapshot v3\n{said}\n" in ended.out


def test_stage_segment_takes_a_segmenter_whose_numbers_are_stored(
    bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]
):
    before = tree_digest(run_dir, ignore=("run.lock",))
    again = ("stage", "segment", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later", "--set")
    refused = bcpg(*again, "segment.kind=entropy")
    assert refused.code == 2, refused.err
    assert "segment.kind is 'entropy', and a response of" in refused.err and "has 0 entropies" in refused.err
    assert tree_digest(run_dir, ignore=("run.lock",)) == before
    ended = bcpg(*again, "segment.kind=confidence", "--set", "segment.below_probability=0.9")
    assert ended.code == 0, ended.err
    steps = steps_from(read_table(run_dir, read_manifest(run_dir).receipts(3, "steps")))
    rollouts = {r.id: r for r in rollouts_from(read_table(run_dir, read_manifest(run_dir).receipts(3, "rollouts")))}
    begins = [rollouts[id_].sampler_logprobs[step.start] for id_, cut in steps.items() for step in cut[1:]]
    assert begins and all(math.exp(logprob) < 0.9 for logprob in begins)


def test_stage_weigh_again(bcpg: Bcpg, run_dir: Path):
    old = read_manifest(run_dir)
    ended = bcpg("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    for table in ("prompts", "rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.prm", "verdicts.truth"):
        assert new.receipts(3, table) == old.receipts(3, table)  # no judge was asked again
    for table in ("weighted", "reference", "eval_rollouts"):
        attempts = [{r.attempt for r in state.receipts(3, table)} for state in (old, new)]
        assert not attempts[0] & attempts[1]
    assert new.snapshots[3].path != old.snapshots[3].path
    assert new.reports[3].accuracy == old.reports[3].accuracy  # the same inputs give the same results
    assert {r: new.reports[r] for r in (0, 1, 2)} == {r: old.reports[r] for r in (0, 1, 2)}


def test_stage_weigh_again_with_another_beta_and_lambda(bcpg: Bcpg, run_dir: Path, config_file: Path):
    old = read_manifest(run_dir)
    again = ("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline")
    changes = ("--set", "weigh.beta=0.125", "--set", "judges.prm.threshold=0.7")
    assert bcpg(*again, *changes).code == 2  # leave to discard is needed all the same
    assert read_manifest(run_dir) == old
    ended = bcpg(*again, *changes, "--discard-later")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    assert new.receipts(3, "verdicts.llm") == old.receipts(3, "verdicts.llm")
    weights = {w for row in weighted_from(read_table(run_dir, new.receipts(3, "weighted"))) for w in row.token_weights}
    assert weights == {0.125, 1.0}
    config = load_run_config(run_dir)
    assert (config.weigh.beta, config.judges["prm"].threshold) == (0.125, 0.7)
    assert config.identity == (new.created or {})["identity"]
    refused = bcpg("iterate", "-c", config_file, "--run-dir", run_dir, "--inline")
    assert refused.code == 2
    assert "weigh.beta (0.125 -> 0.5)" in refused.err
    assert bcpg("iterate", "-c", run_dir / "config.yaml", "--run-dir", run_dir, "--inline").code == 0


def test_stage_weigh_again_mines_prefixes_and_asks_no_judge(bcpg: Bcpg, run_dir: Path):
    old = read_manifest(run_dir)
    again = ("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    ended = bcpg(*again, "--set", "weigh.mine=prefix")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    for judge in ("llm", "prm", "truth"):
        assert new.receipts(3, f"verdicts.{judge}") == old.receipts(3, f"verdicts.{judge}")
    mined = [
        {
            row.id: row.mined
            for row in weighted_from(read_table(run_dir, state.receipts(3, "weighted")))
            if not row.reward
        }
        for state in (old, new)
    ]
    assert mined[0] != mined[1]
    for id_, by_consensus in mined[0].items():
        prefix = mined[1][id_]
        assert prefix == tuple(sorted(prefix, reverse=True))
        assert all(before or not after for before, after in zip(by_consensus, prefix, strict=True))
    assert new.reports[3].mined_gradient_share < old.reports[3].mined_gradient_share  # type: ignore[operator]
    assert new.reports[3].right_steps == old.reports[3].right_steps
    assert load_run_config(run_dir).identity == (new.created or {})["identity"] != (old.created or {})["identity"]


def test_stage_segment_again_with_other_steps(bcpg: Bcpg, run_dir: Path):
    old = read_manifest(run_dir)
    again = ("stage", "segment", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later")
    ended = bcpg(*again, "--set", "segment.min_tokens=30")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    assert new.receipts(3, "outcomes") == old.receipts(3, "outcomes")
    num_steps = [sum(receipt.num_rows for receipt in state.receipts(3, "steps")) for state in (old, new)]
    assert num_steps[1] < num_steps[0]
    assert load_run_config(run_dir).segment.min_tokens == 30
    assert load_run_config(run_dir).identity == (new.created or {})["identity"]


@pytest.mark.parametrize("change", ["generate.temperature=0.5", "seed=3", "judges.llm.precision=0.5", "weigh.betta=1"])
def test_stage_takes_no_change_that_what_it_reads_depends_on(
    bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]], change: str
):
    before = tree_digest(run_dir, ignore=("run.lock",))
    ended = bcpg("stage", "weigh", "--round", 3, "--run-dir", run_dir, "--inline", "--discard-later", "--set", change)
    assert ended.code == 2
    assert change.partition("=")[0] in ended.err
    assert tree_digest(run_dir, ignore=("run.lock",)) == before


def test_stage_evaluate_again_keeps_the_weights(bcpg: Bcpg, run_dir: Path):
    old = read_manifest(run_dir)
    ended = bcpg("stage", "evaluate", "--round", 3, "--run-dir", run_dir, "--inline")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    assert new.snapshots == old.snapshots
    assert new.receipts(3, "weighted") == old.receipts(3, "weighted")
    assert new.receipts(3, "eval_rollouts") != old.receipts(3, "eval_rollouts")
    assert new.reports[3].accuracy == old.reports[3].accuracy


def test_stage_of_an_earlier_round_gives_up_the_later_ones(bcpg: Bcpg, run_dir: Path, config_file: Path):
    old = read_manifest(run_dir)
    ended = bcpg("stage", "train", "--round", 1, "--run-dir", run_dir, "--inline", "--discard-later")
    assert ended.code == 0, ended.err
    assert set(read_manifest(run_dir).reports) == {0, 1}
    ended = bcpg("iterate", "-c", config_file, "--run-dir", run_dir, "--inline")
    assert ended.code == 0, ended.err
    new = read_manifest(run_dir)
    assert new.reports[3].accuracy == old.reports[3].accuracy


def test_stage_whose_weights_are_gone(bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]):
    """Of three rounds, v1 is not kept: round 2 cannot be trained again, and nothing may be given up for it."""
    assert not list((run_dir / "snapshots").glob("v0001-*"))
    before = tree_digest(run_dir, ignore=("run.lock",))
    for name, round_ in (("weigh", 2), ("evaluate", 1)):
        ended = bcpg("stage", name, "--round", round_, "--run-dir", run_dir, "--inline", "--discard-later")
        assert ended.code == 2
        assert "snapshot v1 is no longer there" in ended.err
        assert tree_digest(run_dir, ignore=("run.lock",)) == before


@pytest.mark.parametrize(
    ("name", "round_", "words"),
    [
        ("jugde", 1, "unknown stage 'jugde'"),
        ("weigh", 7, "round 7 has no results of 'weigh'"),
        ("train", 7, "round 7 has no results of 'train'"),
        ("judge.llm", 0, "round 0 has no results of 'judge.llm'"),
    ],
)
def test_stage_that_is_not_there(bcpg: Bcpg, run_dir: Path, name: str, round_: int, words: str):
    before = (run_dir / "manifest.jsonl").read_bytes()
    ended = bcpg("stage", name, "--round", round_, "--run-dir", run_dir, "--inline", "--discard-later")
    assert ended.code == 2
    assert words in ended.err
    assert (run_dir / "manifest.jsonl").read_bytes() == before


# --- judges behind an endpoint, export and import, text and data


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "NO_SUCH_KEY"},
            "environment variable NO_SUCH_KEY is not set",
        ),
        ({"base_url": "http://127.0.0.1:1/v1", "api_key_env": "sk-0123456789"}, "api_key_env of judge model 'm'"),
        ({"base_url": "http://me:sk-0123456789@127.0.0.1:1/v1"}, "not a plain http(s) address"),
        ({"base_url": "http://127.0.0.1:1/v1?key=sk-0123456789"}, "not a plain http(s) address"),
        ({"base_url": "http://127.0.0.1:1/v1", "price_prompt": 1.0}, "given together or not at all"),
    ],
)
@pytest.mark.parametrize("command", ["iterate", "validate"])
def test_endpoints_that_cannot_be_asked(
    bcpg: Bcpg, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str,
    section: dict[str, Any], words: str,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    judge = json.dumps({"kind": "openai", "model": "m", "endpoint": section})
    ended = bcpg(
        command, "-c", config_file, "--set", f"judges.llm={judge}", *(["--inline"] if command == "iterate" else [])
    )
    assert ended.code == 2
    assert words in ended.err
    assert "remedy:" in ended.err
    assert "sk-0123456789" not in ended.out + ended.err  # a key in the wrong place is not shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "banana", "--out", "o"], "'banana' is not one of 'policy', 'steps'"),
        (["export", "preferences", "--out", "o", "--style", "x"], "'x' is not one of"),
        (["export", "steps", "--out", "o", "--run-dir", "nowhere"], "is not a run"),
        (["import", "none.jsonl", "-c", "CONFIG", "--run-dir", "o"], "none.jsonl does not exist"),
        (["import", "none.jsonl", "-c", "CONFIG", "--run-dir", "o", "--column", "x"], "--column 'x' cannot be read"),
        (["segment-text", "none.txt", "-c", "CONFIG"], "none.txt"),
        (["judge-eval", "--data", "none.jsonl", "-c", "CONFIG"], "none.jsonl"),
        (["calibrate", "llm", "--labels", "none.jsonl"], "none.jsonl"),
        (["disagreements", "--run-dir", "nowhere"], "is not a run"),
        (["compare", "-m", "banana", "-c", "CONFIG", "--inline"], "banana"),
    ],
)
def test_bad_input_of_the_other_commands(
    bcpg: Bcpg, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
):
    monkeypatch.chdir(tmp_path)
    ended = bcpg(*[config_file if argument == "CONFIG" else argument for argument in arguments])
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_answers_that_no_verifier_takes_are_not_imported(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "1?", "response": "answer 1", "answer": "one"}))
    ended = bcpg("import", tmp_path / "mine.jsonl", "-c", config_file, "--run-dir", tmp_path / "r")
    assert ended.code == 2
    assert "not a number" in ended.err
    assert not (tmp_path / "r").exists()


def test_segment_text(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    (tmp_path / "t.txt").write_text("one two\nthree\n")
    shown = bcpg("segment-text", tmp_path / "t.txt", "-c", config_file, "--json")
    assert shown.code == 0, shown.err
    assert "three" in shown.out


def test_segment_text_marks_the_cues_that_cut(bcpg: Bcpg, config_file: Path, tmp_path: Path):
    (tmp_path / "t.txt").write_text(
        "\u56db\u3002\u7b49\u7b49\uff0c\u4e94\u3002Wait, \u516d\u3002\u6240\u4ee5\u4e03\u3002"
    )
    cues = ["--set", "segment.cues=[\u7b49\u7b49, \u6240\u4ee5]", "--set", "segment.cues_inside_lines=true"]
    shown = bcpg("segment-text", tmp_path / "t.txt", "-c", config_file, "--json", *cues)
    assert shown.code == 0, shown.err
    assert [step["cue"] for step in json.loads(shown.out)["steps"]] == [None, "\u7b49\u7b49", "\u6240\u4ee5"]


# --- inspect


def test_inspect(bcpg: Bcpg, run_dir: Path, tree_digest: Callable[..., dict[str, str]]):
    before = tree_digest(run_dir)
    ended = bcpg("inspect", "--run-dir", run_dir, "--round", 1, "-n", 40)
    assert ended.code == 0, ended.err
    for words in ("question:", "gold answer:", "advantage:", "weight", "0.5", "right", "wrong (calculation)"):
        assert words in ended.out
    assert "right response: no steps" in ended.out
    assert tree_digest(run_dir) == before


def test_inspect_one_sample_and_none(bcpg: Bcpg, run_dir: Path):
    rows = bcpg("inspect", "--run-dir", run_dir).out
    prompt, sample = rows.split()[0], rows.split()[2].strip(",")
    one = bcpg("inspect", "--run-dir", run_dir, "--prompt", prompt, "--sample", sample)
    assert one.out.split()[:3] == [prompt, "sample", f"{sample},"]
    for arguments, words in ((["--prompt", "zz"], "no kept sample of prompt 'zz'"), (["--round", "9"], "round 9")):
        ended = bcpg("inspect", "--run-dir", run_dir, *arguments)
        assert ended.code == 2
        assert words in ended.err


def test_inspect_shows_brackets_as_they_are(
    bcpg: Bcpg, tmp_path: Path, fakes_content: Callable[[], dict[str, Any]], run_rounds: Callable[..., Any],
    make_config: Callable[..., Any],
):  # fmt: skip
    content = fakes_content()
    lines = [json.loads(line) for line in Path(content["prompts"]["train"]).read_text().splitlines()]
    for line in lines:
        line["question"] += "\n[/b] [red]brackets[/x]"
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = make_config(prompts={"train": str(tmp_path / "t.jsonl")}, evaluate={"num_prompts": 2})
    run_rounds(tmp_path / "r", config, 1)
    ended = bcpg("inspect", "--run-dir", tmp_path / "r")
    assert ended.code == 0
    assert "[/b] [red]brackets[/x]" in ended.out


# --- plan, validate, doctor


def test_plan(bcpg: Bcpg, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    facts = json.loads(bcpg("plan", "-c", config_file, "-n", 2, "--json").out)
    assert facts["per_round"]["samples"] == 12 * 8
    assert facts["per_round"]["tokens"] == 12 * 8 * 200
    assert facts["per_round"]["evaluation_samples"] == 24 * 5
    assert facts["per_round"]["judge_calls"] == 3 * 12 * 7  # at least one response of a kept group is right
    assert facts["total"]["samples"] == 2 * 96
    assert facts["total"]["evaluation_samples"] == 3 * 120  # the base is measured too
    assert [pool["name"] for pool in facts["pools"]] == ["rollout", "cpu", "trainer"]
    assert facts["memory_gib"] == 3.0
    assert facts["gpu_memory"] == []
    assert "samples drawn for training" in bcpg("plan", "-c", config_file).out
    assert list(tmp_path.iterdir()) == []


def test_plan_of_gpus(bcpg: Bcpg, tmp_path: Path, prompt_files: tuple[Path, Path]):
    prompts = f"prompts={{train: {prompt_files[0]}, test: {prompt_files[1]}, per_round: 40}}"
    facts = json.loads(bcpg("plan", "-c", "r1-distill-qwen-14b", "--set", prompts, "--json").out)
    assert facts["num_gpus"] == 64
    rows = {row["pool"]: row for row in facts["gpu_memory"]}
    assert rows["rollout"]["parameters"] == pytest.approx(14.77e9, rel=0.001)  # as its model card says
    weights, cache = rows["rollout"]["parts"].values()
    assert weights == pytest.approx(14.77e9 * 2 / 2 / 2**30, rel=0.001)  # bfloat16, two GPUs
    assert cache == pytest.approx(2 * 48 * 8 * 128 * 2 * 24576 / 2 / 2**30)
    state, activations = rows["trainer"]["parts"].values()
    assert state == pytest.approx(14.77e9 * 16 / 32 / 2**30, rel=0.001)
    assert 16 < activations < 30
    assert set(rows) == {"rollout", "judge.llm", "prm", "trainer"}
    shared = json.loads(bcpg("plan", "-c", "one-gpu", "--set", prompts, "--json").out)
    assert (shared["num_gpus"], shared["memory_gib"]) == (1, 16)  # of the largest turn
    shown = bcpg("plan", "-c", "one-gpu", "--set", prompts, "--set", "policy.model=some/other").out
    assert "GPU memory, estimated" in shown
    assert "config.json is not here" in shown


def test_validate(bcpg: Bcpg, config_file: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    small = [w for name in ("rollout", "cpu", "trainer") for w in ("--set", f"pools.{name}.memory_gib=0.001")]
    ended = bcpg("validate", "-c", config_file, "--run-dir", run_dir, *small)  # a busy machine has little memory free
    assert ended.code == 0, ended.err
    assert "good. 40 train and 24 test prompts" in ended.out
    other = bcpg("validate", "-c", config_file, "--run-dir", run_dir, *small, "--set", "seed=5")
    assert other.code == 2
    assert "seed (0 -> 5)" in other.err
    too_many = bcpg(
        "validate", "-c", config_file, "--set", "pools.rollout.members=5000", "--set", "pools.rollout.memory_gib=9"
    )
    assert too_many.code == 2
    assert "rollout: 5000 x 9 GiB" in too_many.err


def test_doctor(bcpg: Bcpg):
    ended = bcpg("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(ended.out)}
    assert findings["python"]["state"] == "ok"
    assert {
        "ray",
        "torch",
        "vllm",
        "deepspeed",
        "compiler",
        "memory",
        "cpu",
        "gpus",
        "ray cluster",
        "programs in responses",
    } <= set(findings)
    missing = [finding for finding in findings.values() if finding["state"] == "missing"]
    assert ended.code == (1 if missing else 0)
    assert all(finding["remedy"] for finding in missing)
    assert "python" in bcpg("doctor").out


# --- how errors and choices are shown


def test_an_altered_shard_of_a_round_under_way_is_made_again(bcpg: Bcpg, config_file: Path, run_dir: Path):
    state = read_manifest(run_dir)
    receipt = state.receipts(3, "weighted")[0]
    (run_dir / receipt.path).write_bytes(b"altered")
    lines = (run_dir / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if b'"event": "shard", "table": "reference", "round": 3' in line)
    (run_dir / "manifest.jsonl").write_bytes(b"".join(lines[:cut]))
    ended = bcpg("iterate", "-c", config_file, "--inline", "--run-dir", run_dir)
    assert ended.code == 0, ended.err
    assert "table weighted round 3 shard 0" in ended.out and "made again" in ended.out
    remade = read_manifest(run_dir).receipts(3, "weighted")[0]
    assert (remade.attempt != receipt.attempt, remade.checksum) == (True, receipt.checksum)
    assert "table weighted round 3 shard 0" in bcpg("status", "--run-dir", run_dir, "--json").out


def test_errors_with_brackets_do_not_break_the_display():
    console = Console(file=io.StringIO(), width=200)
    observer = ConsoleObserver(console)
    observer.hear(
        Faulted(FaultEvent(FaultKind.REPLACEMENT, "rollout/0 [/x]", "File [/usr/lib] said [red]no[/blue]\nmore"))
    )
    observer.hear(Noted("a note [/b]"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "File [/usr/lib] said [red]no[/blue]" in shown
    assert "a note [/b]" in shown


def test_a_push_that_went_wrong_is_shown_with_its_reason(finished_run: Any):
    report = json.loads(json.dumps(finished_run.reports[1]))
    report["push"] |= {"method": "disk", "why": "gloo: [/tmp/x] closed\nmore"}
    console = Console(file=io.StringIO(), width=400)
    print_report(console, RoundReport.read(report))
    assert "(gloo: [/tmp/x] closed)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_judges_cost_and_what_could_not_be_parsed_is_shown(finished_run: Any):
    def shown(**changed: Any) -> str:
        console = Console(file=io.StringIO(), width=200)
        print_report(console, RoundReport.read({**finished_run.reports[1], **changed}))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    usual = shown()
    assert "calls of" not in usual  # fakes keep no account
    assert "could not be parsed" not in usual
    spent = {"judge.calls": 1200.0, "judge.calls.stored": 200.0, "judge.prompt_tokens": 5e6, "judge.answer_tokens": 3e4}
    text = shown(
        verdicts={"judge.llm": spent | {"judge.cost": 1.5, "judge.retries": 2.0}, "judge.prm": {"steps": 5.0}},
        outcomes={"samples": 96.0, "unparsed": 3.0},
    )
    assert "calls of llm │ 1,200 (200 from the cache), tokens 5,000,000 in, 30,000 out, retries 2, cost 1.5000" in text
    assert "calls of prm" not in text
    assert "answers that could not be parsed │ 3 of 96" in text
    assert "segmenter" not in usual and "segmenter" not in shown(segment={"samples": 9.0, "steps": 30.0})
    asked = {"llm.calls": 12.0, "llm.calls.repair": 3.0, "llm.calls.repaired": 1.0, "llm.fallback.unreadable": 2.0}
    assert (
        "segmenter │ 12 questions (0 from the cache); 3 asked again, 1 readable then; cut by structure instead: 2 unreadable "
        "of 9 responses"
    ) in shown(segment={"samples": 9.0, **asked})


def test_an_account_of_stored_answers_alone():
    account = dict.fromkeys(
        ("uncounted", "repair", "repaired", "retries", "prompt_tokens", "cached_tokens", "answer_tokens"), 0.0
    )
    assert account_text(account | {"calls": 7.0, "stored": 7.0}) == "7 (7 from the cache)"
    asked = account | {"calls": 7.0, "stored": 0.0, "uncounted": 7.0, "repair": 2.0, "repaired": 1.0}
    assert account_text(asked) == "7, tokens 0 in, 0 out, tokens of 7 unknown, asked again 2, which helped 1"


def test_numbers_that_do_not_exist_are_dashes():
    assert (percent(None), percent(0.5), percent(0.5, 0.012)) == ("-", "50.0 %", "50.0 % ± 1.2")
    assert (points(None), points(Estimate(mean=-0.1))) == ("-", "-10.0")
    assert "sampled - -> -" in closing_lines({0: RoundReport(round=0), 1: RoundReport(round=1)})


def test_the_closing_lines_say_how_much_was_mined_where_it_is_known():
    base = RoundReport(round=0)

    def last_line(**shares: float) -> str:
        return closing_lines({0: base, 2: RoundReport(round=2, **shares)}).splitlines()[-1]  # type: ignore[arg-type]

    tokens = "mined in round 2: 34.1 % of the tokens of wrong responses"
    assert last_line(mined_share=0.341, mined_gradient_share=0.08) == f"{tokens}, 8.0 % of their gradient mass"
    assert last_line(mined_share=0.341) == tokens  # a round weighed before gradient mass was counted
    assert last_line().startswith("after round 2: ")


def test_a_round_from_before_gradient_mass_was_counted_is_shown_without_it(finished_run: Any):
    def shown(report: dict[str, Any]) -> str:
        console = Console(file=io.StringIO(), width=200)
        print_report(console, RoundReport.read(report))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    report = json.loads(json.dumps(finished_run.reports[1]))
    assert "of their gradient mass" in shown(report)
    assert "right steps of wrong responses, by truth" in shown(report)
    for name in ("mined_gradient_share", "uncertain_right_share", "right_steps"):
        del report[name]
    old = shown(report)
    assert "mined share of tokens of wrong responses" in old
    assert "gradient mass" not in old and "right steps of" not in old


def test_which_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    note = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(ray_runtime, "_CURRENT_CLUSTER", note)
    assert choose_cluster("1.2.3.4:5", {"RAY_ADDRESS": "other"}).address == "1.2.3.4:5"
    assert choose_cluster(None, {"RAY_ADDRESS": "other"}).address == "other"
    assert choose_cluster(None, {}).address == "local"
    note.write_text("127.0.0.1:1")  # a cluster that is gone
    assert choose_cluster(None, {}).address == "local"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        assert choose_cluster(None, {}).address == note.read_text().strip()
        assert choose_cluster("local", {}).address == "local"


def test_without_a_config_the_machine_decides(monkeypatch: pytest.MonkeyPatch):
    console = Console(file=io.StringIO(), width=200)
    assert choose_config("some.yaml", "local", console.print) == "some.yaml"
    assert choose_config(None, "local", console.print, inline=True) == "laptop"
    monkeypatch.setattr(default_config, "local_gpus", lambda: 0)
    assert choose_config(None, "local", console.print) == "laptop"
    assert "has no GPU" in console.file.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setattr(default_config, "local_gpus", lambda: 1)
    assert choose_config(None, "local", console.print) == "one-gpu"
    assert "largest that fits this machine" in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match="no run in runs/"):
        find_run(None)
    assert list(tmp_path.iterdir()) == []


def test_the_config_in_a_run_is_the_whole_config(run_dir: Path, finished_run: Any):
    assert yaml.safe_load((run_dir / "config.yaml").read_text()) == finished_run.config.model_dump(mode="json")


def test_paths_with_brackets_are_printed_as_they_are(bcpg: Bcpg, finished_run: Any, tmp_path: Path, config_file: Path):
    """rich would read them as markup and leave them out."""
    directory = tmp_path / "run[1]"
    shutil.copytree(finished_run.directory, directory)
    out = tmp_path / "out[bold]"
    ended = bcpg("export", "verl", "--run-dir", directory, "--out", out)
    assert (ended.code, str(out) in ended.out) == (0, True), ended.err
    ended = bcpg("status", "--run-dir", directory)
    assert str(directory) in ended.out
    question = read_all_prompts(finished_run.config).train[0]
    row = {"prompt": question.question, "response": f"answer {question.answer}", "answer": question.answer}
    (tmp_path / "given.jsonl").write_text(json.dumps(row) + "\n")
    imported = tmp_path / "imported[red]"
    ended = bcpg("import", tmp_path / "given.jsonl", "--config", config_file, "--run-dir", imported)
    assert ended.code == 0, ended.err
    assert ended.out.count(str(imported)) == 3
    assert "config:" not in ended.out
    ended = bcpg("iterate", "--inline", "--config", directory / "config.yaml", "--run-dir", directory, "--rounds", 3)
    assert ended.code == 0, ended.err
    assert f"{directory}: all 3 rounds are done already" in ended.out


def test_validate_says_what_the_tasks_say_and_where_answers_would_be_cut_off(
    bcpg: Bcpg, config_file: Path, tmp_path: Path
):
    rows = [{"question": f"{k}+1?", "answer": f"so\n#### {k + 1}"} for k in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        f"prompts.train=task:gsm8k={tmp_path / 'rows.jsonl'}",
        "judges.api={kind: openai, model: m, endpoint: {base_url: 'http://127.0.0.1:1/v1'}}",
        *(f"pools.{name}={{memory_gib: 0.001}}" for name in ("rollout", "cpu", "trainer")),
        "pools.judge.api.memory_gib=0.001",
    ]
    ended = bcpg("validate", "--config", config_file, *(word for setting in settings for word in ("--set", setting)))
    assert ended.code == 0, ended.err
    assert "prompts.train, task gsm8k: as the task says: verify.kind math; asked as" in ended.out
    assert "judges.api has no window_steps" in ended.out


def test_an_unknown_tracker_starts_nothing(bcpg: Callable[..., Any], config_file: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    ended = bcpg("iterate", "--config", config_file, "--run-dir", run_dir, "--inline", "--track", "tensorbord")
    assert ended.code == 2 and "tensorbord" in ended.err and "tensorboard, trackio, wandb, mlflow" in ended.err
    assert not run_dir.exists()


def test_a_tracker_that_is_not_installed_starts_nothing(
    bcpg: Callable[..., Any], config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bcpg_cluster.watch.tracking import observer

    monkeypatch.setitem(observer._NEEDS, "wandb", ("no_such_package",))
    run_dir = tmp_path / "run"
    for command in (["iterate", "--inline", "--track", "wandb"], ["validate", "--set", "tracking.wandb={}"]):
        ended = bcpg(*command, "--config", config_file, "--run-dir", run_dir)
        assert ended.code == 2 and "no_such_package is not installed" in ended.err
        assert "pip install 'bcpg-cluster[wandb]'" in ended.err
    assert not run_dir.exists()


def test_track_starts_a_tracker_and_a_run_may_take_another_one_later(
    bcpg: Callable[..., Any], config_file: Path, tmp_path: Path
):
    pytest.importorskip("tensorboard")
    run_dir = tmp_path / "run"
    command = ["iterate", "--inline", "--config", config_file, "--run-dir", run_dir]
    assert bcpg(*command, "--rounds", 1).code == 0
    ended = bcpg(*command, "--rounds", 2, "--track", "tensorboard", "--json")
    assert ended.code == 0 and f"tensorboard --logdir {tmp_path}/tracking/tensorboard" in ended.err
    assert [report["round"] for report in json.loads(ended.out)] == [0, 1, 2]  # nothing else on the standard output
    assert list((tmp_path / "tracking" / "tensorboard" / "run").glob("events.out.tfevents.*"))
