"""cluster.yaml by Ray's own rules, and by ours: the node types and start commands that the pools rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def prepared(content: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of the file before it talks to the provider."""
    from ray.autoscaler._private.util import prepare_config

    config: dict[str, Any] = prepare_config(content)
    return config


def test_ray_accepts_it(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(launcher)
    config = prepared(launcher)
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0


def test_rays_validation_sees_a_mistake(launcher: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config({**launcher, "idle_timeout": 5})
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config({**launcher, "head_node_type": "nobody"})
    crowded = {name: {**kind, "min_workers": 9} for name, kind in launcher["available_node_types"].items()}
    with pytest.raises(ValueError, match="min_workers"):
        validate_config({**launcher, "available_node_types": crowded})


def test_node_types_serve_the_pools(launcher: dict[str, Any]) -> None:
    kinds = launcher["available_node_types"]
    assert set(kinds) == {"head", "rollout", "judge", "trainer"}
    for name in ("rollout", "judge", "trainer"):
        resources = kinds[name]["resources"]
        assert resources[name] == resources["GPU"], f"{name}: a member for every GPU"
        assert 0 < kinds[name]["min_workers"] <= kinds[name]["max_workers"]
    assert sum(kinds[name]["max_workers"] for name in kinds if name != "head") <= launcher["max_workers"]


def test_every_node_shares_token_project_and_run_directory(launcher: dict[str, Any]) -> None:
    config = prepared(launcher)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["file_mounts"]["~/bcpg-cluster"] == "."
    for node in ("head", "worker"):
        setup = "\n".join(config[f"{node}_setup_commands"])  # prepared: the common ones come first
        assert "/shared" in setup and ".[gpu]" in setup and "RAY_AUTH_MODE=token" in setup
        start = "\n".join(config[f"{node}_start_ray_commands"])
        assert "RAY_AUTH_MODE=token" in start and "RAY_worker_niceness=0" in start
    assert "$RAY_HEAD_IP" in "\n".join(config["worker_start_ray_commands"])
    assert "--autoscaling-config" in "\n".join(config["head_start_ray_commands"])


def test_lines_to_change_are_marked() -> None:
    placeholders = ("ami-000", "CHANGE-ME", "us-west-2", "InstanceType:")
    for line in FILE.read_text().splitlines():
        if any(text in line for text in placeholders):
            assert "CHANGE" in line.partition("#")[2], line
