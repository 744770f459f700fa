"""Tokens a second of a training step on Qwen2.5-0.5B's shape, and what share of the GPU's peak that is."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from benchmarks.measure import free_port, summarise
from scripts.gpu_check.bench import Bench, require
from scripts.gpu_check.layouts import num_tokens
from scripts.gpu_check.shapes import mixed_rows, random_model, shape, step_settings

PEAK_BF16_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0, "A800": 312.0,
    "L40S": 362.0, "L4": 121.0, "A10": 125.0,
}  # fmt: skip
"""Dense bf16 peaks by part of the device's name, the more exact names first; NVIDIA's data sheets."""


def check_throughput(bench: Bench) -> None:
    """Three steps of plain torch and, where it is installed, of DeepSpeed's ZeRO 2, after one to warm up."""
    of = shape(bench.is_small)
    model, rows = random_model(of, bench.shared / "model"), mixed_rows(of)
    dtype = "bfloat16" if bench.is_gpu else "float32"
    peak = peak_tflops(torch.cuda.get_device_name()) if bench.is_gpu else None
    why = "" if peak else "no GPU" if not bench.is_gpu else "the peak of this device is not known"
    bench.note(dtype=dtype, rows=len(rows), tokens=num_tokens(rows), step_tflop=of.step_flops(rows) / 1e12)
    bench.note(peak_bf16_tflops=peak, **({"no_mfu": why} if why else {}))
    for name, trainer in trainers(bench.device):
        trainer.open(model, step_settings(of, dtype))
        if bench.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        first = trainer.train(rows, None)[0].loss
        seconds = [bench.seconds(lambda trainer=trainer: trainer.train(rows, None)) for _ in range(3)]
        last = trainer.reports[0].loss
        trainer.close()
        rate = [num_tokens(rows) / value for value in seconds]
        bench.note(**{f"{name}: tokens_per_s": summarise(rate), f"{name}: loss": [first, last]})
        if bench.is_gpu:
            bench.note(**{f"{name}: peak_gib": torch.cuda.max_memory_allocated() / 2**30})
        if peak:
            bench.note(
                **{f"{name}: mfu": summarise([of.step_flops(rows) / value / (peak * 1e12) for value in seconds])}
            )
        require(
            last < first, f"{name}: four steps on the same rows did not lower the loss: {first:.5g}, then {last:.5g}"
        )
    if importlib.util.find_spec("deepspeed") is None:
        bench.note(deepspeed="not installed")


def trainers(device: str) -> Any:
    """By name, one after the other: the second is made when the first has been closed."""
    yield "torch", TorchTrainer(device)
    if importlib.util.find_spec("deepspeed") is not None:
        from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

        yield "deepspeed zero 2", DeepSpeedRank(0, 1, "127.0.0.1", free_port(), timeout_s=60)


def peak_tflops(device: str) -> float | None:
    """Dense bf16 TFLOP/s of a device by its name; ``None`` where it is not known."""
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in device), None)
