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
        assert "RAY_worker_niceness=0" in setup and "RAY_health_check_failure_threshold" in setup
        for command in config[f"{node}_start_ray_commands"]:
            assert command.index("bcpg-environment") < command.index("ray s"), "read before Ray starts"
    assert "$RAY_HEAD_IP" in "\n".join(config["worker_start_ray_commands"])
    assert "--autoscaling-config" in "\n".join(config["head_start_ray_commands"])


def test_lines_to_change_are_marked() -> None:
    placeholders = ("ami-000", "CHANGE-ME", "us-west-2", "InstanceType:")
    for line in FILE.read_text().splitlines():
        if any(text in line for text in placeholders):
            assert "CHANGE" in line.partition("#")[2], line


def test_what_the_launched_file_has_stands_here_too(launcher: dict[str, Any]) -> None:
    """clusters/local.yaml is launched by a test, this file is not."""
    local = yaml.safe_load((FILE.parent / "clusters" / "local.yaml").read_text())
    for key in (
        "file_mounts",
        "file_mounts_sync_continuously",
        "rsync_exclude",
        "rsync_filter",
        "cluster_synced_files",
    ):
        assert launcher[key] == local[key]
    ours, theirs = ([c for c in one["setup_commands"] if "environment" in c] for one in (launcher, local))
    assert ours == [command.replace("'export RAY_enable_autoscaler_v2=0' ", "") for command in theirs]
    for node in ("head", "worker"):
        key = f"{node}_start_ray_commands"
        theirs = local[key]
        for only_there in (
            ' --resources="$(cat ~/.bcpg-resources.json)"',
            "for try in 1 2 3 4 5; do ",
            " && break; ray stop --force; sleep 5; done",
        ):
            theirs = [command.replace(only_there, "") for command in theirs]
        assert launcher[key] == theirs
