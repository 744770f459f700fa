"""Rounds in this process on a fake policy and trainer, with real judges, verifiers, segmenters and data around them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bcpg_cluster.assets.chain.task import parse_question
from bcpg_cluster.errors import EngineError
from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import (
    outcomes_from,
    prompts_from,
    rollouts_from,
    steps_from,
    verdicts_from,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table
from tests.judge_server import Server, fails

MakeConfig = Callable[..., Any]
RunRounds = Callable[..., Any]
Bcpg = Callable[..., Any]
KEY = "sk-secret-0123456789"
SMALL: dict[str, Any] = {
    "prompts": {"per_round": 6},
    "generate": {"group_size": 4, "prompts_per_shard": 6},
    "evaluate": {"num_prompts": 4, "num_samples": 1},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("W2_KEY", KEY)
    one = Server()
    yield one
    one.close()


def asks(server: Server, **changed: Any) -> dict[str, Any]:
    """The judge ``llm``, behind the server."""
    endpoint = {
        "base_url": server.url, "api_key_env": "W2_KEY", "max_retries": 0, "price_prompt": 1.0, "price_answer": 2.0,
    }  # fmt: skip
    return {"llm": {"kind": "openai", "model": "m", "endpoint": endpoint, **changed}}


def table(run_dir: Path, name: str) -> list[dict[str, Any]]:
    return read_table(run_dir, read_manifest(run_dir).receipts(1, name))


def said(run_dir: Path) -> list[Verdict]:
    return [verdict for of_sample in verdicts_from(table(run_dir, "verdicts.llm")).values() for verdict in of_sample]


# --- judges behind an endpoint


def test_a_judge_is_asked_once_for_all_runs(
    server: Server, run_rounds: RunRounds, make_config: MakeConfig, bcpg: Bcpg, tmp_path: Path
):
    judges = asks(server, cache=str(tmp_path / "cache"))
    first = run_rounds(tmp_path / "a", make_config(**SMALL, judges=judges), 1)
    steps = steps_from(table(tmp_path / "a", "steps"))
    num_calls = len(server.requests)
    assert 1 < num_calls <= len(steps)  # responses with the same words are one question
    totals = first.reports[1]["verdicts"]["judge.llm"]
    assert (totals["judge.calls"], totals.get("judge.calls.stored", 0.0)) == (len(steps), len(steps) - num_calls)
    assert totals["judge.prompt_tokens"] == 1000 * num_calls
    assert totals["judge.cost"] == pytest.approx(num_calls * (600 + 400 + 2 * 50) / 1e6)
    # the server calls step 1 of every response wrong, and nothing else
    by_hand = [index != 1 for of_sample in steps.values() for index in range(len(of_sample))]
    assert [verdict.label for verdict in said(tmp_path / "a")] == by_hand
    assert {verdict.status for verdict in said(tmp_path / "a")} == {VerdictStatus.JUDGED}

    # another run with another rule and beta: other weights, the same verdicts, nobody asked
    weigh = {"rule": "any", "beta": 0.25}
    second = run_rounds(tmp_path / "b", make_config(**SMALL, judges=judges, weigh=weigh), 1)
    assert len(server.requests) == num_calls
    assert said(tmp_path / "b") == said(tmp_path / "a")
    totals = second.reports[1]["verdicts"]["judge.llm"]
    assert totals["judge.calls"] == totals["judge.calls.stored"] == len(steps)
    assert "judge.cost" not in totals
    weights = {w for row in weighted_from(table(tmp_path / "b", "weighted")) for w in row.token_weights}
    assert weights == {0.25, 1.0}

    # weighing a finished round again: not even the cache is asked
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
    change = ("--set", "weigh.rule=majority", "--set", "weigh.beta=-0.5", "--discard-later")
    again = bcpg("stage", "weigh", "--round", 1, "--run-dir", tmp_path / "a", "--inline", *change)
    assert again.code == 0, again.err
    weights = {w for row in weighted_from(table(tmp_path / "a", "weighted")) for w in row.token_weights}
    assert weights == {-0.5, 1.0}
    assert len(server.requests) == num_calls
    assert re.search(r"calls of llm\s+│ \d+", again.out)

    # the key is in nothing that was written
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_an_endpoint_that_fails_in_between_leaves_a_status(
    server: Server, run_rounds: RunRounds, make_config: MakeConfig, tmp_path: Path
):
    judges = asks(server)
    judges["llm"]["endpoint"]["concurrency"] = 1
    server.plays = [fails(500, f"the key {KEY} is fine, we are not")]
    run = run_rounds(tmp_path / "r", make_config(**SMALL, judges=judges), 1)
    first, *others = verdicts_from(table(tmp_path / "r", "verdicts.llm")).values()
    assert {(verdict.status, verdict.label, verdict.score) for verdict in first} == {
        (VerdictStatus.ENGINE_LOST, None, None)
    }
    assert all("***" in verdict.raw for verdict in first)
    assert {verdict.status for of_sample in others for verdict in of_sample} == {VerdictStatus.JUDGED}
    assert sum(run.reports[1]["judges"]["abstained"].values()) == len(first)
    mined = [any(row.mined) for row in weighted_from(table(tmp_path / "r", "weighted")) if row.id == first[0].id]
    assert mined == [False]  # a vote that nobody gave is no vote for a step


def test_an_endpoint_that_is_down_stops_the_run_without_a_label(
    server: Server, run_rounds: RunRounds, make_config: MakeConfig, tmp_path: Path
):
    config = make_config(**SMALL, judges=asks(server))
    server.close()
    with pytest.raises(EngineError, match="answered on 0 of"):
        run_rounds(tmp_path / "r", config, 1)
    assert table(tmp_path / "r", "verdicts.llm") == []
    assert table(tmp_path / "r", "weighted") == []
    assert 1 not in read_manifest(tmp_path / "r").reports


def test_a_key_that_is_refused_stops_the_run_and_is_not_shown(
    server: Server, bcpg: Bcpg, fakes_content: Callable[[], dict[str, Any]], tmp_path: Path
):
    content = fakes_content()
    for name, section in SMALL.items():
        content[name] |= section
    content["judges"] |= asks(server)
    (tmp_path / "c.yaml").write_text(json.dumps(content))
    server.plays = [fails(401, f"Incorrect API key provided: {KEY}")] * 1000
    ended = bcpg("iterate", "-c", tmp_path / "c.yaml", "--inline", "--run-dir", tmp_path / "r", "--rounds", 1)
    assert ended.code != 0
    assert "$W2_KEY" in ended.err
    assert KEY not in ended.out + ended.err
    assert all(KEY.encode() not in path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert table(tmp_path / "r", "verdicts.llm") == []


# --- segmenters, verifiers, data


def test_a_round_cut_at_delimiters(run_rounds: RunRounds, make_config: MakeConfig, tmp_path: Path):
    segment = {"kind": "delimiter", "cut_after": ["="], "merge": "off"}
    run_rounds(tmp_path / "r", make_config(**SMALL, segment=segment), 1)
    rollouts = {rollout.id: rollout.text for rollout in rollouts_from(table(tmp_path / "r", "rollouts"))}
    steps = steps_from(table(tmp_path / "r", "steps"))
    assert steps
    for id_, of_sample in steps.items():
        texts = [step.text for step in of_sample]
        assert "".join(texts) == rollouts[id_]
        assert len(texts) == rollouts[id_].count("=") + 1
        assert all(text.endswith("=") for text in texts[:-1])
    assert set(verdicts_from(table(tmp_path / "r", "verdicts.prm"))) == set(steps)


def test_a_round_checked_by_a_function(
    run_rounds: RunRounds, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "w2_even.py").write_text(
        "def even(answer, gold):\n"
        "    last = answer.split()[-1]\n"
        "    return None if last == gold else float(len(last) % 2 == 0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    verify = {"kind": "function", "function": "w2_even:even", "time_limit_s": 60.0, "max_error_share": 1.0}
    run = run_rounds(tmp_path / "r", make_config(**SMALL, verify=verify, weigh={"min_verified_share": 0.0}), 1)
    gold = {prompt.prompt_id: prompt.answer for prompt in prompts_from(table(tmp_path / "r", "prompts"))}
    outcomes = outcomes_from(table(tmp_path / "r", "outcomes"))
    wanted = {}
    for rollout in rollouts_from(table(tmp_path / "r", "rollouts")):
        last = rollout.text.split()[-1]
        wanted[rollout.id] = None if last == gold[rollout.id.prompt_id] else float(len(last) % 2 == 0)
    assert {id_: outcome.reward for id_, outcome in outcomes.items()} == wanted
    assert set(wanted.values()) >= {None, 0.0}  # what the function could not tell has no reward, not 0
    no_reward = list(wanted.values()).count(None)
    assert run.reports[1]["outcomes"]["status.verifier_error"] == no_reward


def test_prompts_from_parquet_by_their_columns(
    run_rounds: RunRounds, make_config: MakeConfig, prompt_files: tuple[Path, Path], tmp_path: Path
):
    for name, source in zip(("train", "test"), prompt_files, strict=True):
        rows = [json.loads(line) for line in source.read_text().splitlines()]
        columns = {
            "problem": [row["question"] for row in rows],
            "reward_model": [{"ground_truth": row["answer"]} for row in rows],
            "uid": [f"{name}/{row['prompt_id']}" for row in rows],
        }
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    prompts = SMALL["prompts"] | {
        "train": str(tmp_path / "train.parquet"),
        "test": str(tmp_path / "test.parquet"),
        "columns": {"question": "problem", "answer": "reward_model.ground_truth", "prompt_id": "uid"},
        "limit": 20,
    }
    run = run_rounds(tmp_path / "r", make_config(**(SMALL | {"prompts": prompts})), 1)
    drawn = prompts_from(table(tmp_path / "r", "prompts"))
    assert len(drawn) == 6
    known = {f"train/a{number}" for number in range(20)}
    assert {prompt.prompt_id for prompt in drawn} <= known
    assert all(prompt.answer == parse_question(prompt.question).answer for prompt in drawn)
    assert run.reports[1]["samples"]["asked"] == 24


# --- made elsewhere, and on to others


def imported_file(path: Path, prompts: Path) -> tuple[set[str], set[str]]:
    """Three responses to each of six problems, one of them right; the right and the wrong ones."""
    right, wrong, lines = set(), set(), []
    for text in prompts.read_text().splitlines()[:6]:
        prompt = json.loads(text)
        for end in (prompt["answer"], "7777", "8888"):
            response = f"I look at {prompt['prompt_id']}\nand so\nanswer {end}"
            (right if end == prompt["answer"] else wrong).add(response)
            lines.append({"question": prompt["question"], "response": response, "answer": prompt["answer"]})
    path.write_text("\n".join(map(json.dumps, lines)))
    return right, wrong


def test_import_iterate_export(bcpg: Bcpg, config_file: Path, prompt_files: tuple[Path, Path], tmp_path: Path):
    right, wrong = imported_file(tmp_path / "mine.jsonl", prompt_files[0])
    run = tmp_path / "run"
    made = bcpg("import", tmp_path / "mine.jsonl", "-c", config_file, "--run-dir", run, "--column", "prompt=question")
    assert made.code == 0, made.err
    waiting = bcpg("status", "--run-dir", run)
    assert "responses made elsewhere: 18 to 6 prompts, from mine.jsonl (external:" in waiting.out
    ended = bcpg("iterate", "-c", run / "config.yaml", "--run-dir", run, "--inline", "--rounds", 2)
    assert ended.code == 0, ended.err
    facts = json.loads(bcpg("status", "--run-dir", run, "--json").out)
    (source,) = facts["imports"]
    assert (source["source"], source["num_samples"], source["policy_version"]) == ("mine.jsonl", 18, -1)
    assert facts["rounds"][1]["samples"]["asked"] == 18
    assert "responses made elsewhere" in bcpg("inspect", "--run-dir", run, "--round", 1).out
    assert "responses made elsewhere" not in bcpg("inspect", "--run-dir", run, "--round", 2).out

    out = tmp_path / "preferences"
    arguments = ("--run-dir", run, "--round", 1, "--json")
    done = bcpg("export", "preferences", "--out", out, "--style", "standard", *arguments)
    assert done.code == 0, done.err
    pairs = parquet.read_table(out / "data").to_pylist()
    assert json.loads(done.out)["rows_train"] == len(pairs) > 0
    assert {pair["chosen"] for pair in pairs} <= right
    assert {pair["rejected"] for pair in pairs} <= wrong
    assert len({(pair["prompt_id"], pair["chosen_sample"], pair["rejected_sample"]) for pair in pairs}) == len(pairs)

    done = bcpg("export", "steps", "--out", tmp_path / "steps", *arguments)
    assert done.code == 0, done.err
    rows = parquet.read_table(tmp_path / "steps" / "data").to_pylist()
    assert {row["response"] for row in rows} == wrong  # every wrong response of a mixed group, and nothing else
    for row in rows:
        assert "".join(step["text"] for step in row["steps"]) == row["response"]
        assert row["policy_version"] == -1
        assert {verdict["judge"] for step in row["steps"] for verdict in step["verdicts"]} == {"llm", "prm", "truth"}
    taken = bcpg("export", "steps", "--out", tmp_path / "steps", *arguments)
    assert taken.code == 2
    assert "already exists" in taken.err
