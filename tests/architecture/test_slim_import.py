"""What must be instant imports nothing heavy: checked in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "scipy", "matplotlib")


@pytest.mark.parametrize(
    "modules",
    [
        ["bcpg_cluster.config", "bcpg_cluster.records", "bcpg_cluster.errors", "bcpg_cluster.prompts"],
        ["bcpg_cluster.method.consensus", "bcpg_cluster.method.weights", "bcpg_cluster.method.segment"],
        [f"bcpg_cluster.store.{name}" for name in ("layout", "manifest", "schema", "shards")],
        ["bcpg_cluster.coordinator", "bcpg_cluster.build", "bcpg_cluster.run_directory"],
        ["bcpg_cluster.cluster.ray_runtime", "bcpg_cluster.engines.fake", "bcpg_cluster.engines.protocols"],
        ["bcpg_cluster_cli.app"],
        [
            f"bcpg_cluster_cli.{name}"
            for name in ("iterate", "compare", "stage", "status", "inspect", "plan", "validate", "doctor", "export")
        ],
        ["bcpg_cluster.comparison.methods", "bcpg_cluster.comparison.runner", "bcpg_cluster.report.comparison_report"],
    ],
)
def test_importing_loads_nothing_heavy(modules: list[str]):
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_command_line_imports_no_more_than_it_shows():
    """`--help` must be instant, so the app loads neither the config package's pydantic nor Arrow nor numpy."""
    code = "import sys, bcpg_cluster_cli.app; print([m for m in ('pydantic', 'pyarrow', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_of_every_command_loads_nothing_heavy():
    code = f"""
import sys
from bcpg_cluster_cli import app
for command in [[], ["iterate"], ["compare"], ["stage"], ["status"], ["inspect"], ["plan"], ["validate"], ["doctor"]]:
    try:
        app.app([*command, "--help"], standalone_mode=False)
    except SystemExit:
        pass
print([m for m in {(*HEAVY, "pyarrow", "numpy")!r} if m in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1] == "[]"
