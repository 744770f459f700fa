"""Rollout files as TRL, verl and prime-rl write them: invented contents in the published columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.foreign_rollouts import style_of
from bcpg_cluster.exchange.import_rollouts import ImportSummary, import_rollouts
from bcpg_cluster.prompts.bad_rows import BadRowsError
from bcpg_cluster.records import Prompt, StopReason
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import prompts_from, rollouts_from
from bcpg_cluster.store.shards import read_table

PROBLEMS = [Prompt("a", "1+1?", "2"), Prompt("b", "2+2?", "4")]


class Tokenizer:
    """A token a character, and a chat template of two tags."""

    end_token_id: int | None = 0

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return (1, *map(ord, messages[0]["content"]), 2)

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        return tuple(map(ord, text)), tuple(text)

    def rendered_texts(self, question: str) -> tuple[str, ...]:
        return (f"<user>{question}<assistant>", f"user\n{question}\nassistant\n")


def verl(question: str, output: str, gts: Any = "2") -> dict[str, Any]:
    wrapped = f"user\n{question}\nassistant\n"
    return {"input": wrapped, "output": output, "gts": gts, "score": 1.0, "step": 3, "uid": "u_0_0"}


def prime(output: str, **more: Any) -> dict[str, Any]:
    return {
        "example_id": 7,
        "task": "sums",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "completion": [{"role": "assistant", "content": output}],
        "answer": "2",
        "reward": 1.0,
        "is_truncated": False,
        **more,
    }


def chat(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def take(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., ImportSummary]:
    def run(source: Path, **options: Any) -> ImportSummary:
        options = {"style": None, "problems": PROBLEMS, **options}
        return import_rollouts(source, tmp_path / "run", make_config(), Tokenizer(), **options)

    return run


def found(run_dir: Path) -> list[tuple[str, str, str, StopReason]]:
    """(question, answer, response, how it ended), in order."""
    state = read_manifest(run_dir)
    prompts = {p.prompt_id: p for p in prompts_from(read_table(run_dir, state.receipts(1, "prompts")))}
    rollouts = rollouts_from(read_table(run_dir, state.receipts(1, "rollouts")))
    assert all(rollout.sampler_logprobs == () for rollout in rollouts)  # unknown, so absent
    return [(prompts[r.id.prompt_id].question, prompts[r.id.prompt_id].answer, r.text, r.stop_reason) for r in rollouts]


@pytest.mark.parametrize(
    ("columns", "style"),
    [
        (["input", "output", "gts", "score", "step"], "verl"),
        (["input", "output", "score", "step"], "verl"),
        (["step", "prompt", "completion", "accuracy_reward", "advantage"], "trl"),
        (["example_id", "prompt", "completion", "reward"], "prime-rl"),
        (["prompt", "response", "answer"], "own"),
        (["prompt", "response", "completion", "step", "answer"], "own"),
        ([], "own"),
    ],
)
def test_the_columns_say_whose_file_it_is(columns: list[str], style: str) -> None:
    assert style_of(columns) == style


def test_verl_dumps_the_rendered_prompt(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    done = take(write(tmp_path / "3.jsonl", [verl("1+1?", "2"), verl("1+1?", "3"), verl("5+5?", "10", "10")]))
    assert (done.style, done.num_prompts, done.num_samples, done.num_bad) == ("verl", 2, 3, 0)
    stop = StopReason.STOP
    assert found(tmp_path / "run") == [("1+1?", "2", "2", stop), ("1+1?", "2", "3", stop), ("5+5?", "10", "10", stop)]


def test_verl_without_ground_truth_takes_the_problem_s(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    take(write(tmp_path / "3.jsonl", [verl("2+2?", "4", None)]))
    assert found(tmp_path / "run") == [("2+2?", "4", "4", StopReason.STOP)]


@pytest.mark.parametrize("as_chat", [True, False])
def test_trl_logs_no_answer(take: Callable[..., ImportSummary], tmp_path: Path, as_chat: bool) -> None:
    prompt: Any = chat("user", "2+2?") if as_chat else "<user>2+2?<assistant>"
    completion: Any = chat("assistant", "four") if as_chat else "four"
    table = {"step": [5], "prompt": [prompt], "completion": [completion], "exact": [0.0], "advantage": [-1.0]}
    pq.write_table(pa.table(table), tmp_path / "completions_00005.parquet")
    done = take(tmp_path / "completions_00005.parquet")
    assert done.style == "trl"
    assert found(tmp_path / "run") == [("2+2?", "4", "four", StopReason.STOP)]


def test_trl_of_an_unknown_problem(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    row = {"step": 1, "prompt": chat("user", "9+9?"), "completion": chat("assistant", "18"), "advantage": 0.0}
    with pytest.raises(DataError, match=r"line 1: no answer for the prompt '9\+9\?'"):
        take(write(tmp_path / "t.jsonl", [row]))
    assert not (tmp_path / "run").exists()
    take(write(tmp_path / "t.jsonl", [row | {"answer": "18"}]))
    assert found(tmp_path / "run") == [("9+9?", "18", "18", StopReason.STOP)]


def test_prime_rl_says_what_was_cut_off(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    take(write(tmp_path / "train_rollouts.jsonl", [prime("2"), prime("1+", is_truncated=True)]))
    assert found(tmp_path / "run") == [("1+1?", "2", "2", StopReason.STOP), ("1+1?", "2", "1+", StopReason.LENGTH)]
    (prompt,) = prompts_from(read_table(tmp_path / "run", read_manifest(tmp_path / "run").receipts(1, "prompts")))
    assert prompt.prompt_id == "sums-7"


def test_another_chat_template_is_refused(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    row = verl("1+1?", "2") | {"input": "system\nBe brief.\nuser\n1+1?\nassistant\n"}
    with pytest.raises(DataError, match="nor one in the policy's chat template"):
        take(write(tmp_path / "3.jsonl", [row]))


def test_all_bad_lines_are_named_and_can_be_left_out(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    rows = [verl("1+1?", "2"), verl("1+1?", ""), verl("1+1?", "two", "3"), {"step": 1}, verl("1+1?", "2!")]
    source = write(tmp_path / "3.jsonl", rows)
    with pytest.raises(BadRowsError) as caught:
        take(source)
    assert [(row.number, row.unit) for row in caught.value.rows] == [(2, "line"), (3, "line"), (4, "line")]
    assert "3 of 5 rows cannot be used" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    done = take(source, skip_bad=True)
    assert (done.num_samples, done.num_bad, sum(done.bad.values())) == (2, 3, 3)
    assert [row[2] for row in found(tmp_path / "run")] == ["2", "2!"]


def test_nothing_is_imported_where_every_line_is_bad(take: Callable[..., ImportSummary], tmp_path: Path) -> None:
    with pytest.raises(BadRowsError):
        take(write(tmp_path / "3.jsonl", [verl("1+1?", ""), verl("1+1?", "")]), skip_bad=True)
    assert not (tmp_path / "run").exists()
