"""What must be instant imports nothing heavy: checked in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

from tests.architecture.imports import VENDORS, files, imported

HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "scipy", "matplotlib")


def slim_modules() -> list[str]:
    """Every module that names no vendor at its own top level; none may import something heavy through another."""
    return sorted(
        name
        for name, path in files().items()
        if not {found.partition(".")[0] for found in imported(path, at_import_time=True)} & {*HEAVY, *VENDORS}
    )


def test_only_modules_that_name_something_heavy_load_it():
    modules = [name for name in slim_modules() if not name.startswith("bcpg_cluster.stages.train.objectives")]
    code = f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n    assert not heavy, (name, heavy)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_whole_rooms_are_slim():
    """These rooms name nothing heavy at the top of any file, so that configs, stores and runs are read without torch."""
    rooms = ("config", "prompts", "store", "cluster", "run", "watch", "comparison", "exchange", "stages.weigh")
    heavy = {
        name
        for name, path in files().items()
        if {found.partition(".")[0] for found in imported(path, at_import_time=True)} & set(HEAVY)
    }
    assert [name for name in heavy if name.startswith(tuple(f"bcpg_cluster.{room}." for room in rooms))] == []


def test_the_command_line_imports_no_more_than_it_shows():
    """`--help` must be instant, so the app loads neither the config package's pydantic nor Arrow nor numpy."""
    code = "import sys, bcpg_cluster_cli.app; print([m for m in ('pydantic', 'pyarrow', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_of_every_command_loads_nothing_heavy():
    code = f"""
import sys
from typer.main import get_command
from bcpg_cluster_cli import app
for command in [[], *([name] for name in get_command(app.app).commands)]:
    try:
        app.app([*command, "--help"], standalone_mode=False)
    except SystemExit:
        pass
print([m for m in {(*HEAVY, "pyarrow", "numpy")!r} if m in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1] == "[]"
