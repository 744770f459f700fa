"""A run is made again on fakes: the same comes out, or the difference is named, or the reason why it cannot be made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bcpg_cluster import load_config, run
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.preflight.made_with import digest_files
from bcpg_cluster.run.reproduce.check import Item, check_run
from bcpg_cluster.run.reproduce.contents import compare_runs
from bcpg_cluster.run.reproduce.rerun import rerun
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster_cli.app import app
from tests.archives import unpack
from tests.rewritten import rewrite_manifest

EARLIER = Path(__file__).parents[3] / "data" / "run-by-0ac596b-finished.tar.gz"
Content = Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, fakes_content: Content) -> Path:
    """Two rounds on fakes, with prompt files of their own."""
    folder = tmp_path_factory.mktemp("made")
    content = fakes_content()
    content["prompts"]["per_round"] = 4
    content["evaluate"] |= {"num_prompts": 4}
    for key in ("train", "test"):
        content["prompts"][key] = shutil.copy(content["prompts"][key], folder / f"{key}.jsonl")
        content["prompts"][key] = str(content["prompts"][key])
    run(load_config(content), 2, folder / "run", inline=True)
    return folder


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of the run. Its config still names the first one's prompt files."""
    return Path(shutil.copytree(made, tmp_path / "made")) / "run"


def item(run_dir: Path, what: str) -> Item:
    return next(found for found in check_run(run_dir).items if found.what == what)


def test_a_fresh_run_is_the_same_here(made: Path):
    checked = check_run(made / "run")
    assert checked.exit_code == 0
    assert {found.state for found in checked.items} == {"same"}
    assert {"configuration", "seed", "prompts.train", "version of torch", "device"} <= {f.what for f in checked.items}


def test_made_again_it_is_equal_and_a_second_call_does_nothing_again(made: Path, tmp_path: Path):
    done = rerun(made / "run", tmp_path / "again", inline=True)
    assert (done.exit_code, done.rounds, done.first_difference) == (0, 2, None)
    assert {(1, "rollouts"), (2, "weights"), (0, "eval_outcomes"), (1, "verdicts.llm"), (1, "reference")} <= {
        (part.round, part.name) for part in done.parts
    }
    assert all(part.num_rows for part in done.parts if part.name == "rollouts")
    before = (tmp_path / "again" / "manifest.jsonl").read_bytes()
    assert rerun(made / "run", tmp_path / "again", inline=True).exit_code == 0
    assert (tmp_path / "again" / "manifest.jsonl").read_bytes() == before


def test_a_run_by_an_earlier_version_says_what_it_did_not_record(tmp_path: Path):
    unpack(EARLIER, tmp_path)
    states = {found.what: found.state for found in check_run(tmp_path / "finished").items}
    assert states["configuration"] == "same"
    assert states["versions of packages"] == states["device"] == "not recorded"


def test_another_seed_gives_other_rows_from_the_first_sampled_table_on(made: Path, tmp_path: Path):
    config = load_config(made / "run" / "config.yaml", seed=7)
    run(config, 1, tmp_path / "other", inline=True)
    parts = compare_runs(made / "run", tmp_path / "other", 1)
    differing = [part for part in parts if not part.is_equal]
    assert differing
    assert differing[0].first
    assert not next(part for part in parts if (part.round, part.name) == (1, "rollouts")).is_equal


def test_a_changed_seed_in_the_config_is_in_the_way(run_dir: Path, tmp_path: Path):
    file = run_dir / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "seed": 5}))
    assert check_run(run_dir).exit_code == 2
    with pytest.raises(RunDirectoryError, match=r"configuration: differs"):
        rerun(run_dir, tmp_path / "again", inline=True)
    assert not (tmp_path / "again").exists()


def test_a_changed_or_missing_prompt_file_is_in_the_way(run_dir: Path, tmp_path: Path):
    train = Path(yaml.safe_load((run_dir / "config.yaml").read_text())["prompts"]["train"])
    text = train.read_text()
    try:
        train.write_text(text.replace("a0", "a0-changed", 1))
        assert item(run_dir, "prompts.train").state == "differs"
        with pytest.raises(RunDirectoryError, match=r"prompts\.train: differs"):
            rerun(run_dir, tmp_path / "again", inline=True)
        train.unlink()
        assert item(run_dir, "prompts").state == "missing"
        assert check_run(run_dir).exit_code == 2
    finally:
        train.write_text(text)


def test_other_versions_and_machines_are_said_and_do_not_stop_it(run_dir: Path, tmp_path: Path):
    def changed(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "made_with":
            event["made_with"]["versions"]["torch"] = "1.0"
            event["made_with"]["device"]["num_cpus"] = 999
        return event

    rewrite_manifest(run_dir, changed)
    assert check_run(run_dir).exit_code == 1
    assert item(run_dir, "version of torch").recorded == "1.0"
    said: list[str] = []
    assert rerun(run_dir, tmp_path / "again", 1, inline=True, say=said.append).exit_code == 0
    assert any(text.startswith("version of torch: 1.0 in the run") for text in said)
    assert any(text.startswith("device: ") for text in said)


def test_imported_responses_and_problems_changed_on_the_way_cannot_be_repeated(run_dir: Path):
    with Manifest(run_dir) as manifest:
        manifest.add_import({"policy": "external:x"})
        manifest.add_prompts(manifest.state.prompts or {}, ["prompts.train: other problems"])
    assert {found.what for found in check_run(run_dir).in_the_way} == {"responses of round 1", "problems, throughout"}


def test_what_cannot_be_asked_for(made: Path):
    with pytest.raises(RunDirectoryError, match="no finished round 3"):
        rerun(made / "run", rounds=3, inline=True)
    with pytest.raises(RunDirectoryError, match="the run itself"):
        rerun(made / "run", made / "run", inline=True)


def test_a_resumed_run_notes_only_what_differs(run_dir: Path):
    run(load_config(run_dir / "config.yaml"), 3, run_dir, inline=True)
    assert len(read_manifest(run_dir).made_with) == 1


def test_files_are_digested_by_name_and_content(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("x")
    first = digest_files(str(tmp_path / "model"))
    assert (first.num_bytes, first.is_sampled) == (1, False)
    (tmp_path / "model" / "a").rename(tmp_path / "model" / "b")
    second = digest_files(str(tmp_path / "model"))
    (tmp_path / "model" / "b").write_text("y")
    assert len({first.sha256, second.sha256, digest_files(str(tmp_path / "model")).sha256}) == 3
    assert digest_files(str(tmp_path / "gone")).sha256 is None


def test_the_command_ends_with_the_code_and_prints_json(made: Path, tmp_path: Path):
    runner = CliRunner()
    checked = runner.invoke(app, ["reproduce", "check", str(made / "run"), "--json"])
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["exit_code"] == 0
    again = ["reproduce", "rerun", str(made / "run"), "--rounds", "1", "--out", str(tmp_path / "again"), "--inline"]
    made_again = runner.invoke(app, [*again, "--json"])
    assert made_again.exit_code == 0
    assert all(part["is_equal"] for part in json.loads(made_again.stdout)["parts"])
