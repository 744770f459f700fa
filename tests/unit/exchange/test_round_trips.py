"""What goes out comes back in: exports of every style against the imports of that style, and against the trainers' own types.

The columns and types are those of the projects' sources: TRL's data set types (docs/source/dataset_formats.md), verl's
RLHFDataset and rollout dump (verl/utils/dataset/rl_dataset.py, verl/trainer/ppo/ray_trainer.py), and verifiers' RolloutOutput,
which prime-rl's rollout files hold (verifiers/utils/save_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcpg_cluster.prompts.columns import Columns
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.labelled_steps import read_labelled_file
from bcpg_cluster.prompts.sources import read_mapped_prompts
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import outcomes_from, prompts_from, rollouts_from, steps_from, weighted_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster_cli.exchange.export import run_export
from bcpg_cluster_cli.exchange.import_rollouts import run_import

ROUND_1 = "data/round-0001.parquet"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def table(directory: Path, name: str) -> Any:
    return read_table(directory, read_manifest(directory).receipts(1, name))


def loaded(files: Path | str, cache: Path) -> Any:
    """What verl does with `data.train_files`, and TRL's scripts with a directory of Parquet files."""
    import datasets

    return datasets.load_dataset("parquet", data_files=str(files), cache_dir=str(cache))["train"]


def features(data: Any) -> dict[str, str]:
    schema = data.features.arrow_schema
    return {name: str(arrow_type) for name, arrow_type in zip(schema.names, schema.types, strict=True)}


def training_rows(directory: Path) -> list[tuple[Any, ...]]:
    """Each training row: question, its tokens, those of the response, reward, advantage, and the weight of every token."""
    questions = {prompt.prompt_id: prompt.question for prompt in prompts_from(table(directory, "prompts"))}
    return sorted(
        (questions[row.id.prompt_id], row.prompt_token_ids, row.token_ids, row.reward, row.advantage, row.token_weights)
        for row in weighted_from(table(directory, "weighted"))
    )


def steps_by_text(directory: Path) -> list[tuple[str, tuple[str, ...]]]:
    questions = {prompt.prompt_id: prompt.question for prompt in prompts_from(table(directory, "prompts"))}
    return sorted(
        (questions[id_.prompt_id], tuple(step.text for step in cut))
        for id_, cut in steps_from(table(directory, "steps")).items()
    )


@pytest.fixture
def imported(config_file: Path, tmp_path: Path, run_rounds: Callable[..., Any]) -> Callable[..., Path]:
    """Import a file of a style into a new run, and drive its round to the end."""

    def run(source: Path, name: str, style: str = "auto") -> Path:
        directory = tmp_path / name
        run_import(source, str(config_file), [], directory, None, style=style)
        run_rounds(directory, load_run_config(directory), 1)
        return directory

    return run


@pytest.mark.parametrize("style", ["prime-rl", "verl"])
def test_weights_come_back_as_rollouts_and_weigh_the_same(
    finished_run: Any, tmp_path: Path, imported: Callable[..., Path], style: str, capsys: Any
) -> None:
    run_export("weights", tmp_path / "out", finished_run.directory, [1], style=style)
    again = imported(tmp_path / "out" / ROUND_1, "again")
    assert f"read as {style} writes rollouts" in capsys.readouterr().out
    assert training_rows(again) == training_rows(finished_run.directory)
    assert len(training_rows(again)) > 8
    assert steps_by_text(again) == steps_by_text(finished_run.directory)
    if style == "verl":  # prime-rl wants the sampler's log-probs, which no file of rollouts has
        run_export("weights", tmp_path / "once-more", again, [1], style=style)
        columns = [
            "prompts",
            "responses",
            "response_mask",
            "advantages",
            "input",
            "output",
            "gts",
            "score",
            "reward",
            "step",
        ]
        first, second = (
            sorted(pq.read_table(tmp_path / out / ROUND_1, columns=columns).to_pylist(), key=str)
            for out in ("out", "once-more")
        )
        assert first == second


def trl_log(directory: Path, *, chat: bool) -> list[dict[str, Any]]:
    """What TRL's GRPO trainer would have logged of these rollouts (`log_completions`)."""
    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(table(directory, "prompts"))}
    outcomes = outcomes_from(table(directory, "outcomes"))

    def say(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    return [
        {
            "step": 5,
            "prompt": say("user", prompts[rollout.id.prompt_id].question),
            "completion": say("assistant", rollout.text),
            "accuracy_reward": outcomes[rollout.id].reward,
            "advantage": 0.5,
        }
        for rollout in rollouts_from(table(directory, "rollouts"))
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_trl_log_in_and_stepwise_supervision_out(
    finished_run: Any, tmp_path: Path, imported: Callable[..., Path], chat: bool
) -> None:
    log = tmp_path / "completions_00005.parquet"
    pq.write_table(pa.Table.from_pylist(trl_log(finished_run.directory, chat=chat)), log)
    again = imported(log, "again")
    assert training_rows(again) == training_rows(finished_run.directory)
    labelled = []
    for name, directory in (("ours", finished_run.directory), ("theirs", again)):
        run_export("weights", tmp_path / name, directory, [1], style="trl")
        solutions = read_labelled_file(str(tmp_path / name / ROUND_1)).solutions
        labelled.append(sorted((solution.problem, solution.steps, solution.truth) for solution in solutions))
    assert labelled[0] == labelled[1] and len(labelled[0]) > 4


def test_a_prompt_completion_set_of_trl_comes_in(
    finished_run: Any, tmp_path: Path, imported: Callable[..., Path]
) -> None:
    """It has no `step`, so its style is said; answers come from `prompts.train`."""
    rows = [{key: row[key] for key in ("prompt", "completion")} for row in trl_log(finished_run.directory, chat=True)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_rows(imported(path, "again", "trl")) == training_rows(finished_run.directory)


def test_verl_dump_in_and_batch_out(finished_run: Any, tmp_path: Path, imported: Callable[..., Path]) -> None:
    run_export("weights", tmp_path / "ours", finished_run.directory, [1], style="verl")
    batch = pq.read_table(tmp_path / "ours" / ROUND_1).to_pylist()
    names = ("input", "output", "gts", "score", "step")  # of verl's own dump, one JSON object a line
    dump = tmp_path / "1.jsonl"
    dump.write_text(
        "".join(json.dumps({name: row[name] for name in names}, ensure_ascii=False) + "\n" for row in batch)
    )
    assert training_rows(imported(dump, "again")) == training_rows(finished_run.directory)


def test_prime_rl_rollouts_in(finished_run: Any, tmp_path: Path, imported: Callable[..., Path]) -> None:
    """Without the training fields, and with what else a RolloutOutput has."""
    run_export("weights", tmp_path / "ours", finished_run.directory, [1], style="prime-rl")
    names = ("example_id", "prompt", "completion", "answer", "is_truncated", "reward")
    more = {"timing": {"total_ms": 1.0}, "metrics": {}, "is_completed": True, "stop_condition": None, "error": None}
    file = tmp_path / "train_rollouts.jsonl"
    rows = pq.read_table(tmp_path / "ours" / ROUND_1, columns=list(names)).to_pylist()
    file.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    again = imported(file, "again")
    assert training_rows(again) == training_rows(finished_run.directory)
    ids = {row.id.prompt_id for row in weighted_from(table(finished_run.directory, "weighted"))}
    assert {prompt.prompt_id for prompt in prompts_from(table(again, "prompts"))} == ids  # the style carries them


# --- what their loaders demand


def test_trl_types(finished_run: Any, tmp_path: Path) -> None:
    run_export("weights", tmp_path / "steps", finished_run.directory, [1], style="trl")
    data = loaded(tmp_path / "steps" / ROUND_1, tmp_path / "cache")
    assert features(data) == {
        "prompt": "string",
        "completions": "list<item: string>",
        "labels": "list<item: bool>",
        "id": "string",
    }
    assert all(len(row["completions"]) == len(row["labels"]) > 0 for row in data)

    run_export("preferences", tmp_path / "chat", finished_run.directory, [1])
    run_export("preferences", tmp_path / "text", finished_run.directory, [1], style="standard")
    chat, text = (loaded(tmp_path / name / ROUND_1, tmp_path / "cache") for name in ("chat", "text"))
    for name in ("prompt", "chosen", "rejected"):
        message = chat.features[name].feature
        assert {key: value.dtype for key, value in message.items()} == {"role": "string", "content": "string"}
        assert text.features[name].dtype == "string"
    for spoken, written in zip(chat, text, strict=True):
        roles = [spoken[name][0]["role"] for name in ("prompt", "chosen", "rejected")]
        assert roles == ["user", "assistant", "assistant"]
        assert [spoken[name][0]["content"] for name in ("prompt", "chosen")] == [written["prompt"], written["chosen"]]


def test_verl_problems_load_and_come_back(finished_run: Any, tmp_path: Path) -> None:
    run_export("verl", tmp_path / "out", finished_run.directory, data_source="chain")
    data = loaded(tmp_path / "out" / "train.parquet", tmp_path / "cache")
    row = data[0]
    assert [message["role"] for message in row["prompt"]] == ["user"]  # a chat, for the template
    assert isinstance(row["extra_info"]["index"], int) and row["data_source"] == "chain"
    columns = Columns("prompt", "reward_model.ground_truth", "extra_info.prompt_id")
    back = read_mapped_prompts(str(tmp_path / "out" / "train.parquet"), columns)
    assert back.prompts == read_prompts(finished_run.config.prompts.train)


def test_prime_rl_training_fields(finished_run: Any, tmp_path: Path) -> None:
    run_export("weights", tmp_path / "out", finished_run.directory, [1], style="prime-rl")
    data = loaded(tmp_path / "out" / ROUND_1, tmp_path / "cache")
    found = features(data)
    assert {name: found[name].removeprefix("list<item: ").removesuffix(">") for name in (
        "token_ids", "mask", "logprobs", "temperatures", "rl_weights", "advantages",
    )} == {
        "token_ids": "int64", "mask": "bool", "logprobs": "float", "temperatures": "float", "rl_weights": "float",
        "advantages": "float",
    }  # fmt: skip
    assert found["env_name"] == "string"
    rows = {
        f"1/{row.id.prompt_id}/{row.id.sample}": row for row in weighted_from(table(finished_run.directory, "weighted"))
    }
    for row in data:
        ours = rows[row["id"]]
        before = len(ours.prompt_token_ids)
        assert [value != 0 for value in row["advantages"][before:]] == [
            value == 1 for value in row["rl_weights"][before:]
        ]
        assert row["completion"][0]["role"] == "assistant" and row["reward"] == ours.reward
