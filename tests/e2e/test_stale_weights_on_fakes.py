"""Weights that did not arrive as they were sent: nothing is drawn from them, and the same command heals the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.store.manifest import read_manifest
from tests.reports import what_counts

_RECEIVE = FakeGenerator.receive_weights


def _flipped(engine: FakeGenerator, specs: Any, version: int) -> dict[str, str]:
    return dict.fromkeys(_RECEIVE(engine, specs, version), "0" * 64)


def _left_out(engine: FakeGenerator, specs: Any, version: int) -> dict[str, str]:
    _RECEIVE(engine, specs, version)
    return {}


def _answers_as_before(engine: FakeGenerator, specs: Any, version: int) -> dict[str, str]:
    """As an engine whose tied head was packed from the old weights, or that was sent them without their adapters."""
    before = engine.skill
    digests = _RECEIVE(engine, specs, version)
    engine.skill = before
    return digests


@pytest.mark.parametrize(
    ("receive", "words"),
    [
        (_flipped, "1 parameters differ from the snapshot"),
        (_left_out, "1 did not arrive"),
        (_answers_as_before, "do not hold the weights"),
    ],
)
def test_a_bad_push_ends_the_run_before_a_rollout(
    receive: Callable[..., dict[str, str]],
    words: str,
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    finished_run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken, pytest.raises(PushError, match=words):
        broken.setattr(FakeGenerator, "receive_weights", receive)
        run_rounds(tmp_path / "run", make_config(), 3)
    state = read_manifest(tmp_path / "run")
    assert state.pushes.keys() <= {0}
    assert state.receipts(1, "eval_rollouts") == []  # the first that version 1 would be asked for
    assert state.receipts(2, "rollouts") == []
    healed = run_rounds(tmp_path / "run", make_config(), 3)
    assert healed.reports.keys() == finished_run.reports.keys()
    for round_, report in finished_run.reports.items():
        assert what_counts(healed.reports[round_]) == what_counts(report)
