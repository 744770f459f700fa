"""The list of tests that must be run: a session that skips one of them, or never meets it, fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.proofs import LIST, read_list

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest
def test_good(): pass
def test_skipped(): pytest.skip("no browser")
@pytest.fixture
def browser(): pytest.skip("no browser either")
def test_set_up_skips(browser): pass
def test_bad(): assert False
@pytest.mark.parametrize("n", [1, 2])
def test_each(n): assert n
@pytest.mark.parametrize("n", [1, 2])
def test_some(n):
    if n == 2: pytest.skip("no two")
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_in_both(n): pass
"""
QUICK, SLOW = ("-m", "not slow", "--require-cluster-tests=quick"), ("-m", "slow", "--require-cluster-tests=slow")


def session(folder: Path, entries: list[str], *arguments: str) -> tuple[int, str]:
    """A pytest session of its own, with this list."""
    (folder / "cluster").mkdir(exist_ok=True)
    (folder / "cluster" / "REQUIRED").write_text("\n".join(entries))
    (folder / "proofs.py").write_text((ROOT / "tests" / "proofs.py").read_text())
    (folder / "test_a.py").write_text(TESTS)
    (folder / "test_whole.py").write_text("import pytest; pytest.importorskip('no_such_package'); def_ = 1")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "proofs", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={"PATH": "", "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("entry", "arguments", "code", "said"),
    [
        ("test_a.py::test_good", ["test_a.py::test_good"], 0, "test_a.py::test_good  1 passed"),
        ("test_a.py::test_each", ["test_a.py::test_each"], 0, "2 passed"),
        ("test_a.py::test_skipped", ["test_a.py::test_skipped"], 1, "1 skipped (Skipped: no browser)"),
        ("test_a.py::test_set_up_skips", ["test_a.py::test_set_up_skips"], 1, "1 skipped (Skipped: no browser either)"),
        ("test_a.py::test_some", ["test_a.py::test_some"], 1, "1 passed, 1 skipped"),
        ("test_a.py::test_gone", ["test_a.py::test_good"], 1, "NOT RUN"),
        ("test_a.py::test_good", ["test_a.py::test_each"], 1, "NOT RUN"),
        ("test_whole.py", ["test_whole.py", "test_a.py::test_good"], 1, "1 skipped"),
        ("test_a.py::test_bad", ["test_a.py::test_bad"], 1, "1 failed"),
    ],
)
def test_what_a_required_session_makes_of_it(
    tmp_path: Path, entry: str, arguments: list[str], code: int, said: str
) -> None:
    found, printed = session(tmp_path, [entry], "--require-cluster-tests=quick", *arguments)
    assert (found, said in printed) == (code, True), printed


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["in this process", "in a worker"])
def test_each_half_answers_for_its_own(tmp_path: Path, workers: tuple[str, ...]) -> None:
    names = ("good", "slow", "in_both", "skipped", "gone")
    entries = [f"test_a.py::test_{name}" for name in names]
    for half, missing in ((QUICK, ("skipped", "gone")), (SLOW, ("gone",))):
        code, printed = session(tmp_path, entries, "test_a.py", "-k", "not bad", *workers, *half)
        assert code == 1
        assert f"prove nothing: {', '.join(f'test_a.py::test_{name}' for name in missing)}. That" in printed, printed


@pytest.mark.parametrize("name", ["slow", "in_both"])
def test_a_half_that_leaves_its_own_out_fails(tmp_path: Path, name: str) -> None:
    entry = f"test_a.py::test_{name}"
    code, printed = session(tmp_path, [entry], "test_a.py::test_good", entry, "-k", "good", *SLOW)
    assert code == 1 and f"1 of 1 prove nothing: {entry}" in printed, printed


def test_without_the_option_a_skip_is_said_and_not_a_failure(tmp_path: Path) -> None:
    code, printed = session(tmp_path, ["test_a.py::test_skipped"], "test_a.py::test_skipped")
    assert code == 0 and "1 skipped (Skipped: no browser)" in printed


def test_the_list_names_tests_that_exist() -> None:
    for entry in read_list(LIST.read_text()):
        path, _, name = entry.partition("::")
        assert (ROOT / path).is_file(), entry
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(), entry
