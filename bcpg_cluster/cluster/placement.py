"""Where members run: what a run's pools ask of a cluster, against what its nodes have. Pure: nodes are plain numbers.

    config ─► asks (per pool: bundles of one member, how many, how tightly) ─┐
                                                                             ├─► Plan: fits, may fit, lacks; and its table
    Ray    ─► nodes now, and the most an autoscaler could bring ─────────────┘

A bundle is what one process takes of one node, by resource name (``CPU``, ``GPU``, and a cluster's own such as ``judge``).
Colocated pools take turns, so only what one turn holds has to fit at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Resources = Mapping[str, float]
Strategy = Literal["PACK", "STRICT_PACK", "SPREAD"]

_EPSILON = 1e-9  # sums of tenths


@dataclass(frozen=True, slots=True)
class ClusterNodes:
    """A cluster's nodes by their resources.

    Attributes:
        there: what each has, in use or not; ``free`` what each has left.
        largest: those an autoscaler could have at most; empty when none is known of, ``None`` when it does not say.
    """

    there: list[dict[str, float]]
    free: list[dict[str, float]]
    largest: tuple[dict[str, float], ...] | None = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a pool asks for.

    Attributes:
        bundles: of one member; more than one when it spans nodes, or for a group that only works together.
        num_members: groups of such bundles.
        strategy: how the bundles of one member lie: ``STRICT_PACK`` on one node, ``PACK`` on as few as possible.
    """

    pool: str
    bundles: tuple[Resources, ...]
    num_members: int
    strategy: Strategy = "PACK"

    def total(self) -> dict[str, float]:
        """Of all members."""
        return {name: amount * self.num_members for name, amount in added(self.bundles).items()}


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: a pool's ask of one resource.

    Attributes:
        needed: of all its members.
        needed_at_once: of all pools that are there together with it, in the turn that needs most.
        has: what all nodes have of it; ``at_most`` what they could have (``None``: unknown).
        free: of ``has``, what is unused now.
        is_short: more is needed at once than ``has``.
    """

    pool: str
    num_members: int
    resource: str
    each: float
    needed: float
    needed_at_once: float
    has: float
    free: float
    at_most: float | None
    is_short: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What came of comparing.

    Attributes:
        verdict: ``fits``; ``may_come``: not now, but with the nodes an autoscaler may bring; ``tight``: enough in all, but no
            way was found to lay the bundles on the nodes; ``lacks``: this cluster cannot hold the run.
        why: one sentence for every verdict but ``fits``.
        lines: by pool and resource.
    """

    verdict: Literal["fits", "may_come", "tight", "lacks"]
    why: str
    lines: tuple[Line, ...]


def added(bundles: Sequence[Resources]) -> dict[str, float]:
    """The sum of bundles or of nodes, by resource."""
    total: Counter[str] = Counter()
    for bundle in bundles:
        total.update(dict(bundle))
    return dict(total)


def plan(
    turns: Sequence[Sequence[Ask]],
    nodes: Sequence[Resources],
    *,
    free: Sequence[Resources] | None = None,
    largest: Sequence[Resources] | None = (),
) -> Plan:
    """Compare what is asked with what a cluster has.

    Args:
        turns: the asks of pools that are there at the same time; pools that run separately are one turn.
        nodes: what each node has, used or not.
        free: what each has left now; all of it by default.
        largest: the nodes an autoscaler could have at most, those that are there included; empty when there is none, ``None``
            when there is one that does not say.
    """
    lines = _lines(turns, nodes, nodes if free is None else free, largest)
    if all(_fits(turn, nodes) for turn in turns):
        return Plan("fits", "", lines)
    missing = _missing(turns, nodes)
    if largest is None or (largest and all(_fits(turn, largest) for turn in turns)):
        return Plan(
            "may_come", f"{missing or 'the nodes are too small or too full'}; the autoscaler may bring it", lines
        )
    if largest:
        beyond = _missing(turns, largest)
        if beyond:
            return Plan("lacks", f"{beyond}, even with all nodes the autoscaler may start", lines)
        return Plan("tight", "enough in all, but perhaps not on single nodes", lines)
    if missing:
        return Plan("lacks", missing, lines)
    return Plan("tight", "enough in all, but perhaps not on single nodes", lines)


def _missing(turns: Sequence[Sequence[Ask]], nodes: Sequence[Resources]) -> str:
    """What these nodes certainly cannot give; empty when nothing is certain."""
    said: list[str] = []
    has = added(nodes)
    for turn in turns:
        needed = added([ask.total() for ask in turn])
        for name, amount in needed.items():
            if amount > has.get(name, 0.0) + _EPSILON:
                askers = ", ".join(ask.pool for ask in turn if ask.total().get(name))
                said.append(f"{amount:g} {name} asked for ({askers}), {has.get(name, 0.0):g} there")
        for ask in turn:
            together = [added(ask.bundles)] if ask.strategy == "STRICT_PACK" else ask.bundles
            for bundle in together:
                if not any(_holds(node, bundle) for node in nodes) and all(
                    amount <= has.get(name, 0.0) + _EPSILON for name, amount in bundle.items()
                ):
                    said.append(f"no single node has {in_words(bundle)} ({ask.pool})")
    return "; ".join(dict.fromkeys(said))


def _fits(turn: Sequence[Ask], nodes: Sequence[Resources]) -> bool:
    """Whether the bundles can be laid on the nodes: the largest first, each where least is left over."""
    left = [dict(node) for node in nodes]
    wanted: list[Resources] = []
    for ask in turn:
        for _ in range(ask.num_members):
            wanted += [added(ask.bundles)] if ask.strategy == "STRICT_PACK" else ask.bundles
    wanted.sort(key=lambda bundle: (bundle.get("GPU", 0.0), sum(bundle.values())), reverse=True)
    for bundle in wanted:
        holding = [node for node in left if _holds(node, bundle)]
        if not holding:
            return False
        node = min(holding, key=lambda node: (node.get("GPU", 0.0), sum(node.get(name, 0.0) for name in bundle)))
        for name, amount in bundle.items():
            node[name] -= amount
    return True


def _holds(node: Resources, bundle: Resources) -> bool:
    return all(node.get(name, 0.0) + _EPSILON >= amount for name, amount in bundle.items())


def _lines(
    turns: Sequence[Sequence[Ask]],
    nodes: Sequence[Resources],
    free: Sequence[Resources],
    largest: Sequence[Resources] | None,
) -> tuple[Line, ...]:
    has, left = added(nodes), added(free)
    most = None if largest is None else added(largest)
    at_once = [added([ask.total() for ask in turn]) for turn in turns]
    asks = {ask.pool: ask for turn in turns for ask in turn}
    lines = []
    for ask in asks.values():
        mine = [total for turn, total in zip(turns, at_once, strict=True) if ask in turn]
        each = added(ask.bundles)
        for name, amount in ask.total().items():
            together = max(total[name] for total in mine)
            lines.append(
                Line(
                    ask.pool,
                    ask.num_members,
                    name,
                    each[name],
                    amount,
                    together,
                    has.get(name, 0.0),
                    left.get(name, 0.0),
                    None if most is None else max(most.get(name, 0.0), has.get(name, 0.0)),
                    together > has.get(name, 0.0) + _EPSILON,
                )
            )
    return tuple(lines)


COLUMNS = ("pool", "members", "resource", "each", "asked", "at once", "cluster has", "free now", "at most")


def cells(line: Line) -> tuple[str, ...]:
    """A line as the table's texts, in the order of ``COLUMNS``."""
    most = "?" if line.at_most is None else f"{line.at_most:g}"
    numbers = (line.each, line.needed, line.needed_at_once)
    return (
        line.pool,
        str(line.num_members),
        line.resource,
        *(f"{number:g}" for number in numbers),
        f"{line.has:g}" + (" SHORT" if line.is_short else ""),
        f"{line.free:g}",
        most,
    )


def table(lines: Sequence[Line]) -> str:
    """The lines as aligned text, for an error or a log."""
    rows = [COLUMNS, *(cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def in_words(bundle: Resources) -> str:
    """``{judge: 1, GPU: 2}`` as a person writes it."""
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items()) + "}"


def largest_nodes(launcher_file: Mapping[str, object]) -> tuple[dict[str, float], ...]:
    """The nodes a Ray launcher file (``ray up``) allows at most, the head included. Node types whose resources it leaves to
    the cloud provider are left out: only the provider knows them.
    """
    types = launcher_file.get("available_node_types") or {}
    head = launcher_file.get("head_node_type")
    limit = launcher_file.get("max_workers")
    nodes: list[dict[str, float]] = []
    for name, node_type in types.items() if isinstance(types, Mapping) else ():
        resources = {key: float(value) for key, value in (node_type.get("resources") or {}).items()}
        number = 1 if name == head else int(node_type.get("max_workers", limit or 0))
        nodes += [resources] * (min(number, int(limit)) if isinstance(limit, int) and name != head else number)
    return tuple(node for node in nodes if node)
