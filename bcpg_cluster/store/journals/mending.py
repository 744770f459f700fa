"""A journal that is not what was written: what is wrong with it, and cutting it back to the last good line.

Cutting is always safe. A journal that ends earlier is one that a crash left earlier: a resumed run does again what the lost lines
said, and files that no line names are strays, as those of any lost attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

from bcpg_cluster.store.journal import journal_lines, open_journal
from bcpg_cluster.store.journals.lines import Damage
from bcpg_cluster.store.manifest import ManifestState, damaged_error, is_mendable, replay_manifest
from bcpg_cluster.store.path import RunPath


@dataclass(frozen=True, slots=True)
class DamagedManifest:
    """A manifest read as far as it can be believed.

    Attributes:
        state: up to the last good line.
        num_lines: good ones.
        damages: none where all is well; a torn last line is none. Behind the first only what shows in a line by itself is listed.
    """

    state: ManifestState
    num_lines: int
    damages: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class CutManifest:
    """What :func:`cut_manifest` did.

    Attributes:
        num_lines: that were kept.
        num_cut: that count no more.
        kept_as: where the journal lies as it was; in an object store its segments stay, so that is the place of these.
    """

    num_lines: int
    num_cut: int
    kept_as: RunPath


def read_damaged_manifest(run_dir: RunPath) -> DamagedManifest:
    """The state up to the last good line, and all damages. Changes nothing.

    Raises:
        RunDirectoryError: the manifest was written by a newer version, or cannot be read at all.
    """
    state, found = replay_manifest(run_dir, journal_lines(run_dir))
    return DamagedManifest(state, found.num_lines, found.damages)


def cut_manifest(run_dir: RunPath) -> CutManifest | None:
    """Cut a damaged journal back to its last good line, and keep it as it was under another name. Durable when it returns.

    Returns:
        ``None`` where nothing is damaged: then nothing is changed.

    Raises:
        DamagedManifestError: no line would be left that says which run this is, or none can be relied on. Nothing was changed.
        RunDirectoryError: another process works on the run; the manifest was written by a newer version, or cannot be read at all.
    """
    journal = open_journal(run_dir)
    try:
        lines = list(journal.lines())
        state, found = replay_manifest(run_dir, lines)
        if not found.damages:
            return None
        if not is_mendable(state, found.damages[0]):
            raise damaged_error(run_dir, state, found.damages[0])
        return CutManifest(found.num_lines, len(lines) - found.num_lines, journal.cut(found.good))
    finally:
        journal.close()
