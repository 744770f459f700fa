"""What Ray's autoscaler on this machine may start, read from the launcher file it was given (``ray up`` puts it on the head)."""

from __future__ import annotations

from pathlib import Path

import yaml

from bcpg_cluster.cluster.placement import largest_nodes

_PROCESSES = Path("/proc")
_OPTION = "--autoscaling-config="


def autoscaled_nodes(gcs_address: str, processes: Path = _PROCESSES) -> tuple[dict[str, float], ...] | None:
    """The largest cluster the autoscaler of the cluster at ``gcs_address`` may make, as nodes.

    A head started without a launcher file runs Ray's monitor too, which then can start nothing; so the monitor's own command
    line is what tells. On other machines than the head (or inside other containers) there is nothing to be seen.

    Returns:
        ``()`` when no autoscaler with a launcher file is seen; ``None`` when there is one whose file does not say.
    """
    for process in processes.glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        is_monitor = any(word.endswith("monitor.py") for word in words) and any(gcs_address in word for word in words)
        files = [word.removeprefix(_OPTION) for word in words if word.startswith(_OPTION)]
        if not is_monitor or not files or not files[0]:
            continue
        try:
            content = yaml.safe_load(Path(files[0]).expanduser().read_text())
        except (OSError, yaml.YAMLError):
            return None
        return (largest_nodes(content) if isinstance(content, dict) else ()) or None
    return ()
