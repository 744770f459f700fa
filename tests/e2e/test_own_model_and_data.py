"""From nothing to a finished round on a model and data of one's own: `init` and `iterate`, and not one edit.

A random-weight Qwen2 directory made on the spot, a CSV with column names of its own, a reward function named by file, and an
endpoint judge on loopback. The round is real: vLLM, DeepSpeed, Ray.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.store.manifest import read_manifest
from tests.judge_server import Server
from tests.real_run import real_environment

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]
REWARD = '''
def score(response, gold):
    """Right where the response's length is even: a random model has both kinds."""
    return float(len(response) % 2 == 0)
'''


def make_model(folder: Path) -> Path:
    """Two layers of Qwen2 with random weights, a byte-level tokenizer and a chat template, in Hugging Face's format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = Tokenizer(models.BPE())
    text.pre_tokenizer, text.decoder = bytes_, decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=bytes_.alphabet())
    text.train_from_iterator(["What is 3 plus 4?"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=text, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)  # as models come; training is in float32
    return folder


def make_problems(path: Path) -> Path:
    """Sums, as someone keeps them in a spreadsheet."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["nr", "Problem", "Result", "topic"])
        writer.writerows([n, f"What is {n} plus {2 * n + 1}?", 3 * n + 1, "sums"] for n in range(40))
    return path


@pytest.fixture
def judge() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def bcpg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bcpg_cluster_cli.app import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, env=real_environment(), capture_output=True, text=True, check=False)


def test_two_commands_and_no_edits(tmp_path: Path, judge: Server):
    make_model(tmp_path / "model")
    make_problems(tmp_path / "sums.csv")
    (tmp_path / "rewards.py").write_text(REWARD)
    begun = bcpg(
        tmp_path, "init", "--model", "model", "--train", "sums.csv", "--judge", judge.url, "--reward", "rewards.py:score",
        "--out", "mine.yaml",
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    assert "column 'Problem'" in begun.stdout and "column 'Result'" in begun.stdout
    config: dict[str, Any] = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert "dtype" not in config["policy"]["engine_args"]  # derived, not written

    tried = bcpg(tmp_path, "iterate", "--config", "mine.yaml", "--dry-run", "--address", "local", "--json")
    assert tried.returncode == 0, tried.stderr
    dry = json.loads(tried.stdout)
    assert {"generate", "verify", "segment", "judge.judge", "weigh", "train", "push", "evaluate"} <= {
        part["name"] for part in dry["parts"]
    }
    assert dry["report"]["train"]["steps"] == 1
    assert dry["report"]["push"]["method"] == "gloo"
    assert not (tmp_path / "runs").exists()

    ended = bcpg(tmp_path, "iterate", "--config", "mine.yaml", "--rounds", "1", "--address", "local")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = read_manifest(tmp_path / "runs" / "mine").reports[1]
    assert report.samples is not None and report.samples.kept > 0
    assert report.train is not None and report.train.steps > 0
    assert report.push is not None and report.push.method == "gloo"
    assert report.verdicts["judge.judge"]["judge.calls"] > 0
    assert "again:" not in ended.stdout  # nothing was tried twice
    assert judge.requests
