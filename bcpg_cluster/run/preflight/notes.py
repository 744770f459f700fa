"""For people: what a run will do that is no error, said before anything starts."""

from __future__ import annotations

import os

from bcpg_cluster.cluster.placement import ClusterNodes
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.bad_rows import count_faults, describe_faults
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.engine_defaults import with_member_cpus
from bcpg_cluster.run.build.footprint import held_together, local_gpus

# Of a list of line numbers as JSON: up to three digits and a comma, and what is around it.
_TOKENS_A_NUMBER, _TOKENS_AROUND = 3, 8


def skipped_notes(sets: PromptSets) -> list[str]:
    """What was left out of each set by ``prompts.skip_bad``: how many rows, why, and which."""
    lines = []
    for key, rows in sets.skipped.items():
        counted = ", ".join(f"{number} x {fault}" for fault, number in count_faults(rows).items())
        lines.append(f"{key}: {len(rows)} rows are left out ({counted})")
        lines += [f"    {line}" for line in describe_faults(rows)]
    return lines


def segmenter_notes(config: Config) -> list[str]:
    """Where the answers of a model that cuts responses may be cut off themselves."""
    if config.segment.judge is None:
        return []
    name, most = config.segment.judge, config.segment.max_lines
    longest = config.judges[name].max_tokens
    room = max((longest - _TOKENS_AROUND) // _TOKENS_A_NUMBER, 0)
    if room >= most:
        return []
    return [
        f"segment.judge {name}: its answers of at most {longest} tokens name about {room} lines, and a question has up to {most} "
        f"(segment.max_lines): where more begin steps, the answer is cut off and the response cut by structure. Lower "
        f"segment.max_lines, or raise judges.{name}.max_tokens"
    ]


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
