"""One contract for every trainer: what plain torch does in one process, DeepSpeed does at every ZeRO stage and rank count.

The DeepSpeed side runs in processes of its own, one pair for all stages (imports cost more than the work); they write
what they saw to files, and the tests look at that.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from bcpg_cluster.engines.protocols import StepReport, TrainerRank, TrainRow, TrainSettings
from bcpg_cluster.engines.snapshot import read_parameters, verify_snapshot
from bcpg_cluster.engines.torch_trainer import TorchTrainer
from bcpg_cluster.errors import ConfigError, DataError, TrainingDivergedError
from bcpg_cluster.method.batching import plan_training

pytestmark = pytest.mark.engine

VOCABULARY = 61
STAGES = (0, 1, 2, 3)
HEADS = ("tied", "untied")
SETTINGS = TrainSettings(
    tau=0.05,
    learning_rate=2e-3,
    min_learning_rate=1e-3,
    weight_decay=0.01,
    grad_clip=0.5,  # below the gradients' norms, so that clipping acts
    epochs=2,
    batch_sequences=5,  # 11 rows: steps of 5, 5 and 1, so one rank of two has nothing to do in the last
    micro_batch_tokens=40,
    logprob_chunk_tokens=7,
    seed=3,
)
# Without these the tiny model would be kept whole on every rank, and reduced in one bucket.
SHARDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 3000}}
TIMEOUT_S = 240


def make_rows(seed: int = 0, count: int = 11) -> list[TrainRow]:
    """Rows of unequal lengths, right and wrong, with mined tokens in wrong ones."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return tuple(torch.randint(1, VOCABULARY, (length,), generator=draw).tolist())

    rows = []
    for index in range(count):
        response = ids(1, 24)
        right = index % 3 == 0
        weights = tuple(0.5 if not right and token % 2 else 1.0 for token in response)
        rows.append(
            TrainRow(
                prompt_token_ids=ids(2, 9),
                token_ids=response,
                token_weights=weights,
                advantage=0.6 if right else -0.4,
                reward=1.0 if right else 0.0,
                group_mean=0.4,
                group_size=5,
            )
        )
    return rows


def make_model(path: Path, *, tied: bool) -> str:
    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"chat_template": "stand-in"}')
    return str(path)


def with_reference(rows: list[TrainRow], logprobs: dict[int, tuple[float, ...]]) -> list[TrainRow]:
    return [replace(row, reference_logprobs=logprobs[index]) for index, row in enumerate(rows)]


def with_nan(rows: list[TrainRow]) -> list[TrainRow]:
    return [replace(rows[0], advantage=math.nan), *rows[1:]]


def with_inf_gradient(rows: list[TrainRow]) -> list[TrainRow]:
    """A finite loss whose gradient is not: the square of Delta overflows only in its backward when scaled."""
    return [replace(rows[0], token_weights=tuple(3e38 for _ in rows[0].token_ids), advantage=-3e38), *rows[1:]]


class StopAfter(Exception):
    """Stands for the kill of a process right after a step checkpoint."""


def stop_after_checkpoint(trainer: Any) -> None:
    """Make ``trainer`` die after the first checkpoint that follows."""
    write = trainer._write_checkpoint

    def write_and_die(*args: Any) -> None:
        write(*args)
        trainer._write_checkpoint = write
        raise StopAfter

    trainer._write_checkpoint = write_and_die


def exercise(trainer: TrainerRank, model: str, settings: TrainSettings, directory: Path, snapshot: str) -> dict[str, Any]:
    """One round's calls; what came of them."""
    rows = make_rows()
    seen: dict[str, Any] = {}
    began = time.perf_counter()
    trainer.open(model, settings)
    seen["open_s"] = time.perf_counter() - began
    seen["reference"] = trainer.reference_logprobs(rows)
    shared = directory / "reference.pt"
    rows = with_reference(rows, torch.load(shared))
    seen["specs"] = trainer.push_specs()
    began = time.perf_counter()
    seen["reports"] = trainer.train(rows, None)
    seen["train_s"] = time.perf_counter() - began
    seen["scores"] = trainer.score_tokens([(row.prompt_token_ids, row.token_ids) for row in rows[:3]])
    seen["digests"] = trainer.save_snapshot(snapshot)
    return seen


def exercise_failures(trainer: TrainerRank, model: str, settings: TrainSettings, directory: Path) -> dict[str, Any]:
    """Divergence, then a training that is stopped after a checkpoint and goes on in a new engine."""
    rows = with_reference(make_rows(), torch.load(directory / "reference.pt"))
    seen: dict[str, Any] = {}
    for name, bad in (("nan", with_nan(rows)), ("inf", with_inf_gradient(rows))):
        trainer.open(model, settings)
        before = trainer.score_tokens([(rows[0].prompt_token_ids, rows[0].token_ids)])
        try:
            trainer.train(bad, None)
            seen[name] = "no error"
        except TrainingDivergedError:
            after = trainer.score_tokens([(rows[0].prompt_token_ids, rows[0].token_ids)])
            seen[name] = "unchanged" if before == after else f"changed: {before} {after}"
    checkpoints = directory / f"checkpoints-{settings.zero_stage}"
    settings = replace(settings, checkpoint_every_steps=2)
    trainer.open(model, settings)
    stop_after_checkpoint(trainer)
    try:
        trainer.train(rows, str(checkpoints))
    except StopAfter:
        seen["kept"] = sorted(path.name for path in checkpoints.iterdir())
    trainer.open(model, settings)
    seen["resumed"] = trainer.train(rows, str(checkpoints))
    seen["kept_at_end"] = sorted(path.name for path in checkpoints.iterdir())
    trainer.save_snapshot(str(directory / f"resumed-{settings.zero_stage}"))
    # Another training must not pick the checkpoint up.
    other = replace(settings, learning_rate=1e-3, epochs=1)
    trainer.open(model, other)
    seen["other"] = trainer.train(rows, str(checkpoints))
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_rank(rank: int, world_size: int, ports: tuple[int, int], directory: str, models: dict[str, str]) -> None:
    """A DeepSpeed rank's whole life: every stage and head, then failures, then a second group in the same process."""
    root = Path(directory)
    seen: dict[str, Any] = {}
    try:
        torch.set_num_threads(1)
        from bcpg_cluster.engines.deepspeed_trainer import DeepSpeedRank

        trainer = DeepSpeedRank(rank, world_size, "127.0.0.1", ports[0], timeout_s=60)
        for stage in STAGES:
            for head in HEADS:
                settings = replace(SETTINGS, zero_stage=stage, deepspeed=SHARDED)
                out = root / head
                seen[f"{head}-{stage}"] = exercise(
                    trainer, models[head], settings, out, str(out / f"snapshot-{world_size}-{stage}")
                )
            if world_size > 1:
                seen[f"failures-{stage}"] = exercise_failures(
                    trainer, models["tied"], replace(SETTINGS, zero_stage=stage, deepspeed=SHARDED), root / "tied"
                )
        for name, change in (
            ("checkpointing", {"gradient_checkpointing": True, "zero_stage": 3}),
            ("bfloat16", {"dtype": "bfloat16", "zero_stage": 2}),
        ):
            settings = replace(SETTINGS, deepspeed=SHARDED, **change)
            seen[name] = exercise(trainer, models["tied"], settings, root / "tied", str(root / f"{name}-{world_size}"))
        trainer.close()
        again = DeepSpeedRank(rank, world_size, "127.0.0.1", ports[1], timeout_s=60)
        settings = replace(SETTINGS, zero_stage=2, deepspeed=SHARDED)
        seen["again"] = exercise(again, models["tied"], settings, root / "tied", str(root / f"again-{world_size}"))
        again.close()
    except BaseException:
        seen["error"] = traceback.format_exc()
    torch.save(seen, root / f"seen-{world_size}-{rank}.pt")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="trainers-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def models(root: Path) -> dict[str, str]:
    return {head: make_model(root / head / "model", tied=head == "tied") for head in HEADS}


@pytest.fixture(scope="module")
def plain(root: Path, models: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the reference trainer does."""
    torch.set_num_threads(1)
    trainer = TorchTrainer("cpu")
    seen = {}
    for head in HEADS:
        trainer.open(models[head], SETTINGS)
        torch.save(trainer.reference_logprobs(make_rows()), root / head / "reference.pt")
        seen[head] = exercise(trainer, models[head], SETTINGS, root / head, str(root / head / "snapshot-plain"))
    return seen


@pytest.fixture(scope="module")
def groups(root: Path, models: dict[str, str], plain: object) -> dict[int, list[dict[str, Any]]]:
    """What DeepSpeed groups of 1 and of 2 ranks do, by world size."""
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seen = {}
    for world_size in (2, 1):
        ports = (free_port(), free_port())
        ranks = [
            context.Process(target=run_rank, args=(rank, world_size, ports, str(root), models))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(TIMEOUT_S)
            if process.is_alive():
                process.kill()
        seen[world_size] = [torch.load(root / f"seen-{world_size}-{rank}.pt", weights_only=False) for rank in range(world_size)]
        for rank in seen[world_size]:
            assert "error" not in rank, rank["error"]
    return seen


def parameters(path: Path | str) -> dict[str, torch.Tensor]:
    return dict(read_parameters(str(path)))


def assert_same_parameters(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_same_reports(found: list[StepReport], wanted: list[StepReport], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.step, mine.num_steps, mine.num_sequences, mine.num_tokens) == (
            theirs.step,
            theirs.num_steps,
            theirs.num_sequences,
            theirs.num_tokens,
        )
        for field in ("loss", "grad_norm", "learning_rate", "delta_per_token_right", "delta_per_token_wrong"):
            assert getattr(mine, field) == pytest.approx(getattr(theirs, field), rel=tolerance, abs=tolerance), field
