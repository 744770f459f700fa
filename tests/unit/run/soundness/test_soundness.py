"""run/soundness: what is damaged is named with what follows; mending restores, lets go, keeps the damaged, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import NotFiniteError, RunDirectoryError
from bcpg_cluster.run.build.settings import weigh_settings
from bcpg_cluster.run.soundness import restore as restore_module
from bcpg_cluster.run.soundness import snapshot_faults as snapshot_module
from bcpg_cluster.run.soundness.check import check_run, read_subject
from bcpg_cluster.run.soundness.faults import Fate, Fault
from bcpg_cluster.run.soundness.file_faults import manifest_faults
from bcpg_cluster.run.soundness.mend import mend_run
from bcpg_cluster.run.training import steps_path
from bcpg_cluster.stages.graph import downstream
from bcpg_cluster.stages.train.step_checkpoints.record import (
    CheckpointFile,
    CheckpointRecord,
    checkpoint_name,
    write_record,
)
from bcpg_cluster.stages.train.step_checkpoints.writing import save_digested
from bcpg_cluster.store.layout import CONFIG, MANIFEST, checkpoint_path
from bcpg_cluster.store.manifest import Manifest, read_manifest
from bcpg_cluster.store.mark import MARK
from bcpg_cluster.store.path import run_path
from tests.chaos.damage import damage, interrupt
from tests.told import step_report


@pytest.fixture
def run_dir(finished_run: Any, tmp_path: Path) -> Path:
    """Three finished rounds."""
    shutil.copytree(finished_run.directory, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def short_run(make_config: Any, run_rounds: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when its round 2 was weighed."""
    config = make_config(prompts={"per_round": 8}, evaluate={"num_prompts": 4})
    directory: Path = run_rounds(tmp_path_factory.mktemp("runs") / "short", config, 2).directory
    events = [json.loads(line) for line in (directory / MANIFEST).read_bytes().splitlines()]
    is_weighed = [e["event"] == "sealed" and (e["round"], e["table"]) == (2, "weighted") for e in events]
    interrupt(directory, 1 + is_weighed.index(True))
    return directory


@pytest.fixture
def interrupted(short_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(short_run, tmp_path / "run")
    return tmp_path / "run"


def file_of(run_dir: Path, round_: int, table: str, shard: int = 0) -> Path:
    return run_dir / read_manifest(run_dir).receipts(round_, table)[shard].path


def only(run_dir: Path) -> Fault:
    (fault,) = check_run(run_dir).faults
    return fault


def test_a_run_that_is_whole(run_dir: Path, tree_digest: Callable[..., dict[str, str]]):
    before = tree_digest(run_dir)
    checked = check_run(run_dir)
    assert (checked.faults, checked.strays, checked.notes, checked.exit_code) == ((), (), (), 0)
    assert checked.num_shards == sum(map(len, read_manifest(run_dir).shards.values()))
    assert checked.num_snapshots == 3
    mended = mend_run(run_dir)
    assert (mended.done, mended.after) == ((), checked)
    assert tree_digest(run_dir, ("run.lock",)) == {k: v for k, v in before.items() if k != "run.lock"}


@pytest.mark.parametrize(
    ("table", "fate", "says"),
    [
        ("prompts", Fate.RESTORED, "byte for byte"),
        ("rollouts", Fate.LOST, "stage generate --round 2 --discard-later --run-dir"),
        ("outcomes", Fate.RESTORED, "byte for byte"),
        ("verdicts.llm", Fate.RESTORED, "byte for byte"),
        ("weighted", Fate.RESTORED, "byte for byte"),
        ("reference", Fate.LOST, "stage train --round 2"),
        ("eval_rollouts", Fate.LOST, "stage evaluate --round 2"),
        ("eval_outcomes", Fate.RESTORED, "byte for byte"),
    ],
)
def test_a_shard_of_a_past_round(
    table: str, fate: Fate, says: str, run_dir: Path, tree_digest: Callable[..., dict[str, str]]
):
    before = tree_digest(run_dir, (MANIFEST, "run.lock"))
    file = file_of(run_dir, 2, table)
    damage(file, "flipped")
    damaged = file.read_bytes()
    fault = only(run_dir)
    assert (fault.path, fault.fate) == (str(file.relative_to(run_dir)), fate)
    assert says in fault.follows and f"table {table}, round 2, shard 0" in fault.what
    mended = mend_run(run_dir)
    if fate is Fate.RESTORED:
        assert mended.after.exit_code == 0
        assert mended.after.strays == (f"{fault.path}.damaged",)
        assert (run_dir / f"{fault.path}.damaged").read_bytes() == damaged
        after = tree_digest(run_dir, (MANIFEST, "run.lock"))
        assert {path: digest for path, digest in after.items() if not path.endswith(".damaged")} == before
    else:
        assert mended.after.faults == (fault,) and file.read_bytes() == damaged


def test_shards_of_a_round_under_way_are_let_go_of(interrupted: Path):
    files = [file_of(interrupted, 2, table) for table in ("rollouts", "weighted")]
    damage(files[0], "truncated")
    damage(files[1], "deleted")
    assert [fault.fate for fault in check_run(interrupted).faults] == [Fate.REMADE, Fate.REMADE]
    mended = mend_run(interrupted)
    assert len(mended.done) == 2 and all("the next `iterate` makes it again" in done for done in mended.done)
    assert mended.after.exit_code == 0
    assert any("rollouts round 2 shard 0" in note for note in mended.after.notes)
    state = read_manifest(interrupted)
    assert state.missing(2, "rollouts", 2) == [0] == state.missing(2, "weighted", 2)
    assert (2, "rollouts") not in state.sealed and (2, "outcomes") in state.sealed


def test_a_run_that_another_process_works_on_is_read_as_it_stands(interrupted: Path, tree_digest: Any):
    with Manifest(interrupted):
        before = tree_digest(interrupted)
        checked = check_run(interrupted)
        assert checked.holder is not None and checked.exit_code == 0
        with pytest.raises(RunDirectoryError, match="in use by process"):
            mend_run(interrupted)
        assert tree_digest(interrupted) == before


def test_a_damaged_manifest_is_cut_back_and_no_snapshot_is_lost(run_dir: Path):
    lines = (run_dir / MANIFEST).read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == "snapshot")
    lines[at] = lines[at].replace(b'"version": 1', b'"version": 7')
    (run_dir / MANIFEST).write_bytes(b"".join(lines))
    weights = {path.name: (path / "fake.json").read_bytes() for path in (run_dir / "snapshots").iterdir()}
    faults = [fault for fault in check_run(run_dir).faults if fault.path == MANIFEST]
    assert faults[0].what.startswith(f"line {at + 1}: the snapshot of version 7 fails its checksum")
    assert f"cuts it back to line {at}" in faults[0].follows
    mended = mend_run(run_dir)
    assert "cut back to line" in mended.done[0]
    assert mended.after.exit_code == 0
    assert {
        path.name: (path / "fake.json").read_bytes() for path in (run_dir / "snapshots-cut-off").iterdir()
    } == weights
    assert list(read_manifest(run_dir).snapshots) == []


def test_reports_and_the_mark_are_written_again(run_dir: Path, tree_digest: Any):
    before = tree_digest(run_dir, (MANIFEST, MARK, "run.lock"))
    damage(run_dir / "rounds/0001/report.json", "flipped")
    damage(run_dir / "rounds/0002/report.json", "deleted")
    damage(run_dir / MARK, "truncated")
    assert {fault.fate for fault in check_run(run_dir).faults} == {Fate.RESTORED}
    assert mend_run(run_dir).after.exit_code == 0
    after = tree_digest(run_dir, (MANIFEST, MARK, "run.lock"))
    assert {path: digest for path, digest in after.items() if ".damaged" not in path} == before


def test_the_config_is_named_and_iterate_writes_it_again(run_dir: Path, finished_run: Any, run_rounds: Any):
    content = (run_dir / CONFIG).read_bytes()
    (run_dir / CONFIG).write_bytes(content.replace(b"per_round: 12", b"per_round: 13"))
    fault = only(run_dir)
    assert (fault.path, fault.fate) == (CONFIG, Fate.REMADE) and "the manifest names" in fault.what
    run_rounds(run_dir, finished_run.config, 3)
    assert (run_dir / CONFIG).read_bytes() == content and check_run(run_dir).exit_code == 0
    assert b"per_round: 13" in (run_dir / f"{CONFIG}.damaged").read_bytes()
    (run_dir / CONFIG).write_bytes(b"\xff{")  # nothing that needs it is guessed
    assert any("snapshots were not checked" in note for note in check_run(run_dir).notes)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "deleted"])
def test_snapshots(kind: Any, run_dir: Path):
    record = read_manifest(run_dir).snapshots[3]
    damage(run_dir / record.path / "fake.json", kind)
    fault = only(run_dir)
    assert fault.path.startswith(record.path) and fault.fate is Fate.LOST
    assert "stage train --round 3 --discard-later" in fault.follows


def test_a_snapshot_that_no_rule_keeps_may_be_gone_and_others_not(
    run_dir: Path, tmp_path: Path, run_rounds: Any, make_config: Any
):
    config = make_config(snapshots={"keep_last": 1}, prompts={"per_round": 4}, evaluate={"num_prompts": 4})
    made = run_rounds(tmp_path / "few", config, 3).directory
    there = {record.path for record in read_manifest(made).snapshots.values() if (made / record.path).is_dir()}
    assert 1 <= len(there) <= 2  # the newest, and the best
    assert check_run(made).exit_code == 0
    shutil.rmtree(made / min(there))
    assert only(made).what == "is in the manifest but not there"


def test_strays_are_listed_and_left(run_dir: Path):
    stray = run_dir / "rounds/0001/rollouts/00000-deadbeef.parquet"
    stray.write_bytes(b"of a late worker")
    checked = check_run(run_dir)
    assert checked.strays == ("rounds/0001/rollouts/00000-deadbeef.parquet",) and checked.exit_code == 0
    mend_run(run_dir)
    assert stray.exists()


@pytest.mark.parametrize(("made", "strays"), [("run_dir", ("rounds/0002/decoded/a.rows",)), ("interrupted", ())])
def test_decoded_rows_are_strays_where_no_training_needs_them(
    request: pytest.FixtureRequest, made: str, strays: tuple[str, ...]
):
    run: Path = request.getfixturevalue(made)
    decoded = run / "rounds/0002/decoded/a.rows"
    decoded.parent.mkdir()
    decoded.write_bytes(b"rows")
    assert check_run(run).strays == strays


def test_what_is_no_run(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="not a run"):
        check_run(tmp_path)
    (tmp_path / MANIFEST).write_text('{"event": "created", "manifest_version": 9}\n')
    with pytest.raises(RunDirectoryError, match="newer version"):
        check_run(tmp_path)
    (tmp_path / MANIFEST).write_text("once upon a time\nthere was\n")
    with pytest.raises(RunDirectoryError, match="not an event"):
        mend_run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {MANIFEST, "run.lock"}


def test_a_run_in_an_object_store(make_config: Any, run_rounds: Any):
    place = run_path("memory://soundness/run")
    config = make_config(prompts={"per_round": 4}, evaluate={"num_prompts": 4})
    run_rounds(place, config, 1)
    assert check_run(place).exit_code == 0
    receipt = read_manifest(place).receipts(1, "outcomes")[0]
    content = (place / receipt.path).read_bytes()
    (place / receipt.path).write(content[:-1])  # type: ignore[union-attr]
    checked = check_run(place)
    assert [fault.path for fault in checked.faults] == [receipt.path]
    assert any("object store" in note for note in checked.notes)
    assert mend_run(place).after.exit_code == 0
    assert (place / receipt.path).read_bytes() == content
    assert (place / f"{receipt.path}.damaged").read_bytes() == content[:-1]


def test_a_journal_that_cannot_be_cut_back_says_so(run_dir: Path):
    """The first checksum is gone, so no line before the second can be relied on."""
    text = (run_dir / MANIFEST).read_bytes()
    (run_dir / MANIFEST).write_bytes(text.replace(b'"crc"', b'"crx"', 1))
    with pytest.raises(RunDirectoryError) as refused:
        mend_run(run_dir)
    assert "put back a copy" in refused.value.remedy
    found = [fault for fault in manifest_faults(read_subject(run_dir)) if fault.path == MANIFEST]
    assert {fault.fate for fault in found} == {Fate.LOST}
    assert all("put back a copy" in fault.follows and "--mend" not in fault.follows for fault in found)


def test_the_newest_snapshot_is_missed_after_rounds_that_taught_nothing(run_dir: Path):
    """Versions 4 and 5 have the files of version 3, which the next round starts from."""
    state = read_manifest(run_dir)
    with Manifest(run_dir) as manifest:
        for version in (4, 5):
            manifest.add_snapshot(replace(state.snapshots[3], version=version, training=None))
    shutil.rmtree(run_dir / state.snapshots[3].path)
    found = [fault for fault in check_run(run_dir).faults if fault.path == state.snapshots[3].path]
    assert [fault.what for fault in found] == ["is in the manifest but not there"]
    assert found[0].follows.startswith("the next round starts from it")


def test_weights_that_were_written_without_being_numbers(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    def verify(path: str, digests: dict[str, str]) -> None:
        raise NotFiniteError("skill has values that are not finite")

    monkeypatch.setattr(snapshot_module, "snapshot_verifier", lambda kind: verify)
    fault = next(fault for fault in check_run(run_dir).faults if "not finite" in fault.what)
    assert fault.fate is Fate.LOST
    assert "another learning rate" in fault.follows and "from a copy" not in fault.follows


def test_what_comes_out_different_is_not_put_in_place(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Another version of the package weighs otherwise, say."""
    file = file_of(run_dir, 2, "weighted")
    damage(file, "flipped")
    damaged = file.read_bytes()
    monkeypatch.setattr(restore_module, "weigh_settings", lambda config: replace(weigh_settings(config), beta=-0.25))
    mended = mend_run(run_dir)
    assert len(mended.done) == 1 and "made again, but it came out different" in mended.done[0]
    assert [fault.path for fault in mended.after.faults] == [str(file.relative_to(run_dir))]
    assert file.read_bytes() == damaged and mended.after.strays == ()


def test_what_was_made_from_a_lost_shard_cannot_be_made_again(run_dir: Path):
    rollouts, weighted = (file_of(run_dir, 2, table) for table in ("rollouts", "weighted"))
    for file in (rollouts, weighted):
        damage(file, "flipped")
    mended = mend_run(run_dir)
    (said,) = mended.done
    assert f"{weighted.relative_to(run_dir)}: could not be made again" in said and "table 'rollouts'" in said
    assert {fault.path for fault in mended.after.faults} == {str(f.relative_to(run_dir)) for f in (rollouts, weighted)}


def test_a_config_that_was_changed_on_the_way_is_written_again(run_dir: Path, bcpg: Any):
    """The manifest has it since then."""
    change = ("--set", "train.learning_rate=0.0002", "--inline", "--discard-later")
    ended = bcpg("stage", "train", "--round", 3, "--run-dir", run_dir, *change)
    assert ended.code == 0, ended.err
    whole = (run_dir / CONFIG).read_bytes()
    assert b"0.0002" in whole
    damage(run_dir / CONFIG, "truncated")
    damaged = (run_dir / CONFIG).read_bytes()
    assert (only(run_dir).path, only(run_dir).fate) == (CONFIG, Fate.RESTORED)
    mended = mend_run(run_dir)
    assert mended.after.exit_code == 0 and "written again from the manifest" in mended.done[0]
    assert (run_dir / CONFIG).read_bytes() == whole
    assert (run_dir / f"{CONFIG}.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: None, "is not there"),
        (lambda text: b"{" + text, "cannot be read"),
        (lambda text: text.partition(b"\n")[2], "lacks steps"),
    ],
)
def test_the_lines_of_training_steps_are_only_for_people(change: Any, what: str, run_dir: Path):
    path = run_dir / steps_path(2)
    changed = change(path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)
    fault = only(run_dir)
    assert (fault.path, fault.what, fault.fate) == (steps_path(2), what, Fate.UNUSED)
    assert check_run(run_dir).exit_code == 0


def test_step_checkpoints_of_a_round_under_way(interrupted: Path):
    """Training was interrupted after its checkpoints of steps 1 and 2; one byte of the later flips."""
    folder = interrupted / checkpoint_path(2) / "0001"
    with Manifest(interrupted) as manifest:
        for num_steps in (1, 2):
            at = folder / checkpoint_name(num_steps)
            at.mkdir(parents=True)
            digest = save_digested({"step": num_steps}, at / "rank_0.pt")
            reports = tuple(step_report(step=step) for step in range(num_steps))
            record = CheckpointRecord("plan", reports, {"rank_0.pt": CheckpointFile(digest, 0)})
            manifest.add_step_checkpoint(2, write_record(at, record))
    assert check_run(interrupted).exit_code == 0
    later = folder / checkpoint_name(2) / "rank_0.pt"
    damage(later, "flipped")
    fault = only(interrupted)
    assert (fault.path, fault.fate) == (str(later.relative_to(interrupted)), Fate.REMADE)
    assert "resumes from the step checkpoint before" in fault.follows


def test_without_a_config_any_judge_may_come_after_any_other(interrupted: Path):
    """What is let go of takes along what may have been made from it, if it comes out different."""
    subject = replace(read_subject(interrupted), config=None)
    for table, other in (("verdicts.llm", "verdicts.prm"), ("verdicts.prm", "verdicts.llm")):
        assert {other, "weighted"} <= set(downstream(subject.stages, table))
    assert "steps" not in downstream(subject.stages, "verdicts.llm")
