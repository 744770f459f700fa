"""Exports of data: what is in the files is what the run's tables say, and `datasets` loads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, RunDirectoryError, UserError
from bcpg_cluster.exchange.dataset_directory import Card, Column, DataFile, write_dataset
from bcpg_cluster.exchange.export_preferences import PairSettings, export_preferences
from bcpg_cluster.exchange.export_steps import JudgeSet, export_steps
from bcpg_cluster.exchange.export_verl import export_verl
from bcpg_cluster.exchange.policy.export_policy import read_front_matter
from bcpg_cluster.records import (
    Outcome,
    OutcomeStatus,
    Prompt,
    Rollout,
    SampleId,
    Step,
    StopReason,
    Verdict,
    VerdictStatus,
)
from bcpg_cluster.stages.weigh.consensus import consensus
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.store.rows import (
    Row,
    outcome_row,
    outcomes_from,
    prompt_row,
    rollout_row,
    rollouts_from,
    step_rows,
    steps_from,
    verdict_row,
    weighted_from,
)
from bcpg_cluster.store.shards import read_table, write_shard
from bcpg_cluster_cli.exchange.export import run_export

JUDGED, TIMEOUT = VerdictStatus.JUDGED, VerdictStatus.TIMEOUT


def load(directory: Path, cache: Path, split: str = "train") -> list[dict[str, Any]]:
    """What `datasets` makes of an exported directory."""
    import datasets

    return list(datasets.load_dataset(str(directory), split=split, cache_dir=str(cache)))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def text_rollout(prompt_id: str, sample: int, text: str) -> Rollout:
    """A token a character, and the end token."""
    ids = (*map(ord, text), 0)
    return Rollout(
        SampleId(1, prompt_id, sample), (1, 2), ids, (), (*text, ""), StopReason.STOP, policy_version=0, seed=None
    )


def seal(manifest: Manifest, table: str, shards: Sequence[Sequence[Row]]) -> None:
    for number, rows in enumerate(shards):
        receipt = write_shard(
            manifest.run_dir, table=table, round_=1, shard=number, attempt="a", rows=rows, seconds=0, metrics={}
        )
        manifest.accept(receipt)
    manifest.seal(1, table, len(shards))


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Two shards: p has two right and one wrong response of three steps, q only wrong ones."""
    directory = tmp_path / "run"
    p = [text_rollout("p", 0, "a\nb\nc"), text_rollout("p", 1, "yes"), text_rollout("p", 2, "sì")]
    q = [text_rollout("q", 0, "no"), text_rollout("q", 1, "nope")]
    steps = [Step(0, 2, "a\n"), Step(2, 4, "b\n"), Step(4, 6, "c")]

    def verdicts(judge: str, said: Sequence[tuple[VerdictStatus, int | None, float | None]]) -> list[Row]:
        return [
            verdict_row(Verdict(p[0].id, k, judge, f"{judge}@1", status, label, score))
            for k, (status, label, score) in enumerate(said)
        ]

    right, wrong = (OutcomeStatus.VERIFIED, 1.0, "7"), (OutcomeStatus.VERIFIED, 0.0, None)
    with Manifest(directory) as manifest:
        manifest.create(identity="x", name="small", program_version="0")
        seal(manifest, "prompts", [[prompt_row(Prompt("p", "P?", "7"))], [prompt_row(Prompt("q", "Q?", "8"))]])
        seal(manifest, "rollouts", [[rollout_row(r) for r in p], [rollout_row(r) for r in q]])
        outcomes = [Outcome(r.id, *o) for r, o in zip(p, (wrong, right, right), strict=True)]
        others = [Outcome(r.id, *wrong) for r in q]
        seal(manifest, "outcomes", [[outcome_row(o) for o in of] for of in (outcomes, others)])
        seal(manifest, "steps", [step_rows(p[0].id, steps), []])
        seal(manifest, "verdicts.llm", [verdicts("llm", [(JUDGED, 1, None), (JUDGED, 1, None), (JUDGED, 0, None)]), []])
        scores = [(JUDGED, None, 0.9), (TIMEOUT, None, None), (JUDGED, None, 0.5)]
        seal(manifest, "verdicts.prm", [verdicts("prm", scores), []])
    return directory


def judges(**options: Any) -> JudgeSet:
    thresholds = {"prm": 0.5}
    return JudgeSet(
        ("llm", "prm"), ("llm", "prm"), thresholds, lambda votes: consensus(votes, thresholds, "all"), **options
    )


# --- steps


def test_a_response_with_its_steps_by_hand(small_run: Path, tmp_path: Path) -> None:
    written = export_steps(small_run, tmp_path / "out", run_name="small", judges=judges())
    assert written.rows == {"train": 1}
    (row,) = load(tmp_path / "out", tmp_path / "cache")
    steps = row.pop("steps")
    assert row == {
        "id": "1/p/0",
        "round": 1,
        "prompt_id": "p",
        "sample": 0,
        "question": "P?",
        "gold_answer": "7",
        "response": "a\nb\nc",
        "extracted": None,
        "outcome_status": "verified",
        "stop_reason": "stop",
        "policy_version": 0,
        "num_tokens": 6,
    }
    assert [(s["text"], s["start"], s["end"], s["consensus"], s["mined_tokens"]) for s in steps] == [
        ("a\n", 0, 2, 1, None),
        ("b\n", 2, 4, 0, None),  # the PRM timed out: fail closed
        ("c", 4, 6, 0, None),
    ]
    said = [{v["judge"]: (v["status"], v["label"], v["score"], v["says_right"]) for v in s["verdicts"]} for s in steps]
    assert said[0] == {"llm": ("judged", 1, None, 1), "prm": ("judged", None, pytest.approx(0.9), 1)}
    assert said[1] == {"llm": ("judged", 1, None, 1), "prm": ("timeout", None, None, None)}
    assert said[2] == {"llm": ("judged", 0, None, 0), "prm": ("judged", None, 0.5, 0)}  # Eq. 4 is strict


def test_steps_of_a_whole_run(finished_run: Any, tmp_path: Path) -> None:
    """Against the tables, read on their own: every judged response is there, and its mined tokens are the trainer's."""
    run_export("steps", tmp_path / "out", finished_run.directory)
    rows = load(tmp_path / "out", tmp_path / "cache")
    state = read_manifest(finished_run.directory)
    mined, steps = {}, {}
    for round_ in (1, 2, 3):
        tables = {
            name: read_table(finished_run.directory, state.receipts(round_, name)) for name in ("weighted", "steps")
        }
        mined |= {row.id: row.mined for row in weighted_from(tables["weighted"])}
        steps |= steps_from(tables["steps"])
    assert Counter(row["round"] for row in rows) == Counter(id_.round for id_ in steps)
    seen = {SampleId(row["round"], row["prompt_id"], row["sample"]): row for row in rows}
    assert set(seen) == set(steps)
    num_mined = 0
    for id_, row in seen.items():
        assert "".join(step["text"] for step in row["steps"]) == row["response"]
        assert [(s["text"], s["start"], s["end"]) for s in row["steps"]] == [
            (s.text, s.start, s.end) for s in steps[id_]
        ]
        for step in row["steps"]:
            assert {v["judge"] for v in step["verdicts"]} == {"llm", "prm", "truth"}
            voted = [v["says_right"] for v in step["verdicts"] if v["judge"] != "truth"]
            assert step["consensus"] == int(voted == [1, 1])
            assert step["mined_tokens"] == sum(mined[id_][step["start"] : step["end"]])
            num_mined += step["mined_tokens"]
        assert all(step["consensus"] == 1 for step in row["steps"] if step["mined_tokens"])
    assert num_mined == sum(map(sum, mined.values())) > 0


def test_chosen_rounds_and_rounds_that_are_not_there(finished_run: Any, tmp_path: Path, small_run: Path) -> None:
    run_export("steps", tmp_path / "two", finished_run.directory, [2])
    assert {row["round"] for row in load(tmp_path / "two", tmp_path / "cache")} == {2}
    with pytest.raises(RunDirectoryError, match="round 7 has not all"):
        run_export("steps", tmp_path / "seven", finished_run.directory, [2, 7])
    with pytest.raises(RunDirectoryError, match="no round has all"):
        other = JudgeSet(("nobody",), ("nobody",), {}, lambda votes: consensus(votes, {}))
        export_steps(small_run, tmp_path / "seven", run_name="small", judges=other)
    assert not (tmp_path / "seven").exists()


def test_the_card(small_run: Path, tmp_path: Path) -> None:
    facts = {"rule of the consensus": "all"}
    export_steps(small_run, tmp_path / "out", run_name="small", judges=judges(facts=facts))
    text = (tmp_path / "out" / "README.md").read_text()
    head = read_front_matter(text)
    paths = head["configs"][0]["data_files"][0]["path"]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet")] == paths
    for column in pq.read_schema(tmp_path / "out" / paths[0]).names:
        assert f"\n| `{column}` | " in text
    assert "- rule of the consensus: all\n" in text
    assert "- `train`: 1\n" in text


def test_the_card_of_a_run_says_what_its_labels_mean(finished_run: Any, tmp_path: Path) -> None:
    run_export("steps", tmp_path / "out", finished_run.directory)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- when a step is right (rule of each judge): llm propagated, prm propagated, truth propagated\n" in text


# --- preferences


def test_pairs_by_hand_as_text_and_as_messages(small_run: Path, tmp_path: Path) -> None:
    settings = {"pairing": "all_sampled", "max_pairs": 8}
    for style in ("standard", "conversational"):
        pairs = PairSettings(style=style, **settings)  # type: ignore[arg-type]
        export_preferences(small_run, tmp_path / style, run_name="small", settings=pairs)
    rows = load(tmp_path / "standard", tmp_path / "cache")
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in rows] == [
        ("P?", "yes", "a\nb\nc"),
        ("P?", "sì", "a\nb\nc"),
    ]
    assert [(r["chosen_sample"], r["rejected_sample"]) for r in rows] == [(1, 0), (2, 0)]
    first = load(tmp_path / "conversational", tmp_path / "cache")[0]
    assert first["prompt"] == [{"role": "user", "content": "P?"}]
    assert first["chosen"] == [{"role": "assistant", "content": "yes"}]
    assert first["rejected"] == [{"role": "assistant", "content": "a\nb\nc"}]


def test_pairs_are_those_dpo_trains_on(
    run_rounds: Callable[..., Any], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    content = make_config(seed=3).model_dump(mode="json")
    content["objective"] = {"name": "dpo", "max_pairs": 2, "pairing": "all_sampled"}
    run = run_rounds(tmp_path / "dpo", parse_config(content, "test"), 1)
    run_export("preferences", tmp_path / "out", run.directory, style="standard")
    rows = load(tmp_path / "out", tmp_path / "cache")
    weighted = weighted_from(read_table(run.directory, read_manifest(run.directory).receipts(1, "weighted")))
    trained = [(row.id.prompt_id, row.id.sample, row.rival.id.sample) for row in weighted if row.rival]
    assert [(r["prompt_id"], r["chosen_sample"], r["rejected_sample"]) for r in rows] == trained
    assert len(trained) > 4


def test_pairs_have_a_right_and_a_wrong_side(finished_run: Any, tmp_path: Path) -> None:
    run_export("preferences", tmp_path / "out", finished_run.directory)
    state = read_manifest(finished_run.directory)
    outcomes, texts = {}, {}
    for round_ in (1, 2, 3):
        outcomes |= outcomes_from(read_table(finished_run.directory, state.receipts(round_, "outcomes")))
        rollouts = rollouts_from(read_table(finished_run.directory, state.receipts(round_, "rollouts")))
        texts |= {rollout.id: rollout.text for rollout in rollouts}
    rows = load(tmp_path / "out", tmp_path / "cache")
    assert rows
    for row in rows:
        chosen = SampleId(row["round"], row["prompt_id"], row["chosen_sample"])
        rejected = SampleId(row["round"], row["prompt_id"], row["rejected_sample"])
        assert (outcomes[chosen].reward, outcomes[rejected].reward) == (1.0, 0.0)
        assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (texts[chosen], texts[rejected])


# --- verl


def test_verl_rows(tmp_path: Path) -> None:
    splits = {"train": [Prompt("a", "1+1?", "2"), Prompt("b", "ž?", "x")], "test": [Prompt("t", "2+2?", "4")]}
    written = export_verl(tmp_path / "out", run_name="r", splits=splits, data_source="openai/gsm8k")
    assert written.rows == {"train": 2, "test": 1}
    assert pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[1] == {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "ž?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "x"},
        "extra_info": {"split": "train", "index": 1, "prompt_id": "b", "question": "ž?", "answer": "x"},
    }
    (test,) = load(tmp_path / "out", tmp_path / "cache", "test")
    assert test["reward_model"] == {"style": "rule", "ground_truth": "4"}


def test_verl_of_a_run_has_its_prompt_files(finished_run: Any, tmp_path: Path) -> None:
    run_export("verl", tmp_path / "out", finished_run.directory, data_source="chain")
    for split in ("train", "test"):
        lines = Path(getattr(finished_run.config.prompts, split)).read_text().splitlines()
        rows = pq.read_table(tmp_path / "out" / f"{split}.parquet").to_pylist()
        assert [row["extra_info"]["prompt_id"] for row in rows] == [json.loads(line)["prompt_id"] for line in lines]
        assert {row["data_source"] for row in rows} == {"chain"}


# --- what all share


COLUMNS = (Column("n", pa.int32(), "a number"),)


def test_nothing_is_left_of_an_export_that_failed(tmp_path: Path) -> None:
    def breaks() -> Iterator[list[Row]]:
        yield [{"n": 1}]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_dataset(tmp_path / "out", [DataFile("train", "t.parquet", breaks())], COLUMNS, Card("t", "t"))
    with pytest.raises(DataError, match="nothing to export"):
        write_dataset(tmp_path / "out", [DataFile("train", "t.parquet", [[], []])], COLUMNS, Card("t", "t"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_dataset(out, [DataFile("train", "t.parquet", [[{"n": 1}]])], COLUMNS, Card("t: a", "t"))  # empty: taken
    before = sorted(path.read_bytes() for path in out.iterdir())
    with pytest.raises(DataError, match="already exists"):
        write_dataset(out, [DataFile("train", "t.parquet", [[{"n": 2}]])], COLUMNS, Card("t", "t"))
    assert sorted(path.read_bytes() for path in out.iterdir()) == before
    assert yaml.safe_load((out / "README.md").read_text().split("---")[1])["pretty_name"] == "t: a"


@pytest.mark.parametrize(("what", "options"), [("everything", {}), ("preferences", {"style": "poem"})])
def test_unknown_words(finished_run: Any, tmp_path: Path, what: str, options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="unknown"):
        run_export(what, tmp_path / "out", finished_run.directory, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
