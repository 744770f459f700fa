"""Letting go of what was made of a round that is not reported yet."""

from __future__ import annotations

from collections.abc import Sequence

from bcpg_cluster.stages.graph import MEASURED
from bcpg_cluster.store.manifest import Manifest


def give_up(manifest: Manifest, round_: int, tables: Sequence[str]) -> None:
    """Let go of tables of a round, and of all that later rounds have. Tables of its measurement go alone where no others go with
    them: the next round may be training meanwhile, or trained.
    """
    if set(tables) <= set(MEASURED):
        manifest.reopen_alone(round_, [*tables])
    else:
        manifest.reopen(round_, [*tables], round_)
