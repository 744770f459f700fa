"""cli inspect: rivals, the words of the run page, and where the truth disagrees. (What it shows else is in test_app.py.)"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.load import change_config
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.examples.choice import mined_flags
from bcpg_cluster.watch.examples.samples import read_samples
from bcpg_cluster.watch.view.samples import LETTER_WORDS, summarise
from bcpg_cluster.watch.view.shard_tables import read_tables, shard_receipts
from bcpg_cluster_cli.watching.inspect import run_inspect


@pytest.mark.parametrize(
    ("name", "words"), [("dpo", "(the wrong response of this pair)"), ("kto", "(another prompt's response")]
)
def test_rivals_are_shown(
    tmp_path: Path, fakes_content: Callable[[], dict[str, Any]], run_rounds: Callable[..., Any], name: str, words: str,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    overrides = [f"objective={{name: {name}}}", "evaluate.num_prompts=2", "prompts.per_round=4"]
    run_rounds(tmp_path / "run", change_config(fakes_content(), overrides, "test"), 1)
    run_inspect(tmp_path / "run", 1, None, None, 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "rival: a" in shown
    assert words in shown
    assert ("prm truth is weight" in shown.replace("┃ ", "")) is (name == "kto")  # of a rival, no weights


def shown(run: Any, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed of the first samples of round 1, one text a sample, on a wide screen."""
    monkeypatch.setenv("COLUMNS", "200")
    run_inspect(run.directory, 1, None, None, number)
    return re.split(r"\n(?=a\d+ sample \d+, policy)", capsys.readouterr().out)[1:]


def test_the_first_sample_has_mined_steps_beside_others_and_says_what_the_truth_calls_it(
    finished_run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (first,) = shown(finished_run, 1, capsys, monkeypatch)
    words = [line.split("│")[-3].strip() for line in first.splitlines() if line.startswith("│")]
    assert "mined" in words[:-1] and set(words[:-1]) & {"wrong", "disputed"} and words[-1] == "last"
    assert re.search(r"mined tokens: \d+ of \d+, \d+% of its gradient mass", first)
    assert re.search(r"^truth agrees on all \d+ steps before the last$", first, re.M)


def test_every_step_on_which_the_truth_disagrees_is_said(
    finished_run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Counted by hand from the tables: labels of the truth against mined tokens."""
    config, state = finished_run.config, read_manifest(finished_run.directory)
    samples = read_samples(finished_run.directory, config, state, 1)
    apart = {
        (row.id.prompt_id, row.id.sample, index)
        for row in samples.weighted
        for index, is_mined in enumerate(mined_flags(row, samples.steps.get(row.id, ())[:-1]))
        if samples.verdicts["truth"][row.id][index].label == (0 if is_mined else 1)
    }
    said = set()
    for text in shown(finished_run, 1000, capsys, monkeypatch):
        head = re.match(r"(a\d+) sample (\d+)", text)
        assert head is not None
        for index, link in re.findall(
            r"^truth calls step (\d+) (?:right|wrong); .*, so it was (?:not )?(mined)$", text, re.M
        ):
            said.add((head[1], int(head[2]), int(index)))
            assert link == "mined"
    assert said == apart and apart


def test_steps_are_what_the_run_page_calls_them(
    finished_run: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    config, state = finished_run.config, read_manifest(finished_run.directory)
    strips = {}
    for shard in range(len(state.receipts(1, "rollouts"))):
        receipts = shard_receipts(state.shards, config, 1, shard)
        tables = read_tables(finished_run.directory, config, 1, shard, receipts)
        strips |= {(line.prompt_id, line.sample): line.strip for line in summarise(tables, config).samples}
    seen = set()
    for text in shown(finished_run, 1000, capsys, monkeypatch):
        head = re.match(r"(a\d+) sample (\d+)", text)
        assert head is not None
        words = [line.split("│")[-3].strip() for line in text.splitlines() if re.match(r"│ \d", line)]
        strip = strips[head[1], int(head[2])]
        assert [word.split()[0].strip(",") for word in words] == [LETTER_WORDS[letter] for letter in strip]
        seen |= set(strip)
    assert {"m", "d", "x", "e"} <= seen
