"""Names of what ships inside the package: ``embedded:NAME``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from bcpg_cluster.errors import ConfigError

EMBEDDED = "embedded:"

_EARLIER = ("policy", "judge", "prm", "prompts")  # what old configs call the chain's, which was the only task


def resolve_asset(name: str) -> str:
    """Turn ``embedded:NAME`` into the path of the shipped file or directory; any other name is returned unchanged.

    Raises:
        ConfigError: the package ships nothing of that name.
    """
    if not name.startswith(EMBEDDED):
        return name
    root = Path(str(resources.files("bcpg_cluster"))) / "assets"
    asset = name.removeprefix(EMBEDDED)
    path = root / ("chain" if asset.split("/")[0] in _EARLIER else "") / asset
    if not path.exists():
        folders = sorted(folder for folder in root.glob("*/*") if folder.is_dir() and not folder.name.startswith("_"))
        shipped = ", ".join(str(folder.relative_to(root)) for folder in folders)
        raise ConfigError(
            f"{name!r} is not shipped",
            rule=f"embedded: names one of {shipped}, or a file there (embedded:sums/prompts/train.jsonl)",
            remedy="correct the name, or give a path or a Hugging Face id",
        )
    return str(path)
