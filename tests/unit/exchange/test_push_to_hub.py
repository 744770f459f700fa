"""Pushing a policy to a hub on loopback, by huggingface_hub's own client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bcpg_cluster.errors import StoreError, UserError
from bcpg_cluster.exchange.policy.push_to_hub import HubTarget
from bcpg_cluster_cli.exchange.export import run_export
from tests.hub_server import TOKEN, Hub, hub_server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet's own protocol is not played here
    with hub_server() as hub:
        yield hub


@pytest.fixture
def push(hub: Hub, policy_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Export the policy and push it; where it went here."""

    def run(repo_id: str = "me/mine", *, private: bool = False, licence: str | None = None) -> Path:
        out = tmp_path / "out"
        run_export("policy", out, policy_run, licence=licence, hub=HubTarget(repo_id, private, hub.url))
        return out

    return run


def test_all_files_arrive_as_one_commit(hub: Hub, push: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    out = push(private=True, licence="mit")
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert hub.commits == ["Policy of run tiny, round 1"]
    assert hub.repositories["me/mine"]["visibility"] == "private"
    assert b"license: mit" in hub.files["README.md"]
    shown = "".join(capfd.readouterr())
    assert f"pushed {hub.url}/me/mine/commit/0123" in shown
    assert TOKEN not in shown


def test_a_repository_that_is_there_gets_a_commit(hub: Hub, push: Callable[..., Path]) -> None:
    hub.repositories["me/mine"] = {"visibility": "public"}
    push()
    assert len(hub.commits) == 1 and "README.md" in hub.files


def refused(push: Callable[..., Path], words: str, *, repo_id: str = "me/mine", private: bool = False) -> UserError:
    with pytest.raises(UserError, match=words) as caught:
        push(repo_id, private=private)
    assert TOKEN not in str(caught.value) + caught.value.remedy
    return caught.value


def nothing_written(hub: Hub, tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    assert hub.files == {} and hub.commits == []


def test_without_a_token(hub: Hub, push: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in refused(push, "no token to push to me/mine").remedy
    assert hub.asked == []
    nothing_written(hub, tmp_path)


def test_a_token_that_the_hub_does_not_know(
    hub: Hub, push: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    error = refused(push, r"does not know the token \(401\)")
    assert "hf_another" not in str(error) + error.remedy
    nothing_written(hub, tmp_path)


def test_names_that_are_none_ask_nobody(hub: Hub, push: Callable[..., Path], tmp_path: Path) -> None:
    refused(push, "is no name on the hub", repo_id="a/b/c")
    assert hub.asked == []
    nothing_written(hub, tmp_path)


def test_a_public_repository_is_no_private_one(hub: Hub, push: Callable[..., Path], tmp_path: Path) -> None:
    hub.repositories["me/mine"] = {"visibility": "public"}
    refused(push, "me/mine exists on the hub and is public", private=True)
    nothing_written(hub, tmp_path)


def test_offline(hub: Hub, push: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(push, "offline mode is on").remedy
    nothing_written(hub, tmp_path)


def test_a_hub_that_does_not_answer(hub: Hub, push: Callable[..., Path], tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and nothing listens
        taken.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        refused(push, "the hub cannot be reached")
    nothing_written(hub, tmp_path)


@pytest.mark.parametrize(("where", "status", "words"), [
    ("create", 403, r"may not write to me/mine \(403\)"),
    ("main", 403, r"may not write to me/mine \(403\)"),
    ("main", 400, r"the hub refused the push to me/mine \(400\): .*over quota"),
])  # fmt: skip
def test_a_hub_that_refuses_after_the_export(
    hub: Hub, push: Callable[..., Path], tmp_path: Path, where: str, status: int, words: str
) -> None:
    """The directory is whole and stays; nothing was committed."""
    hub.refuse[where] = (status, f"over quota {TOKEN}")
    error = refused(push, words)
    assert f"hf upload me/mine {tmp_path / 'out'} ." in error.remedy
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert hub.files == {} and hub.commits == []


def test_a_card_that_the_hub_does_not_take(hub: Hub, push: Callable[..., Path]) -> None:
    hub.refuse["validate-yaml"] = (400, "license must be one of")
    assert "--license" in refused(push, "does not take the model card").remedy
    assert hub.commits == []


def test_a_policy_that_is_not_what_was_trained_is_not_pushed(
    hub: Hub, push: Callable[..., Path], policy_run: Path, tmp_path: Path
) -> None:
    file = policy_run / "snapshots/v0001-a/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError):
        push()
    nothing_written(hub, tmp_path)
    assert hub.repositories == {}


def test_only_policies_are_pushed(finished_run: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps has no model card"):
        run_export("steps", tmp_path / "out", tmp_path, hub=HubTarget("me/mine"))


def test_the_command(hub: Hub, policy_run: Path, tmp_path: Path) -> None:
    """In a process of its own, by the environment alone."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    words = f"export policy --out {tmp_path / 'out'} --run-dir {policy_run} --license mit --push-to-hub me/mine --private --json"
    program = "from bcpg_cluster_cli.app import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, *words.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["pushed"].endswith("/commit/0123")
    assert TOKEN not in ended.stdout + ended.stderr
    assert set(hub.files) == {path.name for path in (tmp_path / "out").iterdir()}
