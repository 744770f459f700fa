"""The main job in an object store whose puts fail now and then: pieces are done again, and the results are the same."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.store.fetched import CACHE_VARIABLE
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import StoredPath, run_path


def test_a_store_that_fails_now_and_then(
    run_rounds: Callable[..., Any],
    make_config: Callable[..., Config],
    finished_run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    run_dir = run_path("memory://tests/now_and_then")
    assert isinstance(run_dir, StoredPath)
    put, turn, guard = MemoryFileSystem.pipe_file, itertools.count(1), threading.Lock()

    def unsteady(self: Any, path: str, value: bytes, **options: Any) -> None:
        if path.endswith(".parquet") and "/prompts/" not in path:  # what members write
            with guard:
                fails = next(turn) % 6 == 0
            if fails:
                raise ConnectionResetError("by peer")
        put(self, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", unsteady)
    try:
        reports: dict[int, dict[str, Any]] = {}
        for _ in range(5):  # prompts of the evaluation are written by the coordinator, for whom it ends the process
            try:
                reports = run_rounds(run_dir, make_config(), 1).reports
                break
            except BcpgError as error:
                assert "by peer" in str(error)
        for key in ("accuracy", "accuracy_greedy", "samples", "mined_share", "per_problem"):
            assert reports[1][key] == finished_run.reports[1][key]
        faults = read_manifest(run_dir).faults
        assert faults
        assert all("ConnectionResetError: by peer" in fault.cause for fault in faults)
    finally:
        run_dir.remove_tree()
