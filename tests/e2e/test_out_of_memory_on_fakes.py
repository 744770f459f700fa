"""A member that runs out of memory: it is replaced and its work tried again, or the run stops and says what to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import EngineError, StartRefusedError
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.generate.engine_start import refusing_starts
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.observer import Faulted
from tests.reports import what_counts
from tests.told import Heard

PARTS: list[Any] = [(FakeGenerator, "generate", "rollouts"), (FakeJudge, "judge", "verdicts.llm")]


class _Failing:
    """A method that lacks memory in its first ``number`` calls."""

    def __init__(self, method: Any, number: int) -> None:
        self.method, self.left = method, number

    def __get__(self, engine: Any, kind: Any) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.left:
                self.left -= 1
                raise MemoryError
            return self.method(engine, *args, **options)

        return call


@pytest.mark.parametrize(("part", "method"), [row[:2] for row in PARTS])
def test_once_is_mended(
    part: type,
    method: str,
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_rounds(tmp_path / "plain", make_config(), 1)
    heard = Heard()
    monkeypatch.setattr(part, method, _Failing(getattr(part, method), 1))
    run = run_rounds(tmp_path / "run", make_config(), 1, heard)
    assert any("out of memory: MemoryError" in str(event) for event in heard.of(Faulted))
    assert what_counts(run.reports[1], faults=False) == what_counts(plain.reports[1])


@pytest.mark.parametrize(("part", "method", "table"), PARTS)
def test_again_and_again_stops_the_run_with_a_remedy(
    part: type,
    method: str,
    table: str,
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part, method, _Failing(getattr(part, method), 10**6))
    with pytest.raises(EngineError, match=r"out of memory: MemoryError(.|\n)*remedy: give its pool fewer members"):
        run_rounds(tmp_path / "run", make_config(), 1)
    state = read_manifest(tmp_path / "run")
    assert not [receipt for receipt in state.receipts(1, table) if receipt.num_rows]


def test_an_engine_without_memory_at_its_start_stops_the_run(
    run_rounds: Callable[..., Any], make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vLLM's engines do, which start inside ``refusing_starts``: another try would end the same."""

    def no_memory(*args: Any, **options: Any) -> None:
        with refusing_starts("fake"):
            raise MemoryError("12 GiB for the KV cache")

    monkeypatch.setattr(FakeGenerator, "__init__", no_memory)
    with pytest.raises(
        StartRefusedError, match=r"MemoryError: 12 GiB for the KV cache(.|\n)*remedy: mend the engine_args"
    ):
        run_rounds(tmp_path / "run", make_config(), 1)
    assert read_manifest(tmp_path / "run").receipts(1, "rollouts") == []
