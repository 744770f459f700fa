"""Whatever file of a run is damaged, however: the same command, or what ``verify`` says, ends in the undisturbed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.store.layout import MANIFEST
from tests.chaos.damage import KINDS, Contents, contents_of, damage_and_resume, files_of, interrupt

ROUNDS = 2
UNNAMED = ("live.json", "mark.txt", "reports/", MANIFEST)
"""Damage that may go unnamed: nothing depends on these files, a cut manifest is what a kill leaves, a deleted one is no run."""


@dataclass(frozen=True)
class Runs:
    """A run in states, by name, and what each of them has to come to."""

    config: Config
    states: dict[str, Path]
    undisturbed: Contents


@pytest.fixture(scope="module")
def runs(
    make_config: Callable[..., Config], run_rounds: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    config = make_config(prompts={"per_round": 8}, evaluate={"num_prompts": 8, "prompts_per_shard": 4})
    finished = run_rounds(tmp_path_factory.mktemp("runs") / "finished", config, ROUNDS).directory
    events = [json.loads(line) for line in (finished / MANIFEST).read_bytes().splitlines()]
    states = {"finished": finished}
    for name, table in (("before training", "weighted"), ("before the snapshot", "reference")):
        states[name] = finished.with_name(name.replace(" ", "-"))
        shutil.copytree(finished, states[name])
        sealed = next(
            n for n, e in enumerate(events, 1) if e["event"] == "sealed" and (e["round"], e["table"]) == (2, table)
        )
        interrupt(states[name], sealed)
    return Runs(config, states, contents_of(finished))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["finished", "before training", "before the snapshot"])
def test_every_file(state: str, kind: Any, runs: Runs, tmp_path: Path):
    """Each in one way; `make drills` has all ways."""
    files = files_of(runs.states[state])
    assert len(files) > 40
    for file in files[KINDS.index(kind) :: len(KINDS)]:
        ended = damage_and_resume(
            runs.states[state], tmp_path / "run", file, kind, runs.config, ROUNDS, runs.undisturbed
        )
        assert ended.is_good, ended
        assert ended.is_named or file.startswith(UNNAMED), ended


def test_some_files(runs: Runs, tmp_path: Path):
    """A shard that is needed, one that is restored without an engine, one that only `stage` brings back."""
    wanted = {
        ("before training", "rounds/0002/rollouts/00000"): ["iterate"],
        ("finished", "rounds/0001/outcomes/00001"): ["iterate", "mend", "iterate"],
        ("finished", "rounds/0002/rollouts/00000"): ["iterate", "mend", "iterate", "stage generate", "stage", "iterate"],
    }  # fmt: skip
    for (state, start), steps in wanted.items():
        file = next(name for name in files_of(runs.states[state]) if name.startswith(start))
        ended = damage_and_resume(
            runs.states[state], tmp_path / "run", file, "flipped", runs.config, ROUNDS, runs.undisturbed
        )
        assert ended.is_good and ended.is_named, ended
        assert len(ended.steps) == len(steps) and all(map(str.startswith, ended.steps, steps)), ended
