"""watch.view.source: documents of a real run of fakes; half-written rounds and broken files become words."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import DataError, RunDirectoryError, StoreError
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.view.as_json import plain
from bcpg_cluster.watch.view.source import RunSource

Open = Callable[..., RunSource]


@pytest.fixture
def copy(finished_run: Any, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run.directory, tmp_path / "copied")


def cut_manifest(run: Path, *, after: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the manifest up to and including the first line that says so."""
    kept = []
    for line in (run / "manifest.jsonl").read_text().splitlines(keepends=True):
        kept.append(line)
        if after(json.loads(line)):
            break
    (run / "manifest.jsonl").write_text("".join(kept))


def receipt(run: Path, round_: int, table: str, shard: int) -> Path:
    return run / read_manifest(run).shards[round_, table][shard].path


def test_the_overview_is_what_the_reports_say(finished_run: Any, open_source: Open):
    found = open_source(finished_run.directory).overview()
    assert [of.state for of in found.rounds] == ["base", "done", "done", "done"]
    for of, report in zip(found.rounds, finished_run.reports.values(), strict=True):
        assert of.accuracy.sampled is not None
        assert of.accuracy.sampled.value == report["accuracy"]
        assert of.mined_gradient_share == report.get("mined_gradient_share")
    assert found.notices == ()
    assert found.run.state == "done"
    assert [(line.round, line.num_samples, line.waiting_for) for line in found.shards] == [
        (round_, 32, ()) for round_ in (1, 2, 3) for _ in range(3)
    ]
    assert [answer.title for answer in found.start_here][:2] == [
        "The round in which a judge got worse",
        "A wrong answer whose right steps were spared",
    ]
    drift = found.rounds[1].drift
    assert drift is not None
    assert drift.reference_vs_sampler_mean is not None


def test_every_answer_leads_to_a_sample_that_is_there(finished_run: Any, open_source: Open):
    source = open_source(finished_run.directory)
    links = [answer.link.split("/") for answer in source.overview().start_here if answer.link.startswith("#/sample/")]
    assert len(links) == 3
    for _, _, round_, prompt, sample, _, step in links:
        assert int(step) < len(source.sample(int(round_), prompt, int(sample)).steps)


def test_a_sample_is_the_same_by_itself_and_in_its_shard(finished_run: Any, open_source: Open):
    source = open_source(finished_run.directory)
    views = source.samples(2, 1)
    listed = source.shard(2, 1).samples
    assert [(view.prompt_id, view.sample) for view in views] == [(line.prompt_id, line.sample) for line in listed]
    kept = next(view for view in views if view.steps and view.drop is None)
    assert plain(open_source(finished_run.directory).sample(2, kept.prompt_id, kept.sample)) == plain(kept)
    assert "".join(step.text for step in kept.steps) == kept.text
    assert kept.tokens is not None
    assert sum(weight == 0.5 for weight in kept.tokens.weight) == next(
        line.num_mined for line in listed if (line.prompt_id, line.sample) == (kept.prompt_id, kept.sample)
    )
    assert None not in kept.tokens.drift


def test_what_is_not_there_is_said(finished_run: Any, open_source: Open):
    source = open_source(finished_run.directory)
    with pytest.raises(DataError, match="no shard 7"):
        source.shard(1, 7)
    with pytest.raises(DataError, match="no sample 0 of prompt 'nothing'"):
        source.sample(1, "nothing", 0)
    with pytest.raises(DataError, match="no sample 99"):
        source.sample(1, source.shard(1, 0).samples[0].prompt_id, 99)


def test_a_round_that_was_interrupted(copy: Path, open_source: Open):
    cut_manifest(
        copy, after=lambda event: event["event"] == "shard" and (event["round"], event["table"]) == (2, "outcomes")
    )
    source = open_source(copy)
    found = source.overview()
    assert [of.state for of in found.rounds] == ["base", "done", "stopped"]
    assert len(found.notices) == 1
    assert "Round 2 was not finished" in found.notices[0]
    assert found.run.state == "stopped"
    lacking = [line for line in found.shards if line.round == 2]
    assert lacking
    assert all({"steps", "weighted", "verdicts.llm"} <= set(line.waiting_for) for line in lacking)
    shard = source.shard(2, lacking[0].shard)
    assert {sample.drop for sample in shard.samples} <= {"waiting", "all_correct", "all_wrong"}
    view = source.sample(2, shard.samples[0].prompt_id, 0)
    assert (view.steps, view.group_mean) == ((), None)


def test_a_torn_last_line_is_no_error(copy: Path, open_source: Open):
    with (copy / "manifest.jsonl").open("a") as file:
        file.write('{"event": "shard", "ta')
    assert open_source(copy).overview().run.state == "done"


def test_a_run_that_grows_is_read_again(copy: Path, open_source: Open):
    whole = (copy / "manifest.jsonl").read_text()
    cut_manifest(copy, after=lambda event: event["event"] == "report" and event["round"] == 1)
    source = open_source(copy)
    assert len(source.overview().rounds) == 2
    (copy / "manifest.jsonl").write_text(whole)
    assert len(source.overview().rounds) == 4


def test_a_broken_table_is_a_notice(copy: Path, open_source: Open):
    receipt(copy, 1, "verdicts.prm", 0).write_bytes(b"not a table")
    source = open_source(copy)
    shard = source.shard(1, 0)
    assert shard.waiting_for == ("verdicts.prm",)
    assert any(sample.num_mined for sample in shard.samples)  # weights do not need it any more
    view = next(view for view in source.samples(1, 0) if view.steps)
    assert [verdict.judge for verdict in view.steps[0].verdicts] == ["llm", "truth"]
    assert view.steps[0].rule == "Not decided yet: prm has not judged it."
    (notice,) = source.overview().notices
    assert "verdicts.prm is left out" in notice
    assert "checksum differs" in notice


@pytest.mark.parametrize("table", ["prompts", "rollouts"])
def test_a_shard_without_its_responses_cannot_be_shown(copy: Path, open_source: Open, table: str):
    receipt(copy, 1, table, 0).unlink()
    source = open_source(copy)
    with pytest.raises(StoreError, match="is in the manifest but not there"):
        source.shard(1, 0)
    assert any("Round 1, shard 0 cannot be shown" in notice for notice in source.overview().notices)
    assert source.shard(1, 1).samples


@pytest.mark.parametrize("table", ["prompts", "rollouts", "verdicts.prm", "reference"])
def test_a_file_that_is_whole_again_is_read_and_its_notice_goes(copy: Path, open_source: Open, table: str):
    whole, source = open_source(copy), open_source(copy)
    view = next(view for view in whole.samples(1, 0) if view.steps and view.drop is None)
    broken = [receipt(copy, 1, table, piece) for piece in read_manifest(copy).shards[1, table]]
    contents = [file.read_bytes() for file in broken]
    for file in broken:
        file.write_bytes(b"half a table")
    if table == "prompts":
        with pytest.raises(DataError, match="no sample"):
            source.sample(1, view.prompt_id, view.sample)
    elif table == "rollouts":
        with pytest.raises(StoreError):
            source.sample(1, view.prompt_id, view.sample)
    else:
        assert plain(source.sample(1, view.prompt_id, view.sample)) != plain(view)
    assert source.overview().notices
    for file, content in zip(broken, contents, strict=True):
        file.write_bytes(content)
    assert plain(source.sample(1, view.prompt_id, view.sample)) == plain(view)
    for shard in range(3):
        source.samples(1, shard)
    for line in source.shard(1, 1), source.shard(1, 2):  # the last shard's prompts are asked for too
        source.sample(1, line.samples[0].prompt_id, 0)
    assert source.shard(1, 0).waiting_for == ()
    assert source.overview().notices == ()


def test_nothing_sampled_yet(copy: Path, open_source: Open):
    cut_manifest(copy, after=lambda event: event["event"] == "report" and event["round"] == 0)
    with pytest.raises(RunDirectoryError, match="nothing was sampled yet"):
        open_source(copy).check()


def test_tables_of_another_version_are_refused(copy: Path, open_source: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bcpg_cluster.store.shards.SCHEMA_VERSION", 3)
    with pytest.raises(RunDirectoryError, match="schema version 2"):
        open_source(copy).check()


def test_reading_changes_nothing(copy: Path, open_source: Open, tree_digest: Callable[..., dict[str, str]]):
    before = tree_digest(copy)
    source = open_source(copy)
    source.overview()
    source.samples(1, 0)
    assert tree_digest(copy) == before


def test_few_shards_are_kept(finished_run: Any, open_source: Open):
    source = open_source(finished_run.directory)
    for round_ in (1, 2, 3):
        for shard in range(3):
            source.samples(round_, shard)
    assert len(source._opened) == 4


def test_a_page_by_itself_names_no_place_of_this_machine(finished_run: Any, open_source: Open):
    assert open_source(finished_run.directory, is_alone=True).overview().run.directory == finished_run.directory.name


def test_p_after_training_asks_the_version_that_the_round_trained(finished_run: Any, open_source: Open):
    asked = []

    def score(state: Any, version: int, prompt: Any, response: Any) -> list[float]:
        asked.append((version, len(prompt), len(response)))
        return [math.log(0.25)] * len(response)

    source = open_source(finished_run.directory, score=score)
    line = source.shard(2, 1).samples[5]
    found = source.after(2, line.prompt_id, line.sample)
    assert (found.round, found.prompt_id, found.sample, found.version) == (2, line.prompt_id, line.sample, 2)
    assert found.p == (0.25,) * line.num_tokens
    assert [(version, length) for version, _, length in asked] == [(2, line.num_tokens)]
    with pytest.raises(DataError, match="no sample 99"):
        source.after(2, line.prompt_id, 99)
    with pytest.raises(DataError, match="cannot score"):
        open_source(finished_run.directory).after(2, line.prompt_id, line.sample)
