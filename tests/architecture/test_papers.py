"""The project's papers: how to cite it, and under which licence what is."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import bcpg_cluster

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "bcpg_cluster" / "assets"


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_has_what_its_format_needs(citation: dict[str, Any]) -> None:
    """Citation File Format 1.2.0: these keys are required; authors are persons or named entities."""
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    for author in (*citation["authors"], *paper["authors"]):
        assert set(author) in ({"name"}, {"given-names", "family-names"})
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2505.14403"}]


def test_the_citation_is_of_this_version(citation: dict[str, Any], project: dict[str, Any]) -> None:
    assert citation["version"] == bcpg_cluster.__version__
    assert citation["license"] == project["license"]


def test_its_date_is_that_of_the_changelog(citation: dict[str, Any]) -> None:
    """A version that is not released has no date, as it has none in the changelog."""
    heading = re.search(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None and heading[1] == citation["version"]
    if heading[2] == "unreleased":
        assert "date-released" not in citation
    else:
        assert citation["date-released"] == datetime.date.fromisoformat(heading[2])


def test_licence_files_go_into_the_wheel(project: dict[str, Any]) -> None:
    assert project["license-files"] == ["LICENSE", "LICENSE-ASSETS.md"]
    assert all((ROOT / name).is_file() for name in project["license-files"])


def test_every_asset_has_a_maker_and_a_licence() -> None:
    text = (ROOT / "LICENSE-ASSETS.md").read_text()
    made_by = json.loads((ASSETS / "made_by.json").read_text())
    folders = {"/".join(name.split("/")[:2]) for name in made_by["files"]}
    assert all(f"`{folder}`" in text for folder in folders)
    assert all(f"`scripts/{name}`" in text for name in made_by["scripts"] if name.startswith("sums/"))
    others = {path.name for path in ASSETS.iterdir() if path.suffix not in (".py", "")} - {"made_by.json"}
    assert all(f"`{name}`" in text for name in others)
    assert {path.name for path in ASSETS.iterdir() if path.is_dir() and not path.name.startswith("_")} == {
        "chain", "judge_prompts", "sums"
    }  # fmt: skip


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("*/make_*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_assets_are_made_from_nothing_of_others(script: Path) -> None:
    """What a maker loads is a directory it was given, never a name on a hub or an address."""
    text = script.read_text()
    assert not re.search(r"load_dataset|https?://|hf_hub_download|snapshot_download", text)
    assert not re.search(r"from_pretrained\(\s*[\"']", text)
