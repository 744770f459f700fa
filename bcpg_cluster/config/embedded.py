"""Names of what ships inside the package: ``embedded:NAME``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from bcpg_cluster.errors import ConfigError

EMBEDDED = "embedded:"


def resolve_asset(name: str) -> str:
    """Turn ``embedded:NAME`` into the path of the shipped file or directory; any other name is returned unchanged.

    Raises:
        ConfigError: the package ships nothing of that name.
    """
    if not name.startswith(EMBEDDED):
        return name
    root = Path(str(resources.files("bcpg_cluster"))) / "assets"
    path = root / name.removeprefix(EMBEDDED)
    if not path.exists():
        shipped = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_"))
        raise ConfigError(
            f"{name!r} is not shipped",
            rule=f"embedded: names one of {shipped} (prompts as embedded:prompts/train.jsonl)",
            remedy="correct the name, or give a path or a Hugging Face id",
        )
    return str(path)
