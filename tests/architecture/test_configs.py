"""Shipped configs load, and documentation names only what there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bcpg_cluster.config.embedded import EMBEDDED, resolve_asset
from bcpg_cluster.config.load import load_config, shipped_configs
from bcpg_cluster.errors import UserError
from bcpg_cluster.run.build.judges import load_judge_prompt
from bcpg_cluster.run.preflight.models import check_models
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster_cli.app import app

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.is_file()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_loads(path: Path):
    config = load_config(path)
    assert config.voters
    for judge in config.judges.values():
        if judge.kind == "llm":
            load_judge_prompt(judge.prompt)
    if config.prompts.train.startswith(EMBEDDED) and config.prompts.test.startswith(EMBEDDED):
        assert len(read_all_prompts(config).test) >= 400
    if any(
        name.startswith(EMBEDDED) for name in (config.policy.model, *(j.model or "" for j in config.judges.values()))
    ):
        check_models(config)


def test_configs_are_found_by_name():
    names = shipped_configs()
    assert sorted(names.values()) == CONFIGS
    assert {"laptop", "one-gpu", "ablations/rft"} <= set(names)
    for name in names:
        assert load_config(name) == load_config(names[name])


def test_every_shipped_judge_prompt_loads():
    folder = Path(resolve_asset("embedded:judge_prompts"))
    for path in folder.glob("*.toml"):
        load_judge_prompt(f"embedded:{path.stem}")
        load_judge_prompt(str(path))


def _code_lines(text: str) -> Iterator[str]:
    """Lines of fenced blocks, continuation lines joined, and inline code."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.S | re.M):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def _commands(text: str) -> Iterator[str]:
    for line in _code_lines(text):
        found = re.match(r"(?:\$ |\.venv/bin/)*bcpg-cluster\s+(.*)", line.strip())
        if found:
            yield re.split(r"\s+#|\s\||\s&&|\s>", found[1])[0]


def _check(line: str) -> str | None:
    """What is wrong with the words after ``bcpg-cluster``, if anything."""
    root: Any = typer.main.get_command(app)
    words = [word for word in shlex.split(line.replace("[", " ").replace("]", " ")) if word not in ("...", "…")]
    command = root
    if words and not words[0].startswith("-"):
        if words[0] not in root.commands:
            return f"no command {words[0]!r}"
        command = root.commands[words[0]]
        if words[1:] and words[1] in getattr(command, "commands", {}):  # a command of a group: reproduce rerun
            command = command.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts} | {
        "--help",
        "-h",
        "--install-completion",
        "--show-completion",
    }
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    return f"unknown options {unknown}" if unknown else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_commands_that_exist(path: Path):
    wrong = {line: problem for line in _commands(path.read_text()) if (problem := _check(line))}
    assert wrong == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_configs_that_exist(path: Path):
    named = re.findall(r"configs/((?:ablations/)?[A-Za-z0-9._-]+\.yaml)", path.read_text())
    assert [name for name in named if not (ROOT / "configs" / name).is_file()] == []


def test_the_checker_itself_can_fail():
    assert list(
        _commands("```sh\n$ bcpg-cluster iterate --rounds 3  # go\n```\nand `bcpg-cluster status --json`.")
    ) == [
        "iterate --rounds 3",
        "status --json",
    ]
    assert _check("iterate --rounds 3 -c x.yaml --set weigh.beta=-1") is None
    assert _check("iterrate") == "no command 'iterrate'"
    assert _check("iterate --turns 3") == "unknown options ['--turns']"
    assert _check("--help") is None
    with pytest.raises(UserError):
        load_config("no-such-config")
