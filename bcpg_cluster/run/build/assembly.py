"""The composition root: from a configuration to the objects of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bcpg_cluster.cluster.runtime import Runtime
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.engines import snapshot_verifier
from bcpg_cluster.run.build.settings import train_settings, weigh_settings
from bcpg_cluster.run.build.workforce import RunHooks, Workforce, pool_bounds, start_workforce
from bcpg_cluster.run.coordinator import Coordinator, Parts
from bcpg_cluster.run.scaler import Scaler
from bcpg_cluster.run.serving import Weights, weights_of
from bcpg_cluster.run.snapshots import SnapshotCheck
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.mark import leave_mark
from bcpg_cluster.watch.control import Control
from bcpg_cluster.watch.fault_recorder import FaultRecorder
from bcpg_cluster.watch.observer import Faulted, Noted, Observer, OneAtATime


def newest_weights(config: Config, manifest: Manifest) -> Weights:
    """The weights a resumed run starts its rollout members with."""
    newest = max(manifest.state.snapshots, default=0)
    return weights_of(manifest, newest, resolve_asset(config.policy.model))


def build_coordinator(
    config: Config,
    manifest: Manifest,
    runtime: Runtime,
    observer: Observer,
    stop_asked: Callable[[], bool],
    prompts: PromptSets,
) -> Coordinator:
    """All parts of a run; its pools start with its newest weights, each when it is first needed."""
    runtime.members_must_see(leave_mark(manifest.run_dir))
    workforce = start_workforce(config, runtime, stop_asked, newest_weights(config, manifest))
    return coordinator_over(workforce, config, manifest, observer, stop_asked, prompts)


def coordinator_over(
    workforce: Workforce,
    config: Config,
    manifest: Manifest,
    observer: Observer,
    stop_asked: Callable[[], bool],
    prompts: PromptSets,
) -> Coordinator:
    """A run on a workforce that is there already, perhaps from another run. Its faults are written into its manifest."""
    observer = OneAtATime(FaultRecorder(manifest, observer))  # a training may speak from a thread of its own
    scaler = Scaler(
        workforce.pools,
        workforce.gang,
        {name: pool_bounds(config.pool(name)) for name in config.pool_names()},
        observer=observer,
        control=Control(manifest.run_dir),
        served_version=lambda: workforce.serving.weights.version,
    )
    hooks = RunHooks(
        on_fault=lambda fault: observer.hear(Faulted(fault)),
        on_wait=lambda what: observer.hear(Noted(what)),
        tend=scaler.tend,
    )
    workforce.serve(hooks)
    return Coordinator(
        config,
        Parts(
            manifest=manifest,
            pools=workforce.pools,
            gang=workforce.gang,
            turns=workforce.turns,
            serving=workforce.serving,
            prompts=prompts,
            base_model=resolve_asset(config.policy.model),
            train_settings=partial(train_settings, config),
            weigh_settings=weigh_settings(config),
            check_snapshot=SnapshotCheck(manifest, snapshot_verifier(config.train.kind)),
            observer=observer,
            stop_asked=stop_asked,
            tend=scaler.tend,
            attend=partial(workforce.serve, hooks),
            without_training=workforce.without_training,
        ),
    )
