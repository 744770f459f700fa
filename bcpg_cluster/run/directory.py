"""Make a run directory, or open one again. Nothing in it changes before it is known to belong to this run."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from bcpg_cluster import __version__
from bcpg_cluster.config.changes import Change, deciding_changes, tables_reading
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError, UserError, page
from bcpg_cluster.store.journal import check_free, journal_place
from bcpg_cluster.store.layout import CONFIG, LOCK, MANIFEST, SEGMENTS
from bcpg_cluster.store.manifest import Manifest, ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath, StoredPath
from bcpg_cluster.store.whole_files import place_problem, set_aside, write_whole

# What a run that was killed while it was made may have left:
_BEFORE_CREATION = {CONFIG, LOCK, MANIFEST, SEGMENTS}
_PARTIAL = re.compile(rf"\.{re.escape(CONFIG)}\.\d+\.partial")


def check_place(run_dir: RunPath) -> None:
    """Raises :class:`RunDirectoryError` where no directory can be made, or none written to. Writes nothing."""
    if isinstance(run_dir, Path) and (problem := place_problem(run_dir)):
        raise RunDirectoryError(
            f"{run_dir} cannot be a run directory: {problem}",
            rule="a run writes into a directory of its own",
            remedy="give another --run-dir",
        )


def check_run_directory(run_dir: RunPath, config: Config, *, take_over: bool = False) -> None:
    """Check that ``run_dir`` is free or belongs to this very run, without writing anything.

    Raises:
        RunDirectoryError: it is a file, in use, holds something else, was made with another configuration or by a newer version, or
            lies in a store that cannot be reached.
    """
    if isinstance(run_dir, StoredPath):
        run_dir.check_reachable()
    check_place(run_dir)
    if not run_dir.exists():
        return
    if run_dir.is_file():
        raise RunDirectoryError(
            f"{run_dir} is a file", rule="a run lives in a directory of its own", remedy="give another --run-dir"
        )
    check_free(run_dir, take_over=take_over)
    state = read_manifest(run_dir)
    if state.created is None:
        names = sorted(path.name for path in run_dir.iterdir())
        foreign = [name for name in names if name not in _BEFORE_CREATION and not _PARTIAL.fullmatch(name)]
        if foreign or state.shards:
            raise RunDirectoryError(
                f"{run_dir} is not a run: it has no usable manifest and holds {foreign[:5] or 'shards'}",
                rule="a run directory is new, empty, or was made by bcpg-cluster",
                remedy="give another --run-dir, or move what is there",
            )
        return
    if state.created["identity"] != config.identity and not mended_keys(run_dir, state, config):
        changed = ", ".join(map(str, deciding_changes(load_run_config(run_dir), config)))
        raise RunDirectoryError(
            f"{run_dir} was made with another configuration; different: {changed or 'unknown keys'}",
            rule=f"a run keeps every setting that decides its results ({page('config.md')} says which others may change)",
            remedy="give another --run-dir (or name), or use the run's own config.yaml",
        )


def mended_keys(run_dir: RunPath, state: ManifestState, config: Config) -> list[Change]:
    """The keys that differ from the run's, where each may still change since no result depends on it yet; none otherwise."""
    before = load_run_config(run_dir)
    changes = deciding_changes(before, config)
    there = {table for (_, table), shards in state.shards.items() if shards}
    reading = [tables_reading(change.path, before.segment.judge) for change in changes]
    return changes if all(tables is not None and not tables & there for tables in reading) else []


def open_run(run_dir: RunPath, config: Config, *, take_over: bool = False) -> Manifest:
    """Lock the directory, mark it as this run's if it is new, note what was mended in its configuration, and give its manifest.
    See :func:`check_run_directory`.
    """
    check_run_directory(run_dir, config, take_over=take_over)
    manifest = Manifest(run_dir, take_over=take_over)
    try:
        if manifest.state.created is None:
            write_config(run_dir, config)
            manifest.create(identity=config.identity, name=config.name, program_version=__version__)
        elif manifest.state.created["identity"] != config.identity:
            _change_config(manifest, config)
        else:
            keep_config(run_dir, manifest.state, config)
    except BaseException:
        manifest.close()  # nobody else will: the caller has no manifest
        raise
    return manifest


def config_problem(run_dir: RunPath, state: ManifestState) -> str | None:
    """Why ``config.yaml`` is not the run's configuration; ``None`` where it is, as far as the keys go that decide results."""
    path = run_dir / CONFIG
    try:
        content = yaml.safe_load(path.read_bytes())
        identity = parse_config(content, str(path)).identity
    except FileNotFoundError:
        return "is not there"
    except (yaml.YAMLError, UserError):
        return "is not a configuration"
    wanted = (state.created or {}).get("identity")
    return None if identity == wanted else "is not the configuration that the manifest names"


def keep_config(run_dir: RunPath, state: ManifestState, config: Config) -> None:
    """Write ``config.yaml`` again where it was damaged; the damaged one is kept under another name. ``config``: the run's."""
    if state.created is not None and state.created["identity"] == config.identity and config_problem(run_dir, state):
        set_aside(run_dir, CONFIG)
        write_config(run_dir, config)


def _change_config(manifest: Manifest, config: Config) -> None:
    """Continue with mended keys: the manifest's word counts, config.yaml is for people to read."""
    state = manifest.state
    after = 1 + max((round_ for round_, _ in state.shards), default=0)  # nothing is let go of
    changed = {"identity": config.identity, "config": config.model_dump(mode="json")}
    manifest.reopen(after, [], 1 + max(state.snapshots, default=0), changed)
    write_config(manifest.run_dir, config)


def write_config(run_dir: RunPath, config: Config) -> None:
    """Write ``config.yaml`` whole or not at all."""
    write_whole(run_dir / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())


def load_run_config(run_dir: RunPath, state: ManifestState | None = None) -> Config:
    """The configuration a run was made with, or was changed to by ``bcpg-cluster stage --set``.

    Args:
        state: what its manifest says, where that was read already.

    Raises:
        RunDirectoryError: there is none, or it cannot be read.
    """
    path = run_dir / CONFIG
    changed = (state or read_manifest(run_dir)).config
    if changed is not None:
        return parse_config(changed, str(journal_place(run_dir)))
    if not path.is_file():
        raise RunDirectoryError(
            f"{run_dir} is not a run: it has no {CONFIG}",
            rule="--run-dir names a directory made by `bcpg-cluster iterate`",
            remedy="see runs/ for the runs here",
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunDirectoryError(
            f"{path} is not YAML: {error}",
            rule=f"only bcpg-cluster writes a run's {CONFIG}",
            remedy=f"put back a copy of {CONFIG}, or run `bcpg-cluster iterate` with the config that made the run, which writes it "
            "again",
        ) from None
    return parse_config(content, str(path))
