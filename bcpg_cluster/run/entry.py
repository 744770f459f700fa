"""Rounds from a script or a notebook, and from `bcpg-cluster iterate`: one call that checks, starts, runs and ends.

``from bcpg_cluster import run, load_config`` is this :func:`run_rounds` and this :func:`load_config`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ClusterLostError, Interrupted
from bcpg_cluster.run.build.assembly import build_coordinator
from bcpg_cluster.run.build.default_config import config_from, read_config
from bcpg_cluster.run.directory import check_run_directory, keep_config, mended_keys, open_run
from bcpg_cluster.run.launch import check_inline, launch
from bcpg_cluster.run.listeners import listeners
from bcpg_cluster.run.preflight.made_with import hold_made_with
from bcpg_cluster.run.preflight.notes import skipped_notes
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.run.preflight.prompt_digests import check_prompts, hold_prompts
from bcpg_cluster.run.snapshots import drop_torn_snapshots
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath, run_path
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.observer import Observer, SilentObserver


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run after its rounds.

    Attributes:
        directory: where it lives.
        reports: of every round so far, by number; round 0 measures the base policy.
    """

    directory: RunPath
    reports: Mapping[int, RoundReport]

    @property
    def last(self) -> RoundReport:
        """The newest round's report."""
        return self.reports[max(self.reports)]


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Sequence[str] = (), *, seed: int | None = None
) -> Config:
    """A checked config, completed by what its tasks say.

    Args:
        source: a YAML file, the name of a shipped config (``laptop`` by default), or the content itself.
        overrides: ``section.key=value``, as for ``--set``.
        seed: as for ``--seed``.

    Raises:
        ConfigError: it does not exist or is invalid; names every offending key.
    """
    if isinstance(source, Mapping):
        changes = [*overrides, *([] if seed is None else [f"seed={seed}"])]
        return config_from(deepcopy(dict(source)), "the given config", changes)
    return read_config(None if source is None else str(source), overrides, seed)


def run_rounds(
    config: Config,
    rounds: int = 1,
    run_dir: str | RunPath | None = None,
    *,
    address: str | None = None,
    inline: bool = False,
    observer: Observer | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    say: Callable[[str], object] = lambda text: None,
    on_lost: Callable[[ClusterLostError], None] = lambda error: None,
    take_changed_prompts: bool = False,
    take_over: bool = False,
) -> RunResult:
    """Run the rounds that are missing, as `bcpg-cluster iterate` does. A script needs no main guard for it.

    Args:
        rounds: to complete, counted from the base; those that are done already are not done again.
        run_dir: a directory or ``s3://bucket/path``; ``runs/<name>`` by default.
        address: a Ray cluster, or ``local``; chosen as by `iterate` when it is not given.
        inline: run in threads of this process, without Ray (for fakes and tests).
        observer: hears of progress (``bcpg_cluster.watch.observer``).
        stop_asked: asked often; once it says true the run stops cleanly.
        say: is told what a person should read, a text at a time.
        on_lost: see ``launch``.
        take_changed_prompts: take problems that are not those the run began with, and record it.
        take_over: take the run from a process that gave no sign for a minute (in an object store: from any).

    Raises:
        UserError: bad input, before anything starts.
        Interrupted: a wanted stop; the same call resumes.
        BcpgError: what else ends a run; what was finished is kept.
    """
    check_inline(config, address, inline=inline)
    directory = run_path(run_dir or Path("runs") / config.name, config.storage.options)
    check_run_directory(directory, config, take_over=take_over)
    state = read_manifest(directory)
    if state.created is not None and state.created["identity"] != config.identity:
        changes = ", ".join(map(str, mended_keys(directory, state, config)))
        say(f"changed, since no result depends on it yet: {changes}")
    if all(round_ in state.reports for round_ in range(rounds + 1)):
        keep_config(directory, state, config)
        return RunResult(directory, {round_: state.reports[round_] for round_ in range(rounds + 1)})
    with no_main_to_import():
        prompts = preflight(config)
    for line in skipped_notes(prompts):
        say(line)
    if not take_changed_prompts:
        check_prompts(directory, state, config, prompts)
    if stop_asked():
        raise Interrupted("stopped before anything was started")
    # The cluster first: a run that may not start there leaves no directory behind.
    runtime, placed = launch(config, directory, address, inline=inline, say=say, on_lost=on_lost)
    try:
        with (
            open_run(directory.absolute(), config, take_over=take_over) as manifest,
            listeners(observer or SilentObserver(), config, manifest, runtime) as all_listeners,
        ):
            for change in hold_prompts(manifest, config, prompts, take_changed=take_changed_prompts):
                say(f"taken from here on: {change}")
            hold_made_with(manifest, config)
            drop_torn_snapshots(directory, manifest)
            coordinator = build_coordinator(placed, manifest, runtime, all_listeners, stop_asked, prompts)
            return RunResult(directory, coordinator.run(rounds))
    except KeyboardInterrupt:
        raise Interrupted("stopped at once; what was finished is kept") from None
    finally:
        runtime.shutdown()


@contextmanager
def no_main_to_import() -> Iterator[None]:
    """Within it, processes that are spawned do not import the script that runs: without a main guard it would run again in each."""
    main = sys.modules["__main__"]
    spec, had_file, file = main.__spec__, hasattr(main, "__file__"), getattr(main, "__file__", None)
    main.__spec__ = None
    if had_file:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if had_file:
            main.__file__ = file
