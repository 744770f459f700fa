"""Which Pythons the set-up can serve: the pins fit together under each, and the index has every pinned wheel for it.

No other interpreter is needed, and no wheel is downloaded: the index lists names, pip picks among them. PyTorch's CPU build is
in an index of its own (scripts/setup.sh); here its release of the same number is asked about.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bcpg_cluster_cli.runs import doctor, python_rule
from bcpg_cluster_cli.runs.python_rule import refusal

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SET_UP_EXTRAS = ("cpu", "dev", "docs", "notebook", "tensorboard", "trackio", "wandb", "mlflow")
COMPILED_ON_THE_SPOT = {"pycosat"}
"""No wheel for any Python: pip compiles it (reasoning-gym wants it, so `setup dev` alone)."""


GOOD = {
    "version": (3, 12),
    "implementation": "CPython",
    "system": "Linux",
    "machine": "x86_64",
    "glibc": (2, 36),
    "has_gil": True,
}


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_these_pythons_are_taken(version: tuple[int, int]) -> None:
    assert refusal(**(GOOD | {"version": version})) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": (3, 10)}, "CPython 3.10 has no wheel of some pinned packages"),
        ({"version": (3, 15)}, "CPython 3.15 has no wheel of some pinned packages"),
        ({"implementation": "PyPy"}, "PyPy 3.12 has no wheel of some pinned packages"),
        ({"version": (3, 14), "has_gil": False}, "CPython 3.14 (free-threaded) has no wheel"),
        ({"system": "Darwin", "machine": "arm64"}, "Darwin on arm64 has no wheel of the pinned packages"),
        ({"machine": "riscv64"}, "Linux on riscv64 has no wheel of the pinned packages"),
        ({"glibc": (2, 28)}, "glibc 2.28 has no wheel of some pinned packages"),
        ({"glibc": None}, "another C library than glibc has no wheel of some pinned packages"),
    ],
)
def test_a_python_without_wheels_is_refused_in_a_sentence(change: dict[str, object], named: str) -> None:
    problem, remedy = refusal(**(GOOD | change))
    assert problem.startswith(named)
    assert remedy and "\n" not in problem + remedy


def test_doctor_asks_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.examine()[0].state == "ok"
    monkeypatch.setattr(python_rule.platform, "python_implementation", lambda: "PyPy")
    found = doctor.examine()[0]
    assert (found.what, found.state) == ("python", "missing")
    assert "PyPy 3." in found.found and "has no wheel of some pinned packages" in found.found
    assert found.remedy.startswith("install CPython 3.11 to 3.14")


def test_the_rule_is_read_by_an_old_python() -> None:
    ast.parse((ROOT / "cli/bcpg_cluster_cli/runs/python_rule.py").read_text(), feature_version=(3, 4))


def test_setup_asks_before_it_downloads(tmp_path: Path) -> None:
    """The real script, with a Python that says it is another."""
    for name in ("scripts/setup.sh", "cli/bcpg_cluster_cli/runs/python_rule.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    fake = tmp_path / "python3.9"
    fake.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys, runpy; sys.version_info = (3, 9, 2); '
        "runpy.run_path('$1', run_name='__main__')\"\n"
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "scripts/setup.sh", "run"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(fake)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "set-up: CPython 3.9 has no wheel of some pinned packages (Ray, PyTorch, vLLM)\n"
        "  remedy: install CPython 3.11 to 3.14 (tests run on 3.11) and set PYTHON to it\n"
    )
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_fit_together(python: str) -> None:
    """Every requirement that holds under this Python, ours and theirs, has a pin that satisfies it."""
    pins = _pins()
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.9"}
    reached: set[tuple[str, str]] = set()
    wrong = []
    todo = [(_ours(extra), extra, "bcpg-cluster") for extra in ("", *SET_UP_EXTRAS)]
    while todo:
        requirements, extra, by = todo.pop()
        for requirement in requirements:
            if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            if name in LEFT_OUT:
                continue
            if name not in pins or not requirement.specifier.contains(pins[name], prereleases=True):
                wrong.append(f"{by} wants {requirement}, pinned: {pins.get(name)}")
                continue
            for wanted in ("", *requirement.extras):
                if (name, wanted) not in reached:
                    reached.add((name, wanted))
                    todo.append((_theirs(name), wanted, name))
    assert not wrong
    assert len(reached) > 150
    too_narrow = [name for name, _ in reached if not _python_range(name).contains(f"{python}.9")]
    assert not too_narrow


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS[1:])
def test_the_index_has_every_pinned_wheel(python: str) -> None:
    """pip's own choice among the index's files, for each pin that is built for one Python."""
    pins = _pins()
    asked = sorted(name for name in pins if _is_for_one_python(name))
    assert len(asked) > 40
    if not _wheels("safetensors", python):
        pytest.skip("the package index cannot be reached")
    with ThreadPoolExecutor(4) as threads:
        found = dict(zip(asked, threads.map(lambda name: _wheels(name, python), asked), strict=True))
    answered = {name: versions for name, versions in found.items() if versions is not None}
    if len(answered) <= 40:
        pytest.skip(f"the package index answered for {len(answered)} of {len(asked)} packages")
    lacking = {name for name, versions in answered.items() if pins[name].removesuffix("+cpu") not in versions}
    assert lacking <= COMPILED_ON_THE_SPOT


LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton", "setuptools"}
"""What scripts/setup.sh uninstalls, and setuptools, which `pip freeze` leaves out."""


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version.strip() for name, _, version in pairs}
    return pins | {"torch": f"{pins['torch']}+cpu"}


def _ours(extra: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        Requirement(text) for text in (project["optional-dependencies"][extra] if extra else project["dependencies"])
    ]


def _theirs(name: str) -> list[Requirement]:
    return [Requirement(text) for text in importlib.metadata.requires(name) or ()]


def _python_range(name: str) -> SpecifierSet:
    return SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python") or "")


def _is_for_one_python(name: str) -> bool:
    """Whether what is installed here is neither pure Python nor of the stable ABI."""
    try:
        tags = list(_tags(name))
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(re.fullmatch(r"cp3\d+-cp3\d+-.*", tag) for tag in tags)


def _tags(name: str) -> Iterator[str]:
    for line in (importlib.metadata.distribution(name).read_text("WHEEL") or "").splitlines():
        key, _, value = line.partition(": ")
        if key == "Tag":
            yield value


def _wheels(name: str, python: str) -> set[str] | None:
    """The versions with a wheel for this Python and platform; ``None`` where the index cannot be reached, or not in two minutes."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "index",
        "versions",
        name,
        "--python-version",
        python,
        "--only-binary=:all:",
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    _, _, versions = said.stdout.partition("Available versions: ")
    if not versions and ("Retrying" in said.stderr or "No matching distribution" not in said.stderr):
        return None
    return set(versions.partition("\n")[0].split(", ")) if versions else set()
