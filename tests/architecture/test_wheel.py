"""A wheel has all that the program reads, and works in an empty directory, away from this checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.archives import unpack

ROOT = Path(__file__).parents[2]
INSTALLED_AS = {
    "bcpg_cluster/": "bcpg_cluster/",
    "cli/bcpg_cluster_cli/": "bcpg_cluster_cli/",
    "configs/": "bcpg_cluster/configs/",
}
BUILD = "from setuptools import build_meta; import sys; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

pytestmark = pytest.mark.slow


def call(*command: object, at: Path, **environment: str) -> str:
    """What a command prints; an assertion with its errors where it fails."""
    ended = subprocess.run(
        list(map(str, command)),
        cwd=at,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def tracked() -> list[str]:
    return call("git", "ls-files", "-z", at=ROOT).split("\0")[:-1]


def build(kind: str, source: Path, out: Path) -> Path:
    """``build_wheel`` or ``build_sdist``, with the setuptools that is here."""
    return out / call(sys.executable, "-c", BUILD, kind, out, at=source).splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive of the tracked files alone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():  # not one that is being removed
            (source / name).write_bytes((ROOT / name).read_bytes())
    return {"sdist": build("build_sdist", source, out), "wheel": build("build_wheel", source, out)}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a directory of its own; what it depends on is this interpreter's."""
    target = tmp_path_factory.mktemp("installed") / "site"
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, built["wheel"], at=ROOT)
    return target


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_every_tracked_file_of_the_packages_is_in_it(built: dict[str, Path]) -> None:
    wanted = {
        installed + name.removeprefix(folder)
        for name in tracked()
        for folder, installed in INSTALLED_AS.items()
        if name.startswith(folder) and (ROOT / name).is_file()
    }
    found = contents(built["wheel"])
    assert sorted(wanted - found) == []
    assert sorted(found - wanted) == []


def test_the_source_archive_makes_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    unpack(built["sdist"], tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "LICENSE").is_file() and (source / "README.md").is_file()
    again, first = zipfile.ZipFile(build("build_wheel", source, tmp_path)), zipfile.ZipFile(built["wheel"])
    names = contents(built["wheel"])
    assert {name: again.read(name) for name in names} == {name: first.read(name) for name in names}


def test_what_it_says_of_itself(built: dict[str, Path]) -> None:
    wheel = zipfile.ZipFile(built["wheel"])
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    said = wheel.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in said
    assert re.search(r"^Requires-Dist: huggingface-hub", said, flags=re.MULTILINE)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def bcpg(installed: Path, at: Path, *arguments: object) -> str:
    """The wheel's own command, with its own files."""
    script = installed / "bin" / "bcpg-cluster"
    return call(sys.executable, script, *arguments, at=at, PYTHONPATH=str(installed), COLUMNS="200")


def test_the_command_runs_from_it(installed: Path, tmp_path: Path) -> None:
    place = call(
        sys.executable, "-c", "import bcpg_cluster as b; print(b.__file__)", at=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(place.strip()).is_relative_to(installed)
    assert "iterate" in bcpg(installed, tmp_path, "--help")
    assert str(installed) not in bcpg(installed, tmp_path, "--version")


def test_the_shipped_default_is_valid(installed: Path, tmp_path: Path) -> None:
    said = json.loads(bcpg(installed, tmp_path, "validate", "--json"))
    assert said["good"] is True and said["judges"] == ["llm", "prm", "truth"]


def test_init_writes_a_config(installed: Path, tmp_path: Path) -> None:
    chain = installed / "bcpg_cluster" / "assets" / "chain"
    arguments = ("--model", chain / "policy", "--train", chain / "prompts" / "train.jsonl", "--out", "mine.yaml")
    bcpg(installed, tmp_path, "init", *arguments)
    written = (tmp_path / "mine.yaml").read_text()
    assert str(chain / "policy") in written and str(ROOT) not in written
