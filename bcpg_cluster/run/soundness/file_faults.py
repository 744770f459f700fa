"""The other files of a run: its configuration, reports, and what counts for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bcpg_cluster.run.directory import config_problem
from bcpg_cluster.run.soundness.faults import Fate, Fault, Subject
from bcpg_cluster.run.training import steps_path
from bcpg_cluster.store.journal import journal_place
from bcpg_cluster.store.layout import CONFIG, checkpoint_path, decoded_path, report_path
from bcpg_cluster.store.manifest import is_mendable
from bcpg_cluster.store.mark import MARK, is_mark
from bcpg_cluster.store.path import read_json
from bcpg_cluster.store.whole_files import is_set_aside


def manifest_faults(subject: Subject) -> Iterator[Fault]:
    """Lines that are not what was written. Everything else is checked against the lines before the first of them."""
    if not subject.damages:
        return
    if is_mendable(subject.state, subject.damages[0]):
        fate = Fate.RESTORED
        follows = (
            f"--mend cuts it back to line {subject.damages[0].line - 1} and keeps the damaged one; the next `iterate` makes again "
            "what is cut off. A copy of the file saves that"
        )
    else:
        fate, follows = Fate.LOST, "no line before it can be relied on: put back a copy of the file"
    for damage in subject.damages:
        yield Fault(journal_place(subject.run_dir).name, f"line {damage.line}: {damage.what}", fate, follows)


def file_faults(subject: Subject) -> Iterator[Fault]:
    """Of everything that is neither a shard nor a snapshot nor the manifest."""
    yield from _config_fault(subject)
    for round_, report in sorted(subject.state.reports.items()):
        if read_json(subject.run_dir / report_path(round_)) != report.plain():
            yield Fault(
                report_path(round_),
                "is not the report that the manifest has",
                Fate.RESTORED,
                "the manifest's word counts; --mend writes it again from there",
            )
    for version, record in sorted(subject.state.snapshots.items()):
        if record.training is not None and (what := _steps_problem(subject, version, int(record.training.steps))):
            yield Fault(
                steps_path(version), what, Fate.UNUSED, "only people read it; the sums are in the round's report"
            )
    yield from _mark_fault(subject)


def _config_fault(subject: Subject) -> Iterator[Fault]:
    if what := config_problem(subject.run_dir, subject.state):
        if subject.state.config is not None:
            yield Fault(CONFIG, what, Fate.RESTORED, "the manifest has it; --mend writes it again from there")
        else:
            follows = "`bcpg-cluster iterate` with the config that made the run writes it again; it refuses any other"
            yield Fault(CONFIG, what, Fate.REMADE, follows)


def _steps_problem(subject: Subject, round_: int, num_steps: int) -> str | None:
    try:
        lines = (subject.run_dir / steps_path(round_)).read_bytes().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
    except FileNotFoundError:
        return "is not there"
    except (ValueError, KeyError, TypeError):
        return "cannot be read"
    first = steps[0] if steps else 0
    return None if steps == list(range(first, first + num_steps)) else "lacks steps"


def _mark_fault(subject: Subject) -> Iterator[Fault]:
    path = subject.run_dir / MARK
    if path.exists() and not is_mark(path.read_bytes()):
        yield Fault(MARK, "is not what was written", Fate.RESTORED, "--mend, or the next `iterate`, writes another")


def strays(subject: Subject) -> list[str]:
    """Files among shards and snapshots that no line of the manifest names: of attempts that were lost, or set aside by --mend."""
    if not isinstance(subject.run_dir, Path):
        return []  # listing a store can cost more than all that is checked
    state = subject.state
    known = {receipt.path for shards in state.shards.values() for receipt in shards.values()}
    known |= {report_path(round_) for round_ in state.reports}
    folders = [record.path for record in state.snapshots.values() if record.path]
    untrained = {round_ for round_, _ in state.shards if round_ not in state.snapshots}
    folders += [folder(round_) for round_ in untrained for folder in (checkpoint_path, decoded_path)]
    found = []
    for root in ("rounds", "snapshots"):
        for path in sorted((subject.run_dir / root).rglob("*")):
            name = path.relative_to(subject.run_dir).as_posix()
            is_known = name in known or any(name.startswith(f"{folder}/") for folder in folders)
            if path.is_file() and (not is_known or is_set_aside(name)):
                found.append(name)
    return found
