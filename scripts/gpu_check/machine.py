"""Where the checks run."""

from __future__ import annotations

import subprocess

import torch

from benchmarks.measure import facts
from scripts.gpu_check.record import Machine


def this_machine(device: str) -> Machine:
    """Device, driver, torch, versions and commit."""
    known = facts()
    is_gpu = device == "cuda"
    versions = {**known["versions"], "torch": torch.__version__}
    return Machine(
        device=torch.cuda.get_device_name() if is_gpu else known["device"],
        is_gpu=is_gpu,
        driver=_driver() if is_gpu else None,
        cuda=torch.version.cuda,
        memory_gib=round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if is_gpu else None,
        python=known["python"],
        versions=versions,
        commit=known["commit"],
        load_average=known["load_average"],
    )


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]
