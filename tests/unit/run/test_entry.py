"""entry.py: rounds from Python. The examples of docs/python.md run here, on fakes, as scripts without a main guard."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bcpg_cluster
from bcpg_cluster import load_config, run
from bcpg_cluster.config.load import shipped_configs
from bcpg_cluster.errors import ConfigError, Interrupted, RunDirectoryError
from bcpg_cluster.run.entry import no_main_to_import
from bcpg_cluster.store.manifest import read_manifest

ROOT = Path(__file__).parents[3]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)


def small(content: dict[str, Any]) -> dict[str, Any]:
    content["prompts"]["per_round"] = 4
    content["evaluate"] |= {"num_prompts": 4}
    return content


@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_page(number: int, fakes_content: Callable[[], dict[str, Any]], tmp_path: Path):
    assert len(EXAMPLES) == 3
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(small(fakes_content())))
    script = re.sub(r"(run\((?:[^()]|\([^()]*\))*)\)", r"\1, inline=True)", EXAMPLES[number]).replace(
        "rounds=20", "rounds=3"
    )
    assert "inline=True" in script
    (tmp_path / "script.py").write_text(script)
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == [["fakes"], ["beta-0.0", "beta-0.5", "beta-1.0"], ["fakes"]][number]
    assert ended.stdout.strip()


def test_a_run_from_python_is_the_run_of_the_command(fakes_content: Callable[[], dict[str, Any]], tmp_path: Path):
    config = load_config(small(fakes_content()), ["weigh.beta=0.25"], seed=3)
    assert (config.weigh.beta, config.seed) == (0.25, 3)
    said: list[str] = []
    result = run(config, 1, tmp_path / "run", inline=True, say=said.append)
    assert set(result.reports) == {0, 1}
    assert result.last == read_manifest(tmp_path / "run").reports[1]
    again = run(config, 1, tmp_path / "run", inline=True)
    assert again.reports == result.reports  # nothing was done again
    with pytest.raises(RunDirectoryError, match=r"weigh\.beta \(0\.25 -> 0\.5\)"):
        run(load_config(small(fakes_content()), seed=3), 1, tmp_path / "run", inline=True)


def test_a_wanted_stop_starts_nothing(fakes_content: Callable[[], dict[str, Any]], tmp_path: Path):
    with pytest.raises(Interrupted):
        run(load_config(small(fakes_content())), 1, tmp_path / "run", inline=True, stop_asked=lambda: True)
    assert not (tmp_path / "run").exists()


def test_load_config_by_name_file_and_content(tmp_path: Path):
    assert load_config() == load_config("laptop") == load_config(shipped_configs()["laptop"])
    content = {"name": "x"}
    with pytest.raises(ConfigError, match="the given config is invalid"):
        load_config(content)
    assert content == {"name": "x"}
    (tmp_path / "mine.yaml").write_text("extends: laptop\nname: mine\n")
    assert load_config(tmp_path / "mine.yaml").name == "mine"
    assert load_config(tmp_path / "mine.yaml").identity == load_config("laptop").identity


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'iterate'"):
        _ = bcpg_cluster.iterate  # type: ignore[attr-defined]


def test_the_main_module_is_back_after_it_was_hidden():
    main = sys.modules["__main__"]
    before = (main.__spec__, getattr(main, "__file__", None))
    with no_main_to_import():
        assert (main.__spec__, getattr(main, "__file__", None)) == (None, None)
    assert (main.__spec__, getattr(main, "__file__", None)) == before
