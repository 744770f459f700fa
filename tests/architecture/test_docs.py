"""The pages tell the truth where a machine can see it: generated ones are up to date, links lead somewhere, names exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest
import yaml
from pydantic import BaseModel

from bcpg_cluster.config.load import load_config, shipped_configs
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import key_of, section_in
from bcpg_cluster.stages.train.objective import OBJECTIVES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    for path, content in generator.pages().items():
        assert path.read_bytes() == content.encode(), f"run `python scripts/make_docs.py`: {path.name} is out of date"


@pytest.fixture(scope="module")
def config_tables() -> dict[str, dict[str, list[str]]]:
    """Every table of docs/config.md by its heading: the cells beside each key."""
    found: dict[str, dict[str, list[str]]] = {}
    for block in re.split(r"^#+ ", (ROOT / "docs" / "config.md").read_text(), flags=re.MULTILINE)[1:]:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines() if line.startswith("| `")]
        heading = block.partition("\n")[0].replace("`", "")
        found[heading] = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    return found


def test_every_config_key_has_a_sentence_of_its_own(config_tables: dict[str, dict[str, list[str]]]) -> None:
    sections = {
        "Top level": [name for name, info in Config.model_fields.items() if section_in(info.annotation) is None]
    }
    sections |= {f"objective {name}": option_names(kind) for name, kind in OBJECTIVES.items()}
    sections |= {path: [key_of(field) for field in section.model_fields] for path, section in sections_of(Config, "")}
    assert len(sections) > 25
    for path, keys in sections.items():
        sentences = {key: cells[-1] for key, cells in config_tables[path].items()}
        assert set(sentences) == set(keys), path
        assert all(len(text) > 10 for text in sentences.values()), path
        assert len(set(sentences.values())) == len(keys), f"{path}: two keys with the same sentence"


def option_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.name != "name"]


def sections_of(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in section.model_fields.items():
        if (inner := section_in(info.annotation)) is not None:
            path = f"{prefix}{name}" + (".<name>" if get_origin(info.annotation) is dict else "")
            yield path, inner
            yield from sections_of(inner, f"{path}.")


@pytest.mark.parametrize(
    ("when", "keys"),
    [
        ("any start", "placement autoscaling storage.options judges.<name>.cache pools.<name>.min push.deadline_s"),
        ("`stage segment`", "segment.kind weigh.min_verified_share"),
        ("`stage weigh`", "weigh.beta judges.<name>.threshold judges.<name>.role objective"),
        ("`stage train`", "train.learning_rate train.lora train.lora.rank"),
        ("", "seed policy.model push.backend judges.<name>.model judges.<name>.endpoint.base_url evaluate.greedy"),
    ],
)
def test_the_config_page_says_when_a_key_may_change(
    config_tables: dict[str, dict[str, list[str]]], when: str, keys: str
) -> None:
    for path in keys.split():
        section, _, key = path.rpartition(".")
        assert config_tables[section or "Top level"][key][2] == when, path


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if fragment:
            assert fragment in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in backticks, from the repository's root or the package's."""
    roots = [ROOT, ROOT / "bcpg_cluster"]
    named = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]+\.(?:py|yaml|toml|md|sh))`", page.read_text())
    pages_to_come = {"docs/results.md"}  # written from measured runs
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert not set(missing) - pages_to_come


def test_design_draws_the_layers_that_are_checked() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    checked = [sorted(name.strip().removeprefix("bcpg_cluster.") for name in layer.split("|")) for layer in layers]
    drawn = (
        (ROOT / "docs" / "design.md").read_text().partition("Imports go down only:\n\n```text\n")[2].partition("```")[0]
    )
    assert [sorted(line.split()) for line in drawn.splitlines()] == checked


def test_design_names_every_room() -> None:
    drawn = (ROOT / "docs" / "design.md").read_text().partition("## Rooms")[2].partition("## ")[0]
    for path in (ROOT / "bcpg_cluster").iterdir():
        if path.name.startswith("_") or path.suffix not in ("", ".py") or path.name == "configs":
            continue
        assert re.search(rf"^  {path.name}{'/' if path.is_dir() else ''}\s", drawn, re.MULTILINE), path.name


def test_the_readmes_config_is_one(tmp_path: Path) -> None:
    """The example's keys are real ones (its values are placeholders)."""
    block = (ROOT / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    content = yaml.safe_load(block.replace("...", "some-model"))
    path = tmp_path / "readme.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_config(path).name == "my-run"


def test_commands_in_the_readme_exist() -> None:
    from typer.main import get_command

    from bcpg_cluster_cli.app import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`bcpg-cluster ([\w-]+)", (ROOT / "README.md").read_text()))
    assert named == commands


def test_shipped_configs_are_named_somewhere() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"{name}.yaml" in text for name in shipped_configs())


def test_overview_walk_can_be_filled(generator: ModuleType, tmp_path: Path) -> None:
    copy = tmp_path / "overview.md"
    shutil.copy(ROOT / "docs" / "overview.md", copy)
    assert len(generator.WALK.findall(copy.read_text())) == 1


def test_our_keys_in_the_page_for_newcomers_are_keys(config_tables: dict[str, dict[str, list[str]]]) -> None:
    table = (
        (ROOT / "docs" / "coming-from.md").read_text().partition("## Their config, our config")[2].partition("\n## ")[0]
    )
    ours = re.findall(r"`([a-z_.]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    known = {key for section, keys in config_tables.items() for key in (*keys, *(f"{section}.{key}" for key in keys))}
    known |= {section.partition(".")[0] for section in config_tables}
    known |= {"mask", "colocated", "tensor_parallel_size", *OBJECTIVES}  # values, and a key of vLLM's
    assert len(ours) > 30
    assert {re.sub(r"^pools\.\w+", "pools.<name>", key) for key in ours} <= known


def test_reward_wrappers_for_newcomers_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on functions with the signatures of each project."""

    def reward(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(completions[0] == answer[0])]

    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
        return float(solution_str == ground_truth)

    def reward_func(queries: list[str], prompts: list[str], labels: list[str], **_: Any) -> dict[str, Any]:
        return {"rewards": [float(queries[0] == prompts[0] + labels[0])]}

    theirs = ModuleType("theirs")
    vars(theirs).update(reward=reward, compute_score=compute_score, reward_func=reward_func)
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    names: dict[str, Any] = {}
    exec((ROOT / "docs" / "coming-from.md").read_text().partition("```python\n")[2].partition("```")[0], names)
    for score, response in ((1.0, "4"), (0.0, "5")):
        assert names["from_trl"]("2+2=", response, "4") == score
        assert names["from_verl"](response, "4") == score
        assert names["from_openrlhf"]("2+2=", response, "4") == score
