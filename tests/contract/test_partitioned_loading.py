"""ZeRO-3 loads a model weight by weight: the same numbers as from the whole model, bit for bit, and no rank ever holds it.

Two ranks of DeepSpeed run all cases in processes of their own. Each model is opened twice, by weights and whole, and what comes of
the two is compared.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.train.protocol import LoraSettings, TrainSettings
from benchmarks.measure import free_port
from tests.trainer_contract import (
    SETTINGS,
    SHARDED,
    VOCABULARY,
    RecordingSender,
    make_rows,
    push,
    with_reference,
)

pytestmark = pytest.mark.engine

ZERO_3 = replace(SETTINGS, zero_stage=3, deepspeed=SHARDED, epochs=1)
BF16 = replace(ZERO_3, dtype="bfloat16")
ADAPTERS = LoraSettings(rank=4, alpha=6.0, dropout=0.1)
# By name: the model, and how it is trained.
CASES = {
    "tied": ("tied", ZERO_3),
    "several files": ("sharded", replace(ZERO_3, gradient_checkpointing=True)),
    "bfloat16": ("tied", BF16),
    "odd sizes in bfloat16": ("odd", BF16),
    "long rope in bfloat16": ("long", BF16),
    "adapters": ("tied", replace(ZERO_3, lora=ADAPTERS)),
    "adapters in bfloat16": ("sharded", replace(BF16, lora=ADAPTERS, gradient_checkpointing=True)),
}
# Models that only transformers knows how to read.
WHOLE = ("bin", "tie named twice")
# By name of a model: what is said of it.
BROKEN = {"not finite": "has values that are not finite in model.layers.1.mlp.up_proj.weight", "torn": "cannot be read"}
TIMEOUT_S = 400


def make_models(root: Path) -> None:
    def qwen3(name: str, *, tied: bool, hidden: int = 32, **saved: Any) -> Path:
        torch.manual_seed(1)
        config = Qwen3Config(
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            vocab_size=VOCABULARY,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            initializer_range=0.2,
        )
        Qwen3ForCausalLM(config).save_pretrained(root / name, **saved)
        return root / name

    qwen3("tied", tied=True)
    qwen3("odd", tied=True, hidden=33)  # its norms and embedding do not divide by two ranks
    qwen3("sharded", tied=False, max_shard_size="20KB")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    config = LlamaConfig(**sizes, vocab_size=VOCABULARY, rope_parameters=rope, max_position_embeddings=128)
    LlamaForCausalLM(config).save_pretrained(root / "long")

    weights = load_file(root / "tied" / "model.safetensors")
    for name in (*WHOLE, *BROKEN):
        shutil.copytree(root / "tied", root / name)
        (root / name / "model.safetensors").unlink()
    torch.save(weights, root / "bin" / "pytorch_model.bin")
    twice = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"] * 2}
    save_file(twice, root / "tie named twice" / "model.safetensors", {"format": "pt"})
    weights["model.layers.1.mlp.up_proj.weight"][-1, -1] = float("inf")
    save_file(weights, root / "not finite" / "model.safetensors", {"format": "pt"})
    whole = (root / "tied" / "model.safetensors").read_bytes()
    (root / "torn" / "model.safetensors").write_bytes(whole[:-5])


class LargestHeld:
    """The most bytes of weights that this process held when a weight was about to be read: asked at some of them, since a look at
    all objects takes its time.
    """

    def __init__(self, begin: Callable[..., None]) -> None:
        self._begin, self.num_bytes, self.names = begin, 0, []

    def __call__(self, doing: str, detail: str = "", **options: Any) -> None:
        self._begin(doing, detail, **options)
        if doing != "loading a weight":
            return
        self.names.append(detail)
        if len(self.names) % 7 == 0:
            held = [each for each in gc.get_objects() if type(each) is torch.nn.Parameter and not each.is_meta]
            self.num_bytes = max(self.num_bytes, sum(each.data.nbytes for each in held))


def exercise(trainer: Any, model: str, settings: TrainSettings, snapshot: str) -> dict[str, Any]:
    """What comes of a model that is opened, trained for a step, written and pushed."""
    settings = replace(settings, batch_sequences=6)
    rows = make_rows(count=6)
    trainer.open(model, settings)
    seen: dict[str, Any] = {"start": digests_of(trainer.save_snapshot(snapshot + "-start"))}
    own = trainer.reference_logprobs(rows)
    seen["reference"] = {row: score for each in trainer._group.gather(own) for row, score in each.items()}
    seen["reports"] = trainer.train(with_reference(rows, seen["reference"]), None)
    seen["scores"] = trainer.score_tokens([(row.prompt_token_ids, row.token_ids) for row in rows[:2]])
    seen["snapshot"] = digests_of(trainer.save_snapshot(snapshot))
    seen["push"] = push(trainer, RecordingSender())
    seen["adapters"] = trainer.adapter_digests()
    return seen


def digests_of(written: Any) -> dict[str, str] | None:
    return None if written is None else dict(written.stored)


def run_rank(rank: int, port: int, directory: str) -> None:
    """All cases on one rank."""
    root, seen = Path(directory), {}
    try:
        torch.set_num_threads(1)
        from bcpg_cluster.stages.train.deepspeed import partitioned
        from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

        trainer = DeepSpeedRank(rank, 2, "127.0.0.1", port, timeout_s=60)
        trainer.progress.begin = held = LargestHeld(trainer.progress.begin)  # type: ignore[method-assign, assignment]
        for name in BROKEN:
            seen[name] = refusal(trainer, str(root / name))
        for name, (model, settings) in CASES.items():
            held.num_bytes, held.names = 0, []
            with patch.object(partitioned, "load_policy", side_effect=AssertionError("loaded whole")):
                found = exercise(trainer, str(root / model), settings, str(root / f"{name}-by-weights"))
            found["held"] = (held.num_bytes, held.names)
            with patch.object(partitioned, "empty_model", return_value=None):
                seen[name] = found, exercise(trainer, str(root / model), settings, str(root / f"{name}-whole"))
        for name in WHOLE:
            with patch.object(partitioned, "load_policy", wraps=partitioned.load_policy) as load:
                seen[name] = exercise(trainer, str(root / name), ZERO_3, str(root / f"{name}-snapshot"))
                seen[name]["loaded whole"] = load.call_count
        trainer.close()
    except BaseException:
        seen["error"] = traceback.format_exc()
    torch.save(seen, root / f"seen-{rank}.pt")


def refusal(trainer: Any, model: str) -> str:
    try:
        trainer.open(model, ZERO_3)
    except DataError as error:
        return error.problem
    return "no error"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="partitioned-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def ranks(root: Path) -> list[dict[str, Any]]:
    """What the two ranks saw."""
    make_models(root)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context, port = multiprocessing.get_context("spawn"), free_port()
    processes = [context.Process(target=run_rank, args=(rank, port, str(root))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
    seen = [torch.load(root / f"seen-{rank}.pt", weights_only=False) for rank in range(2)]
    for rank in seen:
        assert "error" not in rank, rank["error"]
    return seen


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("case", CASES)
def test_all_that_comes_of_it_is_what_comes_of_the_whole_model(case: str, ranks: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(ranks):
        by_weights, whole = seen[case]
        assert by_weights.keys() - {"held"} == whole.keys()
        for what, wanted in whole.items():
            assert by_weights[what] == wanted, f"{what} on rank {rank}"
    first = ranks[0][case][0]
    assert first["snapshot"] != first["start"], "a step has to change weights"
    assert first["push"][1] == first["snapshot"]
    assert ranks[1][case][0]["reference"] == first["reference"]


@pytest.mark.parametrize("case", CASES)
def test_a_snapshot_before_any_step_has_the_weights_to_the_bit(
    case: str, ranks: list[dict[str, Any]], root: Path
) -> None:
    """Whatever they are computed in: the files hold float32."""
    weights = weights_of(root / CASES[case][0])
    assert ranks[0][case][0]["start"] == {name: tensor_digest(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("case", CASES)
def test_no_rank_holds_more_than_one_weight(case: str, ranks: list[dict[str, Any]], root: Path) -> None:
    model, settings = CASES[case]
    weights = weights_of(root / model)
    itemsize = 2 if settings.dtype == "bfloat16" else 4
    largest = max(tensor.numel() for tensor in weights.values()) * itemsize
    for seen in ranks:
        num_bytes, names = seen[case][0]["held"]
        assert sorted(names) == sorted(weights)
        assert num_bytes <= largest < sum(tensor.numel() for tensor in weights.values()) * itemsize / 3


@pytest.mark.parametrize("name", WHOLE)
def test_what_only_transformers_can_read_is_loaded_whole(name: str, ranks: list[dict[str, Any]]) -> None:
    wanted = ranks[0]["tied"][0]
    for seen in ranks:
        assert seen[name]["loaded whole"] == 1
        is_the_same_model = name == "bin"
        assert (seen[name]["reference"] == wanted["reference"]) is is_the_same_model


@pytest.mark.parametrize("name", BROKEN)
def test_what_rank_0_cannot_read_is_every_ranks_error(name: str, ranks: list[dict[str, Any]]) -> None:
    """And the same group opens other models afterwards."""
    for seen in ranks:
        assert BROKEN[name] in seen[name]
