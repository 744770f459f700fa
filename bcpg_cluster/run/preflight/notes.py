"""For people: what a run will do that is no error, said before anything starts."""

from __future__ import annotations

import os

from bcpg_cluster.cluster.placement import ClusterNodes
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.bad_rows import count_faults, describe_faults
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.engine_defaults import with_member_cpus
from bcpg_cluster.run.build.footprint import held_together, local_gpus


def skipped_notes(sets: PromptSets) -> list[str]:
    """What was left out of each set by ``prompts.skip_bad``: how many rows, why, and which."""
    lines = []
    for key, rows in sets.skipped.items():
        counted = ", ".join(f"{number} x {fault}" for fault, number in count_faults(rows).items())
        lines.append(f"{key}: {len(rows)} rows are left out ({counted})")
        lines += [f"    {line}" for line in describe_faults(rows)]
    return lines


def machine_notes(config: Config) -> list[str]:
    """Where this machine has fewer processors or GPUs than the pools ask for at once: a Ray of its own could not hold the run."""
    lines = []
    num_cpus = float(len(os.sched_getaffinity(0)))
    here = [{"CPU": num_cpus}]
    config = with_member_cpus(config, ClusterNodes(here, here))
    for what, has, asked in (
        ("GPUs", float(local_gpus()), _most_at_once(config, "num_gpus")),
        ("processors", num_cpus, _most_at_once(config, "cpus")),
    ):
        if asked > has:
            lines.append(
                f"the pools ask for {asked:g} {what} at once, and this machine has {has:g}: run it on a cluster (--address), lower "
                f"pools.<name>.{'num_gpus' if what == 'GPUs' else 'num_cpus'} or members, or let pools take turns (placement: "
                "colocated)"
            )
    return lines


def _most_at_once(config: Config, resource: str) -> float:
    pools = {name: config.pool(name) for name in config.pool_names()}
    return float(
        max(
            sum(pools[name].members * getattr(pools[name], resource) for name in names)
            for names in held_together(config)
        )
    )
