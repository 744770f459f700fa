"""What the tests share: prompt files, a config of fakes, and runs on them in this process. No engine, no Ray."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.watch.observer import SilentObserver
from bcpg_cluster_cli import app as command_line
from tests.prompt_files import write_prompts
from tests.proofs import (  # noqa: F401  (hooks)
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.real_run import real_run  # noqa: F401  (a fixture)
from tests.two_workers import pytest_xdist_make_scheduler  # noqa: F401  (a hook)

# Slow machines are no findings.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

FAKES = Path(__file__).parent / "unit" / "fakes.yaml"


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A train and a test file of the embedded task."""
    folder = tmp_path_factory.mktemp("prompts")
    rng, taken = random.Random(5), set[str]()
    write_prompts(folder / "train.jsonl", 40, "a", rng, taken)
    write_prompts(folder / "test.jsonl", 24, "t", rng, taken)
    return folder / "train.jsonl", folder / "test.jsonl"


@pytest.fixture(scope="session")
def fakes_content(prompt_files: tuple[Path, Path]) -> Callable[[], dict[str, Any]]:
    """A fresh copy of the config of fakes, as plain data."""

    def make() -> dict[str, Any]:
        content = yaml.safe_load(FAKES.read_text())
        content["prompts"] |= {"train": str(prompt_files[0]), "test": str(prompt_files[1])}
        return content

    return make


@pytest.fixture(scope="session")
def make_config(fakes_content: Callable[[], dict[str, Any]]) -> Callable[..., Config]:
    """``make_config(weigh={"beta": 0})``: the config of fakes with some sections changed."""

    def make(**sections: Any) -> Config:
        content = fakes_content()
        for name, value in sections.items():
            content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
        return parse_config(content, "test")

    return make


@pytest.fixture(scope="session")
def config_file(fakes_content: Callable[[], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of fakes as a file, for the command line."""
    path = tmp_path_factory.mktemp("config") / "fakes.yaml"
    path.write_text(yaml.safe_dump(fakes_content()))
    return path


@dataclass
class Run:
    """A run that was driven in this process; its reports as JSON has them."""

    directory: Path
    config: Config
    reports: dict[int, dict[str, Any]]


@pytest.fixture(scope="session")
def run_rounds() -> Callable[..., Run]:
    """``run_rounds(directory, config, rounds)``: iterate in this process, on threads."""

    def run(directory: Path, config: Config, rounds: int, observer: Any = None) -> Run:
        runtime = InlineRuntime()
        with open_run(directory, config) as manifest:
            try:
                coordinator = build_coordinator(
                    config, manifest, runtime, observer or SilentObserver(), lambda: False, read_all_prompts(config)
                )
                done = coordinator.run(rounds)
                return Run(directory, config, {round_: report.plain() for round_, report in done.items()})
            finally:
                runtime.shutdown()

    return run


@pytest.fixture(scope="session")
def finished_run(
    run_rounds: Callable[..., Run], make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Three rounds on fakes, done once, one thing after the other, so that its journal may be cut anywhere. Read it; copy it to
    change it.
    """
    return run_rounds(tmp_path_factory.mktemp("runs") / "finished", make_config(pipeline="serial"), 3)


@pytest.fixture(scope="session")
def tree_digest() -> Callable[..., dict[str, str]]:
    """Every file below a directory with the digest of its content, and directories; ``ignore`` leaves names out."""

    def digest(root: Path, ignore: tuple[str, ...] = ()) -> dict[str, str]:
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "directory"
            for path in sorted(root.rglob("*"))
            if path.name not in ignore
        }

    return digest


@dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def bcpg(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bcpg-cluster", *map(str, arguments)])
        code = 0
        try:
            command_line.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
