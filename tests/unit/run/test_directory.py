"""directory.py: a directory is used only when it is this run's, and left as it was otherwise."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.directory import check_run_directory, load_run_config, open_run
from bcpg_cluster.stages.fakes.disk_faults import DiskFault, WatchedDisk
from bcpg_cluster.store.journals.lines import Chain
from bcpg_cluster.store.shards import write_shard

Tree = Callable[..., dict[str, str]]


@pytest.fixture
def run_dir(tmp_path: Path, finished_run: Any) -> Path:
    return Path(shutil.copytree(finished_run.directory, tmp_path / "run"))


def refused(directory: Path, config: Config, tree_digest: Tree) -> str:
    before = tree_digest(directory)
    messages = []
    for action in (check_run_directory, open_run):
        with pytest.raises(RunDirectoryError) as caught:
            action(directory, config)
        assert caught.value.rule
        assert caught.value.remedy
        messages.append(str(caught.value))
        assert tree_digest(directory) == before
    return messages[0]


def test_a_new_or_empty_directory_is_made_a_run(tmp_path: Path, make_config: Callable[..., Config]):
    for directory in (tmp_path / "a" / "new", tmp_path / "empty"):
        if directory.name == "empty":
            directory.mkdir()
        check_run_directory(directory, make_config())
        with open_run(directory, make_config()) as manifest:
            assert manifest.state.created is not None
            assert manifest.state.created["identity"] == make_config().identity
        assert load_run_config(directory) == make_config()
        assert sorted(path.name for path in directory.iterdir()) == ["config.yaml", "manifest.jsonl", "run.lock"]


def test_checking_writes_nothing(tmp_path: Path, make_config: Callable[..., Config], run_dir: Path, tree_digest: Tree):
    check_run_directory(tmp_path / "new", make_config())
    assert not (tmp_path / "new").exists()
    before = tree_digest(run_dir)
    check_run_directory(run_dir, make_config())
    assert tree_digest(run_dir) == before


def test_the_same_run_goes_on(run_dir: Path, make_config: Callable[..., Config], tree_digest: Tree):
    before = tree_digest(run_dir, ignore=("run.lock",))
    other_size = make_config(pools={"rollout": {"members": 3}}, snapshots={"keep_last": 9}, name="renamed")
    for config in (make_config(), other_size):
        with open_run(run_dir, config) as manifest:
            assert set(manifest.state.reports) == {0, 1, 2, 3}
    assert tree_digest(run_dir, ignore=("run.lock",)) == before


def test_another_configuration(run_dir: Path, make_config: Callable[..., Config], tree_digest: Tree):
    other = make_config(weigh={"beta": 0.25}, seed=9, pools={"rollout": {"members": 7}})
    message = refused(run_dir, other, tree_digest)
    assert "seed (0 -> 9)" in message
    assert "weigh.beta (0.5 -> 0.25)" in message
    assert "pools" not in message.splitlines()[0]  # these may change


def test_exactly_the_keys_that_decide_results_are_named(
    run_dir: Path, make_config: Callable[..., Config], tree_digest: Tree
):
    free = {"autoscaling": False, "placement": "colocated", "storage": {"options": {"profile": "p"}}, "name": "other"}
    message = refused(run_dir, make_config(**free, weigh={"beta": 0.25}), tree_digest)
    assert message.splitlines()[0].endswith("; different: weigh.beta (0.5 -> 0.25)")
    other = make_config(
        judges={name: {**judge.model_dump(), "cache": "/c"} for name, judge in make_config().judges.items()}
    )
    assert other.judges != make_config().judges
    check_run_directory(run_dir, other)


def test_foreign_files(tmp_path: Path, make_config: Callable[..., Config], tree_digest: Tree):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds ['thesis.tex']" in refused(tmp_path, make_config(), tree_digest)


def test_a_file_in_the_way(tmp_path: Path, make_config: Callable[..., Config]):
    (tmp_path / "file").write_text("x")
    for action in (check_run_directory, open_run):
        with pytest.raises(RunDirectoryError, match="is a file"):
            action(tmp_path / "file", make_config())
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("damage", ["no manifest", "empty manifest", "first line lost", "torn middle", "newer"])
def test_half_written_or_altered_runs(
    run_dir: Path, make_config: Callable[..., Config], tree_digest: Tree, damage: str
):
    path = run_dir / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "no manifest":
        path.unlink()
    elif damage == "empty manifest":
        path.write_bytes(b"")
    elif damage == "first line lost":
        path.write_bytes(b"".join(lines[1:]))
    elif damage == "torn middle":
        path.write_bytes(b"".join([*lines[:5], lines[5][:20], *lines[6:]]))
    else:
        path.write_bytes(Chain().signed(Chain().read(lines[0]) | {"manifest_version": 99}))
    message = refused(run_dir, make_config(), tree_digest)
    assert "newer version" in message if damage == "newer" else "newer" not in message


@pytest.mark.parametrize("left", [[], [".config.yaml.123.partial"], ["config.yaml"], ["config.yaml", "manifest.jsonl"]])
def test_a_run_killed_while_it_was_made_is_made_again(
    tmp_path: Path, make_config: Callable[..., Config], left: list[str]
):
    (tmp_path / "run.lock").write_text("123")
    for name in left:
        (tmp_path / name).write_text('{"event": "crea' if name == "manifest.jsonl" else "name: fak")
    with open_run(tmp_path, make_config()) as manifest:
        assert manifest.state.created is not None
    assert load_run_config(tmp_path) == make_config()


def test_two_at_once(run_dir: Path, make_config: Callable[..., Config]):
    with open_run(run_dir, make_config()), pytest.raises(RunDirectoryError, match="is in use by process"):
        open_run(run_dir, make_config())


def test_a_directory_without_or_with_a_broken_config(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"has no config\.yaml"):
        load_run_config(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1,")
    with pytest.raises(RunDirectoryError, match="is not YAML"):
        load_run_config(tmp_path)


def _with_table(directory: Path, config: Config, table: str) -> None:
    with open_run(directory, config) as manifest:
        receipt = write_shard(directory, table=table, round_=1, shard=0, attempt="a", rows=[], seconds=0.0, metrics={})
        manifest.accept(receipt)


MENDED: list[tuple[dict[str, object], str, str]] = [
    ({"verify": {"numeric": False}}, "rollouts", "outcomes"),
    ({"verify": {"numeric": False}}, "rollouts", "eval_outcomes"),
    ({"policy": {"engine_args": {"max_model_len": 9}}}, "eval_prompts", "eval_rollouts"),
    ({"policy": {"engine_args": {"max_model_len": 9}}}, "prompts", "rollouts"),
    ({"judges": {"llm": {"kind": "fake", "precision": 0.5}}}, "verdicts.prm", "verdicts.llm"),
    ({"judges": {"llm": {"kind": "fake", "precision": 0.5}}}, "outcomes", "weighted"),
]


@pytest.mark.parametrize(("change", "before", "after"), MENDED)
def test_what_stopped_a_run_may_be_mended_until_results_depend_on_it(
    tmp_path: Path,
    make_config: Callable[..., Config],
    tree_digest: Tree,
    change: dict[str, object],
    before: str,
    after: str,
):
    if "judges" in change:
        change = {"judges": {**{n: j.model_dump() for n, j in make_config().judges.items()}, **change["judges"]}}  # type: ignore[dict-item]
    mended = make_config(**change)
    assert mended.identity != make_config().identity
    _with_table(tmp_path / "before", make_config(), before)
    with open_run(tmp_path / "before", mended) as manifest:
        assert manifest.state.shards[1, before]
    assert load_run_config(tmp_path / "before") == mended
    check_run_directory(tmp_path / "before", mended)
    _with_table(tmp_path / "after", make_config(), after)
    refused(tmp_path / "after", mended, tree_digest)


LLM = {"kind": "llm", "model": "m"}


@pytest.mark.parametrize(
    ("change", "may_change"),
    [({"temperature": 0.5}, False), ({"model": "other"}, False), ({"prompt": "embedded:compact"}, True)],
)
def test_a_judge_whose_model_cut_the_responses_is_not_mended_behind_the_steps(
    tmp_path: Path, make_config: Callable[..., Config], change: dict[str, object], may_change: bool
):
    segment = {"kind": "llm", "judge": "llm"}
    _with_table(tmp_path, make_config(segment=segment, judges={"llm": LLM}), "steps")
    mended = make_config(segment=segment, judges={"llm": LLM | change})
    if may_change:
        check_run_directory(tmp_path, mended)
        return
    with pytest.raises(RunDirectoryError, match=f"judges.llm.{next(iter(change))}"):
        check_run_directory(tmp_path, mended)


def test_nothing_else_may_change_with_what_is_mended(
    tmp_path: Path, make_config: Callable[..., Config], tree_digest: Tree
):
    open_run(tmp_path, make_config()).close()
    message = refused(tmp_path, make_config(verify={"numeric": False}, seed=3), tree_digest)
    assert "seed (0 -> 3), verify.numeric (True -> False)" in message


def test_a_run_that_could_not_be_made_is_given_back(tmp_path: Path, make_config: Callable[..., Config]):
    """The lock was kept for as long as anything remembered the error."""
    with (
        WatchedDisk(tmp_path / "run", DiskFault(8, is_lasting=True, error=errno.EMFILE)),
        pytest.raises(OSError) as kept,
    ):
        open_run(tmp_path / "run", make_config())
    open_run(tmp_path / "run", make_config()).close()
    assert kept.value.errno == errno.EMFILE
