"""A run keeps the problems it began with: other ones are refused with what changed, or taken and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.preflight.prompt_digests import check_prompts, digest_sets, hold_prompts
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import SnapshotRecord, read_manifest
from bcpg_cluster.store.rows import prompt_row
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster_cli.runs.iterate import run_iterate
from bcpg_cluster_cli.runs.validate import run_validate

MakeConfig = Callable[..., Config]
OLD = [Prompt(f"q{n}", f"{n} +1", str(n + 1)) for n in range(4)]
TEST = [Prompt("t0", "9 +1", "10")]


def dealt(manifest: Any, round_: int, table: str, shard: int, prompts: list[Prompt]) -> Receipt:
    return write_shard(
        manifest.run_dir, table=table, round_=round_, shard=shard, attempt=new_attempt(),
        rows=[prompt_row(prompt) for prompt in prompts], seconds=0.0, metrics={},
    )  # fmt: skip


def test_the_digest_is_of_the_problems_and_their_order(make_config: MakeConfig):
    config = make_config()
    found = digest_sets(config, PromptSets(OLD, TEST, {"hard": OLD[:1]}))
    assert list(found) == ["prompts.train", "prompts.test", "prompts.more_tests.hard"]
    assert (found["prompts.train"].num_prompts, found["prompts.train"].source) == (4, config.prompts.train)
    again = digest_sets(config, PromptSets([*OLD], TEST))
    assert again["prompts.train"] == found["prompts.train"]
    for other in ([*OLD[1:], OLD[0]], OLD[:3], [*OLD[:3], Prompt("q3", "3 +1", "5")]):
        assert digest_sets(config, PromptSets(other, TEST))["prompts.train"].sha256 != found["prompts.train"].sha256


def test_what_changed_is_said(tmp_path: Path, make_config: MakeConfig):
    config = make_config(prompts={"per_round": 2})
    with open_run(tmp_path / "run", config) as manifest:
        assert hold_prompts(manifest, config, PromptSets(OLD, TEST)) == []
        manifest.accept(dealt(manifest, 1, "prompts", 0, OLD[:3]))
    state = read_manifest(tmp_path / "run")
    check_prompts(tmp_path / "run", state, config, PromptSets(OLD, TEST))
    new = [Prompt("q1", "1 +1", "77"), *OLD[2:], Prompt("new", "5 +5", "10"), Prompt("newer", "6 +5", "11")]
    with pytest.raises(RunDirectoryError) as caught:
        check_prompts(tmp_path / "run", state, config, PromptSets(new, TEST))
    assert "prompts.train" in caught.value.problem
    assert "5 problems now, 4 before; of those used so far 1 altered ('q1') and 1 gone ('q0')" in caught.value.problem
    assert "--take-changed-prompts" in caught.value.remedy
    assert "prompts.test" not in caught.value.problem
    with pytest.raises(RunDirectoryError, match="none of those used so far is altered"):
        check_prompts(tmp_path / "run", state, config, PromptSets([*OLD, Prompt("new", "5 +5", "10")], TEST))
    with pytest.raises(RunDirectoryError, match=r"prompts.test .*2 problems now, 1 before"):
        check_prompts(tmp_path / "run", state, config, PromptSets(OLD, [*TEST, Prompt("t1", "8 +1", "9")]))


def test_a_run_made_before_digests_were_noted_is_given_them(tmp_path: Path, make_config: MakeConfig):
    config = make_config()
    with open_run(tmp_path / "run", config) as manifest:
        assert manifest.state.prompts is None
        check_prompts(tmp_path / "run", manifest.state, config, PromptSets(OLD, TEST))
        hold_prompts(manifest, config, PromptSets(OLD, TEST))
        with pytest.raises(RunDirectoryError):
            hold_prompts(manifest, config, PromptSets(OLD[:2], TEST))
    lines = (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["created", "prompts"]


def test_taking_them_is_recorded_and_lets_go_of_what_was_half_done(tmp_path: Path, make_config: MakeConfig):
    """Round 1 has one of two shards of its problems, and its measurement has one shard."""
    config = make_config(prompts={"per_round": 4}, generate={"prompts_per_shard": 2})
    with open_run(tmp_path / "run", config) as manifest:
        hold_prompts(manifest, config, PromptSets(OLD, TEST))
        manifest.accept(dealt(manifest, 1, "prompts", 0, OLD[:2]))
        manifest.accept(dealt(manifest, 1, "eval_prompts", 0, TEST))
        changes = hold_prompts(manifest, config, PromptSets(OLD[::-1], TEST), take_changed=True)
        assert len(changes) == 1
        assert not manifest.state.shards
    state = read_manifest(tmp_path / "run")
    assert [event["changes"] for event in state.prompt_changes] == [changes]
    check_prompts(tmp_path / "run", state, config, PromptSets(OLD[::-1], TEST))


def test_a_round_that_was_dealt_its_problems_keeps_them(tmp_path: Path, make_config: MakeConfig):
    config = make_config(prompts={"per_round": 2}, generate={"prompts_per_shard": 2})
    with open_run(tmp_path / "run", config) as manifest:
        hold_prompts(manifest, config, PromptSets(OLD, TEST))
        manifest.accept(dealt(manifest, 1, "prompts", 0, OLD[:2]))
        hold_prompts(manifest, config, PromptSets(OLD[::-1], TEST), take_changed=True)
        assert set(manifest.state.shards) == {(1, "prompts")}


def test_a_version_that_is_still_to_be_measured_costs_the_next_round_nothing(tmp_path: Path, make_config: MakeConfig):
    """Round 1 has weights and half a measurement, round 2 its problems; new problems are taken."""
    config = make_config(prompts={"per_round": 2}, generate={"prompts_per_shard": 2})
    with open_run(tmp_path / "run", config) as manifest:
        hold_prompts(manifest, config, PromptSets(OLD, TEST))
        for round_, of_round in ((1, OLD[:2]), (2, OLD[2:])):
            manifest.accept(dealt(manifest, round_, "prompts", 0, of_round))
            manifest.add_snapshot(SnapshotRecord(round_, f"snapshots/v{round_}", {}, 0.0))
        manifest.accept(dealt(manifest, 1, "eval_prompts", 0, TEST))
        hold_prompts(manifest, config, PromptSets(OLD[::-1], TEST), take_changed=True)
        assert set(manifest.state.shards) == {(1, "prompts"), (2, "prompts")}
        assert set(manifest.state.snapshots) == {1, 2}


def test_by_the_commands(
    tmp_path: Path, fakes_content: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    """A round, another file under the same name, the next round: refused; and taken where that is asked for."""
    lines = Path(fakes_content()["prompts"]["train"]).read_text().splitlines(keepends=True)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(lines[:12]))
    content = fakes_content() | {"evaluate": {"num_prompts": 4, "num_samples": 1}}
    content["prompts"] |= {"train": str(train), "per_round": 6}
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    run_dir = tmp_path / "run"

    def iterate(rounds: int, **options: Any) -> None:
        run_iterate(
            rounds,
            str(tmp_path / "config.yaml"),
            [],
            str(run_dir),
            None,
            None,
            track=[],
            as_json=False,
            inline=True,
            **options,
        )

    iterate(1)
    iterate(1)  # done already
    train.write_text("".join(lines[12:30]))
    before = (run_dir / "manifest.jsonl").read_bytes()
    for start in (lambda: iterate(2), lambda: run_validate(str(tmp_path / "config.yaml"), [], str(run_dir))):
        with pytest.raises(RunDirectoryError, match=r"18 problems now, 12 before; of those used so far 6 gone"):
            start()
    assert (run_dir / "manifest.jsonl").read_bytes() == before
    capsys.readouterr()
    iterate(2, take_changed_prompts=True)
    assert "taken from here on: prompts.train" in capsys.readouterr().out
    state = read_manifest(run_dir)
    assert len(state.prompt_changes) == 1
    assert state.prompts is not None and state.prompts["prompts.train"].num_prompts == 18
    from bcpg_cluster.store.rows import prompts_from
    from bcpg_cluster.store.shards import read_table

    used = {p.prompt_id for p in prompts_from(read_table(run_dir, state.receipts(2, "prompts")))}
    assert used <= {p.prompt_id for p in read_prompts(str(train))}
