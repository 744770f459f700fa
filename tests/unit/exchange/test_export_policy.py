"""The exported policy: what transformers loads is what was trained, and nothing else gets out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, RunDirectoryError, StoreError
from bcpg_cluster.exchange.policy.export_policy import BASE_CARD, ExportedPolicy, export_policy, read_front_matter
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster_cli.exchange.export import run_export
from tests.snapshots import snapshot_of
from tests.unit.exchange.trained_policy import BASE, add_version, trained_model

Export = Callable[..., ExportedPolicy]


@pytest.fixture
def run_dir(policy_run: Path) -> Path:
    return policy_run


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(policy={"kind": "vllm", "model": "org/base"}, name="tiny")


@pytest.fixture
def export(config: Config) -> Callable[..., ExportedPolicy]:
    """Export as of a run whose base is on the hub."""

    def run(run_dir: Path, out: Path, version: int | None = None, licence: str | None = None) -> ExportedPolicy:
        return export_policy(run_dir, out, config, version=version, licence=licence)

    return run


def test_transformers_loads_what_was_trained(run_dir: Path, tmp_path: Path) -> None:
    run_export("policy", tmp_path / "out", run_dir)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12+34"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.no_grad():
        logits, wanted = loaded(ids).logits, trained_model()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(BASE)(ids).logits
    assert torch.equal(logits, wanted)
    assert (logits - base).abs().max() > 0.01
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1
    answer = loaded.generate(ids, max_new_tokens=3, do_sample=False)
    assert tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)


def test_the_files(run_dir: Path, tmp_path: Path, export: Export) -> None:
    done = export(run_dir, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "digests.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (done.version, done.has_chat_template) == (1, True)
    number = sum(parameter.numel() for parameter in trained_model().parameters())
    assert (done.num_parameters, done.dtypes) == (number, {"float32": number})
    assert verify_snapshot(str(tmp_path / "out"))


def test_the_card(run_dir: Path, tmp_path: Path, export: Export) -> None:
    export(run_dir, tmp_path / "out", licence="apache-2.0")
    text = (tmp_path / "out" / "README.md").read_text()
    head = read_front_matter(text)
    assert (head["library_name"], head["pipeline_tag"], head["base_model"], head["license"]) == (
        "transformers", "text-generation", "org/base", "apache-2.0",
    )  # fmt: skip
    assert "# tiny, round 1\n" in text
    assert "| base | 20.0 % (17.6 to 22.4) | 40.0 % | 40 | - |" in text  # 20 -+ 1.96 * 1.25
    assert "| round 1 | 25.0 % (22.6 to 27.4) | 40.0 % | 40 | - |" in text
    run_export("policy", tmp_path / "local", run_dir)
    local = read_front_matter((tmp_path / "local" / "README.md").read_text())
    assert "base_model" not in local and "license" not in local  # not a hub id; a licence is not guessed


def test_what_the_base_lacks_and_what_it_says(tmp_path: Path, export: Export) -> None:
    """No generation config: the end token comes from the config. The base's card steps aside; its licence stays."""
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    (base / "generation_config.json").unlink()
    (base / "chat_template.jinja").unlink()
    (base / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# base\n")
    with Manifest(tmp_path / "run") as manifest:
        manifest.create(identity="x", name="r", program_version="0")
        manifest.add_snapshot(add_version(tmp_path / "run", 1, str(base)))
    done = export(tmp_path / "run", tmp_path / "out")
    assert not done.has_chat_template
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written == {"eos_token_id": 1, "pad_token_id": 0}
    text = (tmp_path / "out" / "README.md").read_text()
    assert read_front_matter(text)["license"] == "mit"
    assert "x" not in read_front_matter(text)["tags"]
    assert "| round 1 | not measured |" in text
    assert "Chat template: none" in text
    export(tmp_path / "run", tmp_path / "mine", licence="cc-by-4.0")
    assert read_front_matter((tmp_path / "mine" / "README.md").read_text())["license"] == "cc-by-4.0"
    assert (tmp_path / "out" / BASE_CARD).read_text().endswith("# base\n")


def test_the_newest_version_unless_another_is_chosen(run_dir: Path, tmp_path: Path, export: Export) -> None:
    with Manifest(run_dir) as manifest:
        manifest.add_snapshot(add_version(run_dir, 2))
    assert export(run_dir, tmp_path / "newest").version == 2
    assert export(run_dir, tmp_path / "first", 1).version == 1


# --- refusals: each leaves nothing behind


@pytest.fixture
def refused(export: Export, tmp_path: Path) -> Callable[..., None]:
    def check(kind: type[Exception], match: str, run_dir: Path, version: int | None = None) -> None:
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(kind, match=match):
            export(run_dir, tmp_path / "out", version)
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    return check


def test_an_altered_weight(run_dir: Path, refused: Callable[..., None]) -> None:
    file = run_dir / "snapshots/v0001-a/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(StoreError, "is not what was written", run_dir)


def test_another_snapshot_in_its_place(run_dir: Path, refused: Callable[..., None]) -> None:
    """Whole in itself, but not the one the manifest noted."""
    path = run_dir / "snapshots/v0001-a"
    snapshot_of(str(path), BASE, [("other", torch.ones(2))])
    refused(StoreError, "not those the manifest holds for v1", run_dir)


def test_versions_that_cannot_be_exported(run_dir: Path, refused: Callable[..., None]) -> None:
    refused(RunDirectoryError, "version 0 .* has no weights of its own", run_dir, 0)
    refused(RunDirectoryError, "version 5 .* has no weights of its own", run_dir, 5)
    shutil.rmtree(run_dir / "snapshots/v0001-a")
    refused(RunDirectoryError, "v1 is no longer there", run_dir)


def test_a_run_that_has_not_trained(tmp_path: Path, refused: Callable[..., None]) -> None:
    with Manifest(tmp_path / "run") as manifest:
        manifest.create(identity="x", name="r", program_version="0")
    refused(RunDirectoryError, "version 0 .* has no weights", tmp_path / "run")


def test_a_fake_is_no_model(finished_run: Any, refused: Callable[..., None]) -> None:
    refused(DataError, "lacks config.json and safetensors and a tokenizer", finished_run.directory)


def test_two_rounds_at_once(run_dir: Path, tmp_path: Path) -> None:
    from bcpg_cluster.errors import UserError

    with pytest.raises(UserError, match="--round was given 2 times"):
        run_export("policy", tmp_path / "out", run_dir, [1, 2])


@pytest.mark.parametrize(
    ("text", "head"),
    [("# no head", {}), ("---\n- a\n---\n", {}), ("---\na: [1\n---\n", {}), ("---\na: 1\n---", {"a": 1})],
)
def test_front_matter(text: str, head: dict[str, Any]) -> None:
    assert read_front_matter(text) == head
