"""What a run may use: this machine, or the cluster that would be joined. Starts no Ray."""

from __future__ import annotations

import os

from bcpg_cluster.cluster.on_ray.runtime import choose_cluster, look_at
from bcpg_cluster.cluster.placement import added
from bcpg_cluster.new_config.facts import MachineFacts
from bcpg_cluster.run.build.footprint import free_memory_gib, local_gpus


def read_machine(address: str | None) -> MachineFacts:
    """This machine, unless ``--address``, ``RAY_ADDRESS`` or a Ray running here says otherwise.

    Raises:
        UserError: the cluster does not answer.
    """
    choice = choose_cluster(address)
    if choice.address == "local":
        return MachineFacts("this machine", float(os.cpu_count() or 1), local_gpus(), free_memory_gib())
    nodes = look_at(choice)
    has = added([*nodes.there, *(nodes.largest or ())])
    return MachineFacts(f"the cluster at {choice.address}", has.get("CPU", 0.0), int(has.get("GPU", 0.0)), None)
