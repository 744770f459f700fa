"""What a run's pools ask of machines, read from its configuration, and whether they have it. Before anything starts."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.cluster.placement import Ask, Plan, Resources, Strategy, added, plan, table
from bcpg_cluster.cluster.runtime import Group
from bcpg_cluster.cluster.turns import TRAINER
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.graph import CPU_POOL


def ask_of(config: Config, pool: str) -> Ask:
    """What a pool asks of the cluster: a bundle a member; all ranks of the trainers at once; and a bundle a GPU for members
    whose vLLM runs its workers as Ray's (``distributed_executor_backend: ray``), which may span nodes.
    """
    settings = config.pool(pool)
    own = {"CPU": settings.cpus, "GPU": settings.num_gpus, **settings.resources}
    bundle = {name: amount for name, amount in own.items() if amount}
    if pool == TRAINER:
        return Ask(pool, (bundle,) * settings.members, 1)
    if config.engine_args(pool).get("distributed_executor_backend") == "ray":
        rest = {name: amount for name, amount in bundle.items() if name != "GPU"}
        bundles: tuple[Resources, ...] = tuple({"GPU": 1.0} for _ in range(int(settings.num_gpus)))
        strategy: Strategy = "PACK"
        return Ask(pool, ({**rest, **added(bundles[:1])}, *bundles[1:]), settings.members, strategy)
    return Ask(pool, (bundle,), settings.members, "STRICT_PACK")


def member_group(config: Config, pool: str, name: str) -> Group | None:
    """The group of resources a member of several GPUs (or a rank of the trainers) runs in; ``None`` for one that needs none."""
    ask = ask_of(config, pool)
    if pool != TRAINER and added(ask.bundles).get("GPU", 0.0) <= 1:
        return None
    return Group(name, ask.bundles, ask.strategy) if any(ask.bundles) else None


def held_together(config: Config) -> list[tuple[str, ...]]:
    """Pools that hold memory and resources at the same time: all of them, or those of every turn."""
    names = tuple(config.pool_names())
    if config.placement == "separate":
        return [names]
    always = {name for name in names if name == CPU_POOL or config.pool(name).when_idle == "sleep"}
    return [tuple(name for name in names if name == turn or name in always) for turn in names if turn != CPU_POOL]


def compare_with(
    config: Config,
    nodes: list[dict[str, float]],
    *,
    free: list[dict[str, float]] | None = None,
    largest: tuple[dict[str, float], ...] | None = (),
) -> Plan:
    """The run's plan on a cluster; see :func:`bcpg_cluster.cluster.placement.plan`."""
    turns = [[ask_of(config, name) for name in turn] for turn in held_together(config)]
    return plan(turns, nodes, free=free, largest=largest)


def check_placement(found: Plan) -> None:
    """Raises :class:`ConfigError` with the table of asked and had, when the cluster cannot hold the run."""
    if found.verdict != "lacks":
        return
    raise ConfigError(
        f"this cluster cannot hold the run: {found.why}\n{table(found.lines)}",
        rule="pools.*.members times num_cpus, num_gpus and resources, over what runs at once, fit on the cluster's nodes",
        remedy="add nodes, lower pools.<name>.members, correct what a member asks for, or try `placement: colocated`; if nodes "
        "are yet to come and this machine cannot know of it, set autoscaling: true",
    )


def check_memory(config: Config, available_gib: float) -> None:
    """Raises :class:`ConfigError` when one machine is asked for more members at once than it has memory for."""
    pools = {name: config.pool(name) for name in config.pool_names()}
    sums = {names: sum(pools[n].members * pools[n].memory_gib for n in names) for names in held_together(config)}
    names, needed = max(sums.items(), key=lambda item: item[1])
    if needed > available_gib:
        shown = "; ".join(f"{name}: {pools[name].members} x {pools[name].memory_gib:g} GiB" for name in names)
        at_once = "" if config.placement == "separate" else " in their largest turn"
        raise ConfigError(
            f"the pools need {needed:.1f} GiB{at_once}, this machine has {available_gib:.1f} GiB free ({shown})",
            rule="on one machine the sum of pools.*.members x memory_gib over what runs at once fits into its free memory",
            remedy="lower pools.<name>.members, correct memory_gib"
            + ("" if at_once else ", or let pools take turns: placement: colocated"),
        )


def free_memory_gib() -> float:
    """What this machine could still give to processes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) / 2**20


def local_gpus() -> int:
    """NVIDIA GPUs of this machine, as its driver lists them."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.glob("*"))) if folder.is_dir() else 0


def local_resources(config: Config) -> dict[str, float]:
    """Custom resources a local Ray is started with, so that every pool fits at its largest."""
    resources: dict[str, float] = {}
    for name in config.pool_names():
        pool = config.pool(name)
        for resource, amount in pool.resources.items():
            resources[resource] = resources.get(resource, 0.0) + amount * (pool.max or pool.members)
    return resources
