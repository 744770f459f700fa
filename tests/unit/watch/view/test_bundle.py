"""watch.view.bundle: one page with everything in it, within its size, and what is left out when that is too much."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.watch.view import bundle as bundles
from bcpg_cluster.watch.view.as_json import plain
from bcpg_cluster.watch.view.bundle import bundle
from bcpg_cluster.watch.view.render import PageParts
from bcpg_cluster.watch.view.source import RunSource


@pytest.fixture
def source(finished_run: Any, open_source: Callable[..., RunSource]) -> RunSource:
    return open_source(finished_run.directory, is_alone=True)


def content(page: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script id="data" type="text/plain">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(data)))
    return found


def test_the_whole_run_is_inside(source: RunSource, parts: PageParts):
    made = bundle(source, parts)
    found = content(made.page)
    assert (made.num_samples, made.num_left_out, made.left_out) == (288, 0, ())
    assert set(found) == {"overview", "shards", "samples"}
    assert found["overview"]["files"]["labels"] is None
    assert [(shard["round"], shard["shard"]) for shard in found["shards"]] == [
        (r, s) for r in (1, 2, 3) for s in range(3)
    ]
    listed = {
        f"{shard['round']}/{sample['prompt_id']}/{sample['sample']}"
        for shard in found["shards"]
        for sample in shard["samples"]
    }
    assert set(found["samples"]) == listed
    prompt = source.shard(2, 0).samples[3]
    view = plain(source.sample(2, prompt.prompt_id, prompt.sample))
    assert found["samples"][f"2/{prompt.prompt_id}/{prompt.sample}"] == view


def test_no_directory_and_no_key_of_this_machine_is_inside(finished_run: Any, parts: PageParts):
    config = load_run_config(finished_run.directory)
    prompts = config.prompts.model_copy(update={"train": "/home/me/x/train.jsonl"})
    storage = config.storage.model_copy(update={"options": {"key": "hidden-key"}})
    told = config.model_copy(update={"prompts": prompts, "storage": storage})
    overview = content(bundle(RunSource(finished_run.directory, lambda: told, is_alone=True), parts).page)["overview"]
    values = {line["key"]: line["value"] for line in overview["config"]}
    assert values["prompts.train"] == "train.jsonl"
    for hidden in ("/home/me", "hidden-key", str(finished_run.directory.parent)):
        assert hidden not in json.dumps(overview)


def test_chosen_rounds(source: RunSource, parts: PageParts):
    made = bundle(source, parts, [1, 3])
    found = content(made.page)
    assert made.num_samples == 192
    assert {line["round"] for line in found["overview"]["shards"]} == {1, 3}
    assert len(found["overview"]["rounds"]) == 4
    with pytest.raises(DataError, match="no responses of round 9"):
        bundle(source, parts, [1, 9])


def sizes(source: RunSource, parts: PageParts) -> list[int]:
    """Bytes of the page at each level of detail."""
    overview = source.overview()
    lists = [source.shard(line.round, line.shard) for line in overview.shards]
    details = [(True, True), (False, True), (False, False)]
    return [
        len(bundles._packed(source, overview, lists, bundles._Detail(*detail), 1 << 40)) * 4 // 3 for detail in details
    ]


def test_what_is_large_goes_first(source: RunSource, parts: PageParts, monkeypatch: pytest.MonkeyPatch):
    whole, without_raw, without_tokens = sizes(source, parts)
    assert whole >= without_raw > without_tokens

    def made_within(most: int) -> Any:
        monkeypatch.setattr(bundles, "MOST_BYTES", most)
        made = bundle(source, parts)
        assert len(made.page.encode()) <= most
        return made, content(made.page)

    made, found = made_within(without_tokens + 4000)
    assert [words.partition(" are left out")[0] for words in made.left_out] == [
        "The judges' raw answers",
        "The columns of tokens (probability, weight, drift)",
    ]
    assert made.num_left_out == 0
    assert {sample["tokens"] for sample in found["samples"].values()} == {None}

    made, found = made_within(without_tokens * 3 // 4)
    assert 0 < made.num_left_out < made.num_samples
    assert len(found["samples"]) == made.num_samples - made.num_left_out
    assert f"{made.num_left_out} of 288 samples are left out" in made.left_out[-1]
    lines = {
        f"{shard['round']}/{line['prompt_id']}/{line['sample']}": line
        for shard in found["shards"]
        for line in shard["samples"]
    }
    disputed = {name for name, line in lines.items() if line["num_disputed"]}
    assert disputed <= set(found["samples"]) or set(found["samples"]) <= disputed
    assert len(lines) == 288


def test_hostile_text_stays_inside(source: RunSource, parts: PageParts, monkeypatch: pytest.MonkeyPatch):
    page = bundle(source, parts).page
    assert page.count("<script") == page.count("</script>") == 3
