"""One contract for every trainer: what plain torch does in one process, DeepSpeed does at any ZeRO stage and rank count.

The DeepSpeed side runs in processes of its own, one pair for all cases (imports cost more than the work); they write
what they saw to files, and the tests look at that. ``QUICK`` are the cases of `make test`: two ranks, each way to lay out the
weights (whole, sharded, adapters, bfloat16), and an objective for each kind of rows. The others are slow ones.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.stages.push.snapshot import verify_snapshot
from bcpg_cluster.stages.train.lora import target_layers
from bcpg_cluster.stages.train.objective import Dpo
from bcpg_cluster.stages.train.protocol import (
    LoraSettings,
    ReferenceLogprobs,
    StepReport,
    TrainerRank,
    TrainRow,
    TrainSettings,
)
from bcpg_cluster.stages.train.step_plan import lay_out_training
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from benchmarks.measure import free_port
from tests.listening import beyond_loopback, listening
from tests.trainer_contract import (
    OBJECTIVES,
    SETTINGS,
    SHARDED,
    exercise,
    exercise_failures,
    make_model,
    make_rows,
    newest_on_disk,
    objective_rows,
    parameters,
    report_faults,
    with_reference,
    with_stale_reference,
)

pytestmark = pytest.mark.engine

STAGES = (0, 1, 2, 3)
HEADS = ("tied", "untied")
COMBINATIONS = [(1, "tied", stage) for stage in STAGES] + [(2, head, stage) for head in HEADS for stage in STAGES]
OPTIONS = {
    "checkpointing-2": replace(SETTINGS, zero_stage=2, deepspeed=SHARDED, gradient_checkpointing=True),
    "checkpointing-3": replace(SETTINGS, zero_stage=3, deepspeed=SHARDED, gradient_checkpointing=True),
    "bfloat16-1": replace(SETTINGS, zero_stage=1, deepspeed=SHARDED, dtype="bfloat16"),
    "bfloat16-3": replace(SETTINGS, zero_stage=3, deepspeed=SHARDED, dtype="bfloat16"),
}
ADAPTERS = LoraSettings(rank=4, alpha=6.0)
LORA = {
    **{f"lora-{stage}": replace(SETTINGS, lora=ADAPTERS, zero_stage=stage, deepspeed=SHARDED) for stage in STAGES},
    "lora-3-checkpointing-packed": replace(
        SETTINGS, lora=ADAPTERS, zero_stage=3, deepspeed=SHARDED, gradient_checkpointing=True, packing="packed"
    ),
    "lora-3-bfloat16": replace(SETTINGS, lora=ADAPTERS, zero_stage=3, deepspeed=SHARDED, dtype="bfloat16"),
}
BORDERS = ("bfloat16-1", "bfloat16-3", "lora-3-bfloat16")
RESUMED_LORA = ("lora-0", "lora-3")
LORA_COMBINATIONS = [(2, name) for name in LORA] + [(1, "lora-0"), (1, "lora-3")]
OBJECTIVE_COMBINATIONS = [(2, name) for name in OBJECTIVES] + [(1, name) for name in ("bcpg packed", "dpo", "kto")]
# By world size and name. What a test compares with another case (a resumed training with one that was left alone) is in the
# same half.
QUICK = {
    (2, name)
    for name in (
        *("tied-2", "failures-2", "untied-3", "bfloat16-1", "border bfloat16-1", "lora-2"),
        *("bcpg packed", "rft", "dpo packed", "kto", "stopped", "again", "peer lost"),
    )
}
# The right responses are pushed down, and training is to notice it at the second step.
FALLING = replace(SETTINGS, early_stop_nats=1e-6, early_stop_window=1, checkpoint_every_steps=1, zero_stage=2)
TIMEOUT_S = 400


def cases(*combinations: tuple[Any, ...], names: Callable[..., tuple[int, str]]) -> list[Any]:
    """Parameters of a test, slow unless ``names(*combination)`` is a quick case."""
    return [
        pytest.param(*each, marks=() if names(*each) in QUICK else pytest.mark.slow, id="-".join(map(str, each)))
        for each in combinations
    ]


def on_two_ranks(name: str) -> tuple[int, str]:
    return 2, name


def as_named(world_size: int, name: str) -> tuple[int, str]:
    return world_size, name


def falling_rows(directory: Path) -> list[TrainRow]:
    rows = with_reference(make_rows(), torch.load(directory / "reference.pt", weights_only=False))
    return [replace(row, advantage=-abs(row.advantage)) for row in rows]


def exercise_objective(trainer: TrainerRank, model: str, root: Path, name: str, world_size: int) -> list[StepReport]:
    """An objective under DeepSpeed."""
    rows = torch.load(root / "objective_rows.pt", weights_only=False)[name]
    trainer.open(model, replace(OBJECTIVES[name], deepspeed=SHARDED))
    reports = trainer.train(rows, None)
    trainer.save_snapshot(str(root / f"{name}-{world_size}"))
    return reports


def exercise_early_stop(trainer: TrainerRank, model: str, directory: Path, name: str) -> dict[str, Any]:
    """Reports of a training that stops, and of the same training resumed from its last checkpoint."""
    seen = {}
    for run in ("stopped", "stopped again"):
        resume = newest_on_disk(directory / name) if run == "stopped again" else None
        trainer.open(model, FALLING)
        seen[run] = trainer.train(falling_rows(directory), str(directory / name), resume)
        trainer.save_snapshot(str(directory / f"{name}-snapshot-{run[7:]}"))
    return seen


def run_rank(
    rank: int, world_size: int, ports: tuple[int, int], directory: str, models: dict[str, str], names: Collection[str]
) -> None:
    """A DeepSpeed rank's whole life: the cases of these names, then a second group in the same process."""
    root = Path(directory)
    seen: dict[str, Any] = {}
    try:
        torch.set_num_threads(1)
        from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

        trainer = DeepSpeedRank(rank, world_size, "127.0.0.1", ports[0], timeout_s=60)
        for name in names:
            seen[name] = run_case(trainer, name, rank, world_size, root, models)
        seen["beyond loopback"] = beyond_loopback(listening(os.getpid()))
        trainer.close()
        if "again" in names:
            again = DeepSpeedRank(rank, world_size, "127.0.0.1", ports[1], timeout_s=60)
            snapshot = str(root / f"again-{world_size}")
            seen["again"] = exercise(again, models["tied"], whole_settings("tied-2"), root / "tied", snapshot)
            if "peer lost" in names and rank == 1:
                torch.save(seen, root / f"seen-{world_size}-{rank}.pt")
                os._exit(0)  # a peer that is gone
            if "peer lost" in names:
                seen["peer lost"] = lose_peer(again, root / "tied" / "reference.pt")
            else:
                again.close()
    except BaseException:
        seen["error"] = traceback.format_exc()
    torch.save(seen, root / f"seen-{world_size}-{rank}.pt")


def run_case(trainer: TrainerRank, name: str, rank: int, world_size: int, root: Path, models: dict[str, str]) -> Any:
    """What a case of :func:`case_names` saw; None for those of the second group."""
    kind, _, rest = name.partition("-")
    tied, directory = models["tied"], root / "tied"
    if name in ("again", "peer lost"):
        return None
    if name == "stopped":
        return exercise_early_stop(trainer, tied, directory, f"stopped-{world_size}")
    if name in OBJECTIVES:
        return exercise_objective(trainer, tied, root, name, world_size)
    if kind == "failures":
        settings = LORA[rest] if rest in LORA else whole_settings(f"tied-{rest}")
        return exercise_failures(trainer, tied, settings, directory, is_first=rank == 0)
    if kind.startswith("border "):
        trainer.open(tied, (OPTIONS | LORA)[name.removeprefix("border ")])
        return trainer.save_snapshot(str(root / name.replace(" ", "-")))
    if kind in HEADS:
        snapshot = str(root / kind / f"snapshot-{world_size}-{rest}")
        return exercise(trainer, models[kind], whole_settings(name), root / kind, snapshot)
    return exercise(trainer, tied, (OPTIONS | LORA)[name], directory, str(root / f"{name}-{world_size}"))


def whole_settings(name: str) -> TrainSettings:
    """Of a case HEAD-STAGE, which trains whole weights."""
    return replace(SETTINGS, zero_stage=int(name.partition("-")[2]), deepspeed=SHARDED)


def case_names() -> list[tuple[int, str]]:
    """Every case, by world size and name, in the order they are run in."""
    whole = [(world_size, f"{head}-{stage}") for world_size, head, stage in COMBINATIONS]
    failures = [(2, f"failures-{of}") for of in (*STAGES, *RESUMED_LORA)]
    borders = [(2, f"border {name}") for name in BORDERS]
    last = [(world_size, name) for world_size in (1, 2) for name in ("stopped", "again")]
    options = [(2, name) for name in OPTIONS]
    return [*whole, *options, *LORA_COMBINATIONS, *borders, *failures, *OBJECTIVE_COMBINATIONS, *last, (2, "peer lost")]


def lose_peer(trainer: TrainerRank, reference: Path) -> str:
    """Train while the other rank is gone; the name of the error."""
    began = time.perf_counter()
    try:
        trainer.train(with_reference(make_rows(), torch.load(reference, weights_only=False)), None)
    except Exception as error:
        return f"{type(error).__name__} {'at once' if time.perf_counter() - began < 30 else 'late'}"
    return "no error"


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
def plain_lora(root: Path, models: dict[str, str], plain: object) -> dict[str, dict[str, Any]]:
    """What the reference trainer does with adapters; its snapshots are in ``root``."""
    trainer = TorchTrainer("cpu")
    settings = replace(SETTINGS, lora=ADAPTERS)
    return {
        head: exercise(trainer, models[head], settings, root / head, str(root / head / "snapshot-lora"))
        for head in HEADS
    }


@pytest.fixture(scope="module")
def groups(
    request: pytest.FixtureRequest, root: Path, models: dict[str, str], plain: object, prepared: object
) -> dict[int, list[dict[str, Any]]]:
    """What DeepSpeed groups of 1 and of 2 ranks do, by world size: the quick cases, the slow ones or both, as tests were chosen."""
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = {not item.get_closest_marker("slow") for item in request.session.items if item.path == request.path}
    seen = {}
    for world_size in (2, 1):
        names = [name for size, name in case_names() if size == world_size and ((size, name) in QUICK) in chosen]
        if not names:
            continue
        ports = (free_port(), free_port())
        ranks = [
            context.Process(target=run_rank, args=(rank, world_size, ports, str(root), models, names))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(TIMEOUT_S)
            if process.is_alive():
                process.kill()
        seen[world_size] = [
            torch.load(root / f"seen-{world_size}-{rank}.pt", weights_only=False) for rank in range(world_size)
        ]
        for rank in seen[world_size]:
            assert "error" not in rank, rank["error"]
            assert rank["beyond loopback"] == []
    return seen


def assert_same_parameters(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_same_reports(found: list[StepReport], wanted: list[StepReport], tolerance: float) -> None:
    assert report_faults(found, wanted, tolerance) == []


def near(value: Any, rel: float, absolute: float) -> Any:
    """What equals ``value`` up to the tolerances; ``None`` only equals itself."""
    return None if value is None else pytest.approx(value, rel=rel, abs=absolute)


# --- the reference trainer against plain transformers -----------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_reference_logprobs_are_those_of_a_plain_forward(head: str, models: dict[str, str], plain: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(models[head], dtype=torch.float32).eval()
    for index, row in enumerate(make_rows()):
        ids = torch.tensor([row.prompt_token_ids + row.token_ids])
        with torch.no_grad():
            logprobs = model(ids).logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
        wanted = logprobs[len(row.prompt_token_ids) - 1 :]
        torch.testing.assert_close(torch.tensor(plain[head]["reference"][index].response), wanted, rtol=0, atol=2e-5)


# --- the objectives written out: row by row, without padding, chunks, micro-batches or ranks --------------------------


def token_terms(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the response's tokens, and the entropies of the distributions they are drawn from."""
    logprobs = model(torch.tensor([prompt + response])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()
    return logprobs.gather(1, torch.tensor(response)[:, None]).squeeze(1), entropy


def written_out(
    objective: Any, row: TrainRow, lp: torch.Tensor, change: torch.Tensor, rival: torch.Tensor | None, z0: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A row's loss before the step's divisor, its push per token, and which tokens a clip or taper cut.

    ``change`` is lp - lp_ref per token of the response, ``rival`` that of the rival.
    """
    beta, number = torch.tensor(row.token_weights), len(row.token_ids)
    right = row.reward == 1.0
    match objective.name:
        case "bcpg":
            push = beta * row.advantage
            return -((push * lp).sum() - objective.tau / 2 * change.sum() ** 2) / number, push, None
        case "rft":
            return -lp.sum(), torch.ones(number), None
        case "dpo":
            assert rival is not None
            margin = objective.beta * (change.sum() - rival.sum())
            loss = -torch.sigmoid(margin).log() - objective.nll_weight * lp.mean()
            return loss, objective.beta * torch.sigmoid(-margin).detach() * torch.ones(number), None
        case "grpo":
            push = beta * row.advantage / (math.sqrt(row.group_mean * (1 - row.group_mean)) + 1e-6)
            ratio = change.exp()
            surrogate = torch.minimum(ratio * push, ratio.clamp(0.8, 1.2) * push)
            k3 = (-change).exp() + change - 1
            clipped = torch.where(push > 0, ratio > 1.2, ratio < 0.8)
            return -(surrogate - objective.kl_weight * k3).sum() / number, push, clipped
        case "kto":
            sign = 1.0 if right else -1.0
            value = torch.sigmoid(sign * objective.beta * (change.sum() - z0))
            push = sign * objective.beta * float((value * (1 - value)).detach()) * torch.ones(number)
            return 1 - value, push, None
        case "topr":
            push = beta if right else -beta
            taper = 1.0 if right else min(1.0, math.exp(float(change.detach().sum())))
            clipped = torch.full((number,), not right and taper < 0.5)
            return -(taper * push * lp).sum(), push, clipped
    raise AssertionError(objective)


def mean(values: list[torch.Tensor]) -> float | None:
    """Over all tokens; None when there is none."""
    flat = torch.cat(values) if values else torch.zeros(0)
    return float(flat.double().mean()) if len(flat) else None


def plain_step(model: Any, rows: list[TrainRow], objective: Any) -> dict[str, Any]:
    """Gradients of a step over ``rows`` into ``model``, and what its report must say."""
    is_pair = objective.rows == "pairs"
    z0 = 0.0
    if objective.rows == "mismatched":
        with torch.no_grad():
            drifts = [
                (
                    token_terms(model, row.prompt_token_ids, row.rival_token_ids)[0] - torch.tensor(row.reference.rival)
                ).sum()
                for row in rows
                if row.rival_token_ids
            ]
        z0 = max(0.0, float(sum(drifts)) / len(drifts)) if drifts else 0.0
    total = torch.zeros(())
    by_class: dict[str, list[torch.Tensor]] = {"right": [], "mined": [], "unmined": []}
    cut: dict[str, list[torch.Tensor]] = {"up": [], "down": []}
    entropies, pushes = [], []
    for row in rows:
        lp, entropy = token_terms(model, row.prompt_token_ids, row.token_ids)
        change = lp - torch.tensor(row.reference.response)
        entropies.append(entropy)
        rival = None
        if is_pair:
            rival_lp, rival_entropy = token_terms(model, row.prompt_token_ids, row.rival_token_ids)
            rival = rival_lp - torch.tensor(row.reference.rival)
            entropies.append(rival_entropy)
            by_class["unmined"].append(rival.detach())
        loss, push, clipped = written_out(objective, row, lp, change, rival, z0)
        total = total + loss
        mined = torch.tensor(row.mined)
        if row.reward == 1.0:
            by_class["right"].append(change.detach())
        else:
            by_class["mined"].append(change.detach()[mined])
            by_class["unmined"].append(change.detach()[~mined])
        if clipped is not None:
            cut["up"].append(clipped[push > 0].float())
            cut["down"].append(clipped[push < 0].float())
        pushes += [push, -push[:1].expand(len(row.rival_token_ids))] if is_pair else [push]
    divisor = sum(len(row.token_ids) for row in rows) if objective.divides_by_tokens else len(rows)
    (total / divisor).backward()
    push = torch.cat(pushes)
    return {
        "loss": float(total.detach()) / divisor,
        "grad_norm": float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])),
        **{f"delta_per_token_{name}": mean(values) for name, values in by_class.items()},
        "delta_per_token_wrong": mean(by_class["mined"] + by_class["unmined"]),
        **{f"clipped_{way}": mean(values) for way, values in cut.items()},
        "entropy": mean(entropies),
        "positive_mass": float(push.clamp(min=0).sum() / push.abs().sum()),
        "num_tokens": sum(map(len, entropies)),
        "num_sequences": len(rows) * (2 if is_pair else 1),
    }


def plain_loop(path: str, rows: list[TrainRow], settings: TrainSettings) -> tuple[list[dict[str, Any]], Any]:
    """All steps of the plan; reports and the trained model."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=settings.adam_betas, weight_decay=settings.weight_decay, foreach=False
    )
    plan = lay_out_training(rows, settings, 1, path)
    reports = []
    for step, rate in zip(plan.steps, plan.rates, strict=True):
        optimizer.zero_grad()
        chosen = [rows[index] for micro_batch in step.ranks[0] for index in micro_batch]
        reports.append(plain_step(model, chosen, settings.objective))
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return reports, model


@pytest.fixture(scope="module")
def prepared(root: Path, models: dict[str, str]) -> dict[str, list[TrainRow]]:
    """Every objective's rows, with a stale reference."""
    trainer = TorchTrainer("cpu")
    rows = {}
    for name, settings in OBJECTIVES.items():
        trainer.open(models["tied"], settings)
        rows[name] = objective_rows(settings)
        rows[name] = with_stale_reference(rows[name], trainer.reference_logprobs(rows[name]))
    torch.save(rows, root / "objective_rows.pt")
    return rows


@pytest.fixture(scope="module")
def trained(root: Path, models: dict[str, str], prepared: dict[str, list[TrainRow]]) -> dict[str, list[StepReport]]:
    """What the reference trainer reports for every objective; its snapshots are in ``root``."""
    torch.set_num_threads(1)
    trainer, seen = TorchTrainer("cpu"), {}
    for name, settings in OBJECTIVES.items():
        trainer.open(models["tied"], settings)
        seen[name] = trainer.train(prepared[name], None)
        trainer.save_snapshot(str(root / f"{name}-plain"))
    return seen


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_train_as_written_out(
    name: str, models: dict[str, str], root: Path, prepared: Any, trained: Any
) -> None:
    """Loss, norm and all telemetry of every step, and the parameters after the last."""
    reports, model = plain_loop(models["tied"], prepared[name], OBJECTIVES[name])
    assert len(trained[name]) == len(reports) > 1
    for found, wanted in zip(trained[name], reports, strict=True):
        for field, value in wanted.items():
            assert getattr(found, field) == near(value, 1e-4, 1e-5), field
        assert sum(found.loss_parts.values()) == pytest.approx(found.loss, rel=1e-5)
    assert_same_parameters(parameters(root / f"{name}-plain"), dict(model.named_parameters()), 1e-4)


def test_what_the_stale_reference_is_for(trained: Any) -> None:
    """Else nothing above would see a clip, a taper or a drift."""
    assert 0 < trained["grpo"][0].clipped_up < 1
    assert 0 < trained["grpo"][0].clipped_down < 1
    assert any(report.clipped_down for report in trained["topr"])
    assert set(trained["grpo"][0].loss_parts) == {"surrogate", "kl"}
    assert trained["bcpg"][0].clipped_up is None
    assert trained["rft"][0].positive_mass == 1.0
    assert trained["dpo"][0].delta_per_token_mined is None
    assert trained["dpo"][0].delta_per_token_wrong == trained["dpo"][0].delta_per_token_unmined
    assert [report.num_sequences for report in trained["dpo"]] == [4, 4, 4, 4]  # pairs: five responses hold two


def test_first_step_has_no_drift(plain: Any) -> None:
    """One forward for reference and policy: what is left is fp32 rounding, as their micro-batches hold other rows."""
    for head in HEADS:
        report = plain[head]["reports"][0]
        for name in ("right", "wrong", "mined", "unmined"):
            assert abs(getattr(report, f"delta_per_token_{name}")) < 1e-7, (head, name)


def test_a_step_of_all_rows_begins_at_the_reference_exactly(models: dict[str, str]) -> None:
    """Its micro-batches are those of the reference pass, and the same forward of the same rows gives the same bits."""
    torch.set_num_threads(1)
    trainer, rows = TorchTrainer("cpu"), make_rows()
    trainer.open(models["tied"], replace(SETTINGS, batch_sequences=len(rows), epochs=1))
    report = trainer.train(with_reference(rows, trainer.reference_logprobs(rows)), None)[0]
    assert report.delta_per_token_right == report.delta_per_token_wrong == 0.0
    assert report.delta_per_token_mined == report.delta_per_token_unmined == 0.0


# --- nothing but the rows decides the gradient ------------------------------------------------------------------------


def one_step(path: str, rows: list[TrainRow], settings: TrainSettings) -> tuple[dict[str, torch.Tensor], StepReport]:
    """Gradients and report of a step over all rows."""
    trainer = TorchTrainer("cpu")
    trainer.open(path, replace(settings, epochs=1, batch_sequences=100, grad_clip=0.0))
    (report,) = trainer.train(rows, None)
    return {name: parameter.grad for name, parameter in trainer._opened().causal_lm.named_parameters()}, report


@pytest.mark.parametrize("name", ["bcpg", "rft", "dpo", "grpo", "kto", "topr"])
def test_gradient_does_not_depend_on_how_rows_are_laid_out(name: str, models: dict[str, str], prepared: Any) -> None:
    """Permuted, one by one, in one padded rectangle, packed in one row or in several."""
    rows, settings = prepared[name], OBJECTIVES[name]
    wanted, report = one_step(models["tied"], rows, settings)
    assert report.num_tokens == sum(len(row.token_ids) for row in rows) + (
        sum(len(row.rival_token_ids) for row in rows) if name == "dpo" else 0
    )
    shuffled = [rows[index] for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(2)).tolist()]
    for given, change in (
        (shuffled, {}),
        (rows, {"micro_batch_tokens": 1}),
        (rows, {"micro_batch_tokens": 10**6}),
        (rows, {"packing": "packed"}),
        (shuffled, {"packing": "packed", "micro_batch_tokens": 10**6}),
        (rows, {"logprob_chunk_tokens": 10**6, "gradient_checkpointing": True}),
    ):
        found, other = one_step(models["tied"], given, replace(settings, **change))
        assert_same_reports([other], [report], 2e-5)
        for parameter, gradient in wanted.items():
            difference = (found[parameter] - gradient).abs().max()
            assert difference <= 1e-5 * gradient.abs().max() + 1e-8, (change, parameter)


def test_packed_sequences_do_not_see_each_other(models: dict[str, str]) -> None:
    """Other neighbours, the same log-probs; and they are those of the padded rectangle."""
    rows = make_rows()
    sequences = [(row.prompt_token_ids, row.token_ids) for row in rows]
    trainer = TorchTrainer("cpu")
    trainer.open(models["tied"], SETTINGS)
    wanted = trainer.score_tokens(sequences)
    trainer.open(models["tied"], replace(SETTINGS, packing="packed"))
    for chosen in (list(range(len(rows))), [3, 0, 7], [5]):
        for index, found in zip(chosen, trainer.score_tokens([sequences[i] for i in chosen]), strict=True):
            assert found == pytest.approx(wanted[index], abs=1e-5)


def test_a_packing_that_leaks_is_refused_before_the_first_step(models: dict[str, str]) -> None:
    """An attention that obeys no boundary, as a checkpoint's own code or a kernel may; position ids still restart."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def leak(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        return sdpa_attention_forward(module, query, key, value, None, **{**options, "is_causal": True})

    AttentionInterface.register("leaking", leak)
    AttentionMaskInterface.register("leaking", sdpa_mask)
    trainer = TorchTrainer("cpu")
    for attention in ("leaking", "sdpa"):
        for packing in ("padded", "packed"):
            trainer.open(models["tied"], replace(SETTINGS, packing=packing, attention=attention))
            rows = with_reference(make_rows(), trainer.reference_logprobs(make_rows()))
            if (attention, packing) != ("leaking", "packed"):
                assert trainer.train(rows, None)
                continue
            before = {name: tensor.clone() for name, tensor in trainer._parameters()}
            with pytest.raises(ConfigError, match=r"train\.packing: packed, but"):
                trainer.train(rows, None)
            assert_same_parameters(dict(trainer._parameters()), before, 0.0)


def test_a_reference_pass_scores_rivals_too(models: dict[str, str]) -> None:
    rows = objective_rows(OBJECTIVES["kto"])
    trainer = TorchTrainer("cpu")
    for packing in ("padded", "packed"):
        trainer.open(models["tied"], replace(OBJECTIVES["kto"], packing=packing))
        found = trainer.reference_logprobs(rows)
        for index, row in enumerate(rows):
            alone = [(row.prompt_token_ids, row.token_ids), (row.prompt_token_ids, row.rival_token_ids)]
            response, rival = trainer.score_tokens(alone)
            assert found[index].response == pytest.approx(response, abs=1e-5)
            assert found[index].rival == pytest.approx(rival, abs=1e-5)
            assert len(found[index].rival) == len(row.rival_token_ids)


# --- the early stop


def test_plain_trainer_stops_early_and_stays_stopped(models: dict[str, str], root: Path, plain: Any) -> None:
    seen = exercise_early_stop(TorchTrainer("cpu"), models["tied"], root / "tied", "stopped-plain")
    assert [report.step for report in seen["stopped"]] == [0, 1]
    assert {report.num_steps for report in seen["stopped"]} == {6}
    assert seen["stopped"][1].delta_per_token_right < -1e-6
    assert seen["stopped again"] == seen["stopped"]
    folder = root / "tied"
    one, another = (verify_snapshot(str(folder / f"stopped-plain-snapshot-{end}")) for end in ("", " again"))
    assert one == another
    trainer = TorchTrainer("cpu")
    trainer.open(models["tied"], replace(FALLING, early_stop_nats=0.0))
    assert len(trainer.train(falling_rows(folder), None)) == 6


def test_plain_snapshot_loads_in_transformers(models: dict[str, str], root: Path, plain: Any) -> None:
    for head in HEADS:
        snapshot = root / head / "snapshot-plain"
        assert verify_snapshot(str(snapshot)) == plain[head]["digests"]
        assert ("lm_head.weight" in plain[head]["digests"]) == (head == "untied")
        assert (snapshot / "tokenizer_config.json").read_text() == '{"chat_template": "stand-in"}'
        model, loading = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"]
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == (head == "tied")
        written = parameters(snapshot)
        assert {name: tuple(spec.shape) for name, spec in written.items()} == {
            spec.name: spec.shape for spec in plain[head]["specs"]
        }
        before = parameters_of_model(models[head])
        assert all(not torch.equal(written[name], before[name]) for name in written), "every parameter is trained"


def parameters_of_model(path: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).named_parameters())


def test_plain_trainer_diverges_stops_and_resumes_bit_for_bit(models: dict[str, str], root: Path, plain: Any) -> None:
    directory = root / "tied"
    settings = replace(SETTINGS, zero_stage=9)  # only names the directories
    seen = exercise_failures(TorchTrainer("cpu"), models["tied"], settings, directory, is_first=True)
    assert (seen["nan loss"], seen["inf gradient"]) == ("unchanged", "unchanged")
    assert seen["faults"] == ()
    assert (seen["kept"], seen["kept_at_end"]) == (["step-000002"], ["step-000002", "step-000006"])
    assert seen["resumed"] == plain["tied"]["reports"]
    assert plain["tied"]["push"] == (plain["tied"]["specs"], plain["tied"]["digests"])
    assert verify_snapshot(str(directory / "resumed-9")) == plain["tied"]["digests"]
    assert [report.step for report in seen["other"]] == [0, 1, 2]
    assert seen["other"][0].delta_per_token_right == 0.0


def test_plain_trainer_in_bfloat16_and_with_checkpointing(models: dict[str, str], root: Path, plain: Any) -> None:
    trainer = TorchTrainer("cpu")
    for change, tolerance in (({"gradient_checkpointing": True}, 1e-5), ({"dtype": "bfloat16"}, 0.05)):
        seen = exercise(trainer, models["tied"], replace(SETTINGS, **change), root / "tied", str(root / "other"))
        assert_same_reports(seen["reports"], plain["tied"]["reports"], tolerance)


def test_rows_that_cannot_be_trained_on(models: dict[str, str]) -> None:
    trainer = TorchTrainer("cpu")
    trainer.open(models["tied"], SETTINGS)
    rows = make_rows()
    reference = trainer.reference_logprobs(rows)
    with pytest.raises(DataError, match="row 0 has no reference"):
        trainer.train(rows, None)
    whole = with_reference(rows, reference)
    for change, message in (
        ({"mined": ()}, "0 mined flags"),
        ({"token_weights": (1.0,) * 99}, "99 weights"),
        ({"token_ids": (), "token_weights": (), "mined": (), "reference": ReferenceLogprobs(())}, "0 tokens"),
        ({"rival_token_ids": (1, 2)}, "rival of 2 tokens, 0 reference"),
    ):
        with pytest.raises(DataError, match=f"row 1: .*{message}"):
            trainer.train([whole[0], replace(whole[1], **change)], None)
    trainer.open(models["tied"], replace(SETTINGS, objective=Dpo()))
    with pytest.raises(DataError, match="row 0 has no rival"):
        trainer.train(whole, None)
    with pytest.raises(DataError, match=r"config\.json"):
        trainer.open("/nowhere", SETTINGS)
    with pytest.raises(ConfigError, match="DeepSpeed"):
        trainer.open(models["tied"], replace(SETTINGS, deepspeed={"steps_per_print": 1}))


# --- DeepSpeed against the reference trainer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world_size", "head", "stage"),
    cases(*COMBINATIONS, names=lambda world_size, head, stage: (world_size, f"{head}-{stage}")),
)
def test_deepspeed_trains_as_plain_torch(
    world_size: int, head: str, stage: int, groups: Any, plain: Any, root: Path
) -> None:
    """Norms (so gradients) to 1e-5 relative at every step, parameters to 1e-5 after six AdamW steps of up to 2e-3."""
    ranks = [seen[f"{head}-{stage}"] for seen in groups[world_size]]
    wanted = plain[head]
    reference = {index: values for seen in ranks for index, values in seen["reference"].items()}
    assert sum(len(seen["reference"]) for seen in ranks) == len(reference) == len(make_rows())
    for index, values in wanted["reference"].items():
        assert reference[index].response == pytest.approx(values.response, abs=2e-5)
    for seen in ranks:
        assert_same_reports(seen["reports"], wanted["reports"], 1e-5)
        assert seen["reports"] == ranks[0]["reports"]
        assert seen["specs"] == wanted["specs"]
        for mine, theirs in zip(seen["scores"], wanted["scores"], strict=True):
            assert mine == pytest.approx(theirs, abs=2e-4)
    snapshot = root / head / f"snapshot-{world_size}-{stage}"
    assert verify_snapshot(str(snapshot)) == ranks[0]["digests"]
    assert [seen["digests"] for seen in ranks[1:]] == [None] * (world_size - 1)
    assert [seen["push"] for seen in ranks] == [
        (wanted["specs"], ranks[0]["digests"]),
        *[(wanted["specs"], {})] * (world_size - 1),
    ]
    # A push that fails on rank 0 is its error alone: the others gathered to the end and go on.
    assert [seen["broken push"][0] for seen in ranks] == ["a receiver is gone", *[wanted["specs"]] * (world_size - 1)]
    assert_same_parameters(parameters(snapshot), parameters(root / head / "snapshot-plain"), 1e-5)


@pytest.mark.parametrize(("world_size", "name"), cases(*OBJECTIVE_COMBINATIONS, names=as_named))
def test_deepspeed_trains_any_objective_as_plain_torch(
    world_size: int, name: str, groups: Any, trained: Any, root: Path
) -> None:
    for seen in groups[world_size]:
        assert_same_reports(seen[name], trained[name], 2e-5)
        assert seen[name] == groups[world_size][0][name]
    assert_same_parameters(parameters(root / f"{name}-{world_size}"), parameters(root / f"{name}-plain"), 1e-4)


@pytest.mark.parametrize("world_size", cases((1,), (2,), names=lambda world_size: (world_size, "stopped")))
def test_deepspeed_stops_early_on_all_ranks_and_stays_stopped(world_size: int, groups: Any, root: Path) -> None:
    for seen in groups[world_size]:
        assert [report.step for report in seen["stopped"]["stopped"]] == [0, 1]
        assert seen["stopped"]["stopped again"] == seen["stopped"]["stopped"]
    one, another = (
        verify_snapshot(str(root / "tied" / f"stopped-{world_size}-snapshot-{end}")) for end in ("", " again")
    )
    assert one == another


@pytest.mark.parametrize("stage", cases(*((stage,) for stage in STAGES), names=lambda stage: (2, f"failures-{stage}")))
def test_deepspeed_diverges_on_all_ranks_before_the_step(stage: int, groups: Any) -> None:
    for seen in groups[2]:
        assert seen[f"failures-{stage}"]["nan loss"] == "unchanged"
        assert seen[f"failures-{stage}"]["inf gradient"] == "unchanged"


@pytest.mark.parametrize("stage", cases(*((stage,) for stage in STAGES), names=lambda stage: (2, f"failures-{stage}")))
def test_deepspeed_resumes_bit_for_bit(stage: int, groups: Any, root: Path) -> None:
    for seen in groups[2]:
        failures = seen[f"failures-{stage}"]
        assert failures["faults"] == ()
        assert failures["cut"] == [True]
        assert failures["fell back"] == failures["resumed"]
        assert failures["kept"] == ["step-000002"]
        assert failures["kept_at_end"] == ["step-000002", "step-000006"]
        assert failures["resumed"] == seen[f"tied-{stage}"]["reports"]
        assert [report.step for report in failures["other"]] == [0, 1, 2]
        # No step was taken before: nothing but rounding, which depends on how a batch is laid out.
        assert abs(failures["other"][0].delta_per_token_right) < 1e-6
    wanted = groups[2][0][f"tied-{stage}"]["digests"]
    assert verify_snapshot(str(root / "tied" / f"resumed-{stage}")) == wanted
    assert groups[2][0][f"failures-{stage}"]["fell back digests"] == wanted


@pytest.mark.parametrize("name", cases(*((name,) for name in OPTIONS), names=on_two_ranks))
def test_deepspeed_options(name: str, groups: Any, plain: Any, root: Path) -> None:
    is_bf16 = name.startswith("bfloat16")
    for seen in groups[2]:
        assert_same_reports(seen[name]["reports"], plain["tied"]["reports"], 0.05 if is_bf16 else 1e-5)
    found = parameters(root / f"{name}-2")
    assert groups[2][0][name]["push"] == (plain["tied"]["specs"], groups[2][0][name]["digests"])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}  # master weights, not their bf16 copies
    wanted = parameters(root / "tied" / "snapshot-plain")
    if not is_bf16:
        assert_same_parameters(found, wanted, 1e-5)
    else:  # AdamW turns a gradient's sign into a whole step, so single entries may differ by several steps
        differences = torch.cat([(found[name] - wanted[name]).abs().flatten() for name in wanted])
        assert differences.mean() < 5e-4
        assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in found.values())


@pytest.mark.parametrize("name", cases(*((name,) for name in BORDERS), names=lambda name: (2, f"border {name}")))
def test_a_round_in_bfloat16_starts_from_all_of_the_weights(name: str, groups: Any, models: Any, root: Path) -> None:
    """Not from their bf16 halves: updates that are too small for those would be lost between rounds."""
    before = parameters_of_model(models["tied"])
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in before.values())
    found = parameters(root / f"border-{name}")
    assert found.keys() == before.keys()
    for parameter, tensor in before.items():
        assert torch.equal(found[parameter], tensor), parameter


@pytest.mark.parametrize("world_size", cases((1,), (2,), names=lambda world_size: (world_size, "again")))
def test_deepspeed_makes_a_second_group_in_one_process(world_size: int, groups: Any, plain: Any) -> None:
    for seen in groups[world_size]:
        assert_same_reports(seen["again"]["reports"], plain["tied"]["reports"], 1e-5)


def test_deepspeed_says_that_a_peer_is_gone(groups: Any) -> None:
    assert groups[2][0]["peer lost"] == "MemberLostError at once"


@pytest.mark.parametrize(
    ("deepspeed", "message"),
    [
        ({"train_batch_size": 4}, r"train\.batch_sequences"),
        ({"zero_optimization": {"stage": 1}}, r"train\.zero_stage"),
        ({"fp16": {"enabled": True}}, r"train\.dtype"),
        ({"zero_optimization": {"stag": 1}}, "stag"),
        ({"zero_optimization": 2}, "mapping"),
        ({"wall_clock_brakdown": True}, "wall_clock_brakdown"),
    ],
)
def test_deepspeed_config_is_refused_before_anything_starts(deepspeed: dict[str, Any], message: str) -> None:
    from bcpg_cluster.stages.train.deepspeed.config import check_deepspeed_config

    with pytest.raises(ConfigError, match=message):
        check_deepspeed_config(deepspeed)


def test_deepspeed_config_is_passed_through_untouched() -> None:
    from bcpg_cluster.stages.train.deepspeed.config import check_deepspeed_config, deepspeed_config

    given = {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": False}}
    check_deepspeed_config(given)
    config = deepspeed_config(replace(SETTINGS, zero_stage=1, deepspeed=given))
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"] == {"overlap_comm": False, "stage": 1}
    assert given == {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": False}}
    with pytest.raises(ConfigError, match="bfloat16"):
        check_deepspeed_config(None, zero_stage=0, dtype="bfloat16")


# --- adapters ---------------------------------------------------------------------------------------------------------


def layer_names(head: str) -> set[str]:
    """The weights that adapters change: every linear layer of the two blocks, never a head."""
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    return {f"model.layers.{layer}.{part}.weight" for layer in range(2) for part in parts}


@pytest.mark.parametrize("head", HEADS)
def test_adapters_leave_as_the_weights_they_amount_to(
    head: str, models: dict[str, str], root: Path, plain: Any, plain_lora: Any
) -> None:
    """Base + alpha / rank * B A by hand, under a full model's names; everything else is the base, bit for bit."""
    seen, before = plain_lora[head], parameters_of_model(models[head])
    trainer = TorchTrainer("cpu")
    trainer.open(models[head], replace(SETTINGS, lora=ADAPTERS))
    rows = make_rows()
    reference = trainer.reference_logprobs(rows)
    assert reference == plain[head]["reference"], "fresh adapters change nothing"
    assert trainer.train(with_reference(rows, reference), None) == seen["reports"]
    assert seen["reports"][0].delta_per_token_right == 0.0
    trained = dict(trainer._opened().causal_lm.named_parameters())
    merged = parameters(root / head / "snapshot-lora")
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        if name in layer_names(head):
            up, down = (trained[f"{module}.lora_{which}.default.weight"].detach() for which in "BA")
            assert up.shape[1] == down.shape[0] == 4 and up.any() and down.any()
            torch.testing.assert_close(merged[name], weight + 1.5 * (up @ down), rtol=0, atol=1e-6)
            assert torch.equal(trained[f"{module}.base_layer.weight"], weight), "not merged in place"
            assert not torch.equal(merged[name], weight)
        else:
            assert torch.equal(merged[name], weight), name
    # Alone they travel as A and B of every layer, in model order.
    assert [(spec.name, spec.dtype, spec.shape) for spec in seen["adapter specs"]] == [
        (f"{name.removesuffix('.weight')}.lora_{which}.weight", "float32", shape)
        for name in (name for name in before if name in layer_names(head))
        for which, shape in (("A", (4, before[name].shape[1])), ("B", (before[name].shape[0], 4)))
    ]
    assert seen["adapter push"] == (seen["adapter specs"], seen["adapter digests"])
    assert len(seen["adapter digests"]) == 2 * len(layer_names(head))
    assert (plain[head]["adapter specs"], plain[head]["adapter digests"]) == ([], {})
    # What engines are sent and told is what a full training would send.
    assert seen["specs"] == plain[head]["specs"]
    assert seen["push"] == (plain[head]["specs"], seen["digests"])
    assert verify_snapshot(str(root / head / "snapshot-lora")) == seen["digests"]


def test_a_round_goes_on_from_the_merged_snapshot(models: dict[str, str], root: Path, plain_lora: Any) -> None:
    """An ordinary model that says what the adapters said; the next round's adapters are fresh ones on top of it."""
    snapshot = root / "tied" / "snapshot-lora"
    _, loading = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    trainer = TorchTrainer("cpu")
    for lora in (None, ADAPTERS):
        trainer.open(str(snapshot), replace(SETTINGS, lora=lora, seed=4))
        sequences = [(row.prompt_token_ids, row.token_ids) for row in make_rows()[:3]]
        for found, wanted in zip(trainer.score_tokens(sequences), plain_lora["tied"]["scores"], strict=True):
            assert found == pytest.approx(wanted, abs=1e-4)


def test_adapters_are_what_is_trained_and_remembered(models: dict[str, str]) -> None:
    """Bytes of the optimiser's two moments, counted."""

    def moments(lora: LoraSettings | None) -> int:
        trainer = TorchTrainer("cpu")
        trainer.open(models["tied"], replace(SETTINGS, lora=lora))
        rows = make_rows()
        trainer.train(with_reference(rows, trainer.reference_logprobs(rows)), None)
        state = trainer._optimizer.state.values()
        return sum(state[key].numel() * 4 for state in state for key in ("exp_avg", "exp_avg_sq"))

    whole = sum(parameter.numel() for parameter in parameters_of_model(models["tied"]).values())
    # rank x (in + out) of q, k, v, o, gate, up, down in both blocks
    small = 2 * 4 * sum(a + b for a, b in [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)])
    assert (moments(None), moments(ADAPTERS)) == (8 * whole, 8 * small)
    assert moments(LoraSettings(rank=1, target_modules=("q_proj", "layers.1.mlp.up_proj"))) == 8 * (64 + 64 + 80)


def test_dropout_of_adapters_is_in_steps_alone(models: dict[str, str], root: Path, plain: Any) -> None:
    """Scores have none, and a training that goes on draws what it would have drawn."""
    settings = replace(SETTINGS, zero_stage=8, lora=replace(ADAPTERS, dropout=0.3))
    trainer = TorchTrainer("cpu")
    seen = exercise(trainer, models["tied"], settings, root / "tied", str(root / "dropout"))
    assert seen["reference"] == plain["tied"]["reference"]
    sequence = [(row.prompt_token_ids, row.token_ids) for row in make_rows()[:1]]
    assert trainer.score_tokens(sequence) == trainer.score_tokens(sequence)
    without = replace(settings, lora=ADAPTERS)
    trainer.open(models["tied"], without)
    rows = with_reference(make_rows(), plain["tied"]["reference"])
    assert trainer.train(rows, None)[-1].loss != seen["reports"][-1].loss
    failures = exercise_failures(TorchTrainer("cpu"), models["tied"], settings, root / "tied", is_first=True)
    assert failures["resumed"] == seen["reports"]
    assert verify_snapshot(str(root / "tied" / "resumed-8-lora")) == seen["digests"]


def test_layers_that_cannot_be_adapted(models: dict[str, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(models["untied"])
    assert {f"{name}.weight" for name in target_layers(model, LoraSettings())} == layer_names("untied")
    trainer = TorchTrainer("cpu")
    for target in ("query_key_value", "lm_head", "embed_tokens", "proj", "layers.2.mlp.up_proj"):
        with pytest.raises(ConfigError, match=f"Qwen2ForCausalLM has no {target}") as caught:
            trainer.open(models["untied"], replace(SETTINGS, lora=replace(ADAPTERS, target_modules=("q_proj", target))))
        assert caught.value.remedy == "this model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(("world_size", "name"), cases(*LORA_COMBINATIONS, names=as_named))
def test_deepspeed_trains_adapters_as_plain_torch(
    world_size: int, name: str, groups: Any, plain_lora: Any, root: Path
) -> None:
    ranks, wanted = [seen[name] for seen in groups[world_size]], plain_lora["tied"]
    is_bf16 = name.endswith("bfloat16")
    for seen in ranks:
        assert_same_reports(seen["reports"], wanted["reports"], 0.05 if is_bf16 else 2e-5)
        assert seen["specs"] == wanted["specs"]
        assert seen["scores"] == ranks[0]["scores"]
        assert seen["adapter specs"] == wanted["adapter specs"]
    snapshot = root / f"{name}-{world_size}"
    assert verify_snapshot(str(snapshot)) == ranks[0]["digests"]
    assert ranks[0]["push"] == (wanted["specs"], ranks[0]["digests"])
    assert [seen["broken push"][0] for seen in ranks] == ["a receiver is gone", *[wanted["specs"]] * (world_size - 1)]
    assert ranks[0]["adapter push"] == (wanted["adapter specs"], ranks[0]["adapter digests"])
    assert [seen["adapter digests"] is None for seen in ranks] == [False, *[True] * (world_size - 1)]
    others = [wanted["adapter specs"]] * (world_size - 1)
    assert [seen["broken adapter push"][0] for seen in ranks] == ["a receiver is gone", *others]
    found, expected = parameters(snapshot), parameters(root / "tied" / "snapshot-lora")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    if not is_bf16:
        assert_same_parameters(found, expected, 2e-5)  # products of two trained matrices; seen: one value of 1.02e-5
        apart = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
        assert (apart > 1e-5).float().mean() < 1e-3
    else:
        differences = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
        assert differences.mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED_LORA)
def test_deepspeed_resumes_adapters_bit_for_bit(name: str, groups: Any, root: Path) -> None:
    stage = int(name[-1])
    for seen in groups[2]:
        failures = seen[f"failures-{name}"]
        assert (failures["nan loss"], failures["inf gradient"]) == ("unchanged", "unchanged")
        assert failures["resumed"] == seen[name]["reports"]
    assert verify_snapshot(str(root / "tied" / f"resumed-{stage}-lora")) == groups[2][0][name]["digests"]
    kept = list((root / "tied" / f"checkpoints-{stage}-lora").glob("step-*/*model_states.pt"))
    assert kept, "the frozen weights stay out of step checkpoints: they are on disk already"
    for file in kept:
        content = torch.load(file, weights_only=False)
        # DeepSpeed leaves out what `named_parameters` names, and that has a tied head under its other name alone.
        others = [key for key in content["module"] if "lora_" not in key and not key.endswith("lm_head.weight")]
        assert not others and not content["frozen_param_fragments"]
