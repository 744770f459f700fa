"""docs/notebooks: the notebook runs from its first cell to its last, on real engines, in a kernel as a person has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.store.manifest import read_manifest
from tests.real_run import TIMEOUT_S, real_environment

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in real_environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = {cell["id"]: cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}
    assert sorted(read_manifest(tmp_path / "runs/notebook").reports) == [0, 1, 2]
    assert "round 2: accuracy" in printed(outputs["run"])
    assert "kept of asked" in printed(outputs["table"]) and "of 192" in printed(outputs["table"])
    assert "gold answer" in printed(outputs["sample"]) and "mined" in printed(outputs["sample"])
    assert "mined tokens carry" in printed(outputs["mass"])
    assert has_picture(outputs["plot"]) and has_picture(outputs["mass"])


def printed(outputs: list[dict[str, Any]]) -> str:
    """All text of a cell; rich's tables come as text beside their HTML."""
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def has_picture(outputs: list[dict[str, Any]]) -> bool:
    return any("image/png" in output.get("data", {}) for output in outputs)
