"""The import graph of the package and the command line, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"bcpg_cluster": ROOT / "bcpg_cluster", "bcpg_cluster_cli": ROOT / "cli" / "bcpg_cluster_cli"}


# Who may import a vendor: patterns from the package's root. Whatever is not named here may be imported anywhere.
VENDORS = {
    "ray": ("cluster/on_ray/*",),
    "vllm": ("stages/*/vllm_*.py", "stages/judge/prm/vllm_*.py", "stages/push/adapters/vllm_*.py"),
    "deepspeed": ("stages/train/deepspeed/*",),
    "transformers": (
        "stages/generate/prompt_lengths.py",
        "stages/generate/tokenizer_check.py",
        "stages/judge/prm/detection.py",
        "stages/judge/prm/transformers_model.py",
        "stages/train/loading/*",
        "stages/train/lora.py",
        "prompts/hub.py",
        "exchange/import_rollouts.py",
        "judging/segment_text.py",
    ),
    "openai": ("stages/judge/endpoint/openai_transport.py", "stages/judge/endpoint/http_client.py"),
    "peft": ("stages/train/lora.py",),
    "wtpsplit": ("stages/segment/sat.py",),
    "wtpsplit_lite": ("stages/segment/sat.py",),
    "math_verify": ("stages/verify/mathematics/comparison.py",),
    "latex2sympy2_extended": ("stages/verify/mathematics/comparison.py",),
    "reasoning_gym": ("prompts/tasks/reasoning_gym.py",),
    "datasets": ("prompts/*.py", "exchange/export_steps.py"),
    "fsspec": ("store/path.py",),
    "wandb": ("watch/tracking/wandb_tracker.py",),
    "mlflow": ("watch/tracking/mlflow_tracker.py",),
    "trackio": ("watch/tracking/trackio_tracker.py",),
    "tensorboard": ("watch/tracking/tensorboard_tracker.py",),
    "matplotlib": ("watch/report/plots.py",),
    "aiohttp": ("watch/view/server.py",),
    "jinja2": ("watch/view/render.py",),
    "markupsafe": ("watch/view/render.py",),
    "scipy": ("watch/report/statistics.py",),
}


@cache
def files() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((name, *(part for part in parts if part != "__init__")))] = path
    return found


def imported(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; with ``at_import_time`` only what its import runs."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_time else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in files() else node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    """Which of our modules each of our modules imports, at import time or later."""
    return {name: frozenset(found for found in imported(path) if found in files()) for name, path in files().items()}


def circles(edges: dict[str, frozenset[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in edges:
        if node not in index:
            visit(node)
    return found
