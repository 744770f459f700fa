"""A run keeps the problems it began with: their digests are in its manifest, and other problems are refused or taken aloud."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.prompts.bad_rows import count_faults
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.recovery.given_up import give_up
from bcpg_cluster.stages.graph import MEASURED
from bcpg_cluster.store.manifest import Manifest, ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import PromptDigest
from bcpg_cluster.store.rows import prompts_from
from bcpg_cluster.store.shards import read_table

_MAX_SHOWN = 5  # prompts named in one message


def digest_sets(config: Config, sets: PromptSets) -> dict[str, PromptDigest]:
    """Every set of prompts by the key that names it in the config."""
    section = config.prompts
    found = {"prompts.train": (section.train, sets.train), "prompts.test": (section.test, sets.test)}
    found |= {
        f"prompts.more_tests.{n}": (section.more_tests.get(n, n), of_set) for n, of_set in sets.more_tests.items()
    }
    return {
        key: PromptDigest(
            source=source,
            num_prompts=len(prompts),
            sha256=_digest(prompts),
            **({"skipped": count_faults(sets.skipped[key])} if key in sets.skipped else {}),
        )
        for key, (source, prompts) in found.items()
    }


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of what the prompts say, in their order: the same problems in another file format are the same problems."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.prompt_id, prompt.question, prompt.answer]).encode() + b"\n")
    return digest.hexdigest()


def check_prompts(run_dir: RunPath, state: ManifestState, config: Config, sets: PromptSets) -> None:
    """Raises :class:`RunDirectoryError` when the run began with other problems, and says what changed."""
    changes = prompt_changes(run_dir, state, config, sets)
    if changes:
        raise RunDirectoryError(
            f"{run_dir} was run with other problems:" + "".join(f"\n    {line}" for line in changes),
            rule="a run keeps the problems it began with; otherwise its rounds cannot be compared, and a problem may be trained on "
            "twice",
            remedy="put the old file back, start another run (--run-dir or name), or take the new problems from here on: "
            "`iterate --take-changed-prompts`, which the run records",
        )


def hold_prompts(manifest: Manifest, config: Config, sets: PromptSets, *, take_changed: bool = False) -> list[str]:
    """Note the digests of a run's problems; what changed since, where that is taken.

    Rounds that were dealt their problems keep them. What was begun but not finished of a measurement is measured again.

    Raises:
        RunDirectoryError: they are not those it began with, and ``take_changed`` does not allow it.
    """
    if not take_changed:
        check_prompts(manifest.run_dir, manifest.state, config, sets)
    changes = prompt_changes(manifest.run_dir, manifest.state, config, sets)
    if changes:
        _reopen(manifest, config)
    if changes or manifest.state.prompts is None:
        manifest.add_prompts(digest_sets(config, sets), changes)
    return changes


def prompt_changes(run_dir: RunPath, state: ManifestState, config: Config, sets: PromptSets) -> list[str]:
    """What differs from the problems the run began with, a line a set; empty where nothing does, or the run noted none."""
    if state.prompts is None:
        return []
    now = digest_sets(config, sets)
    given = {"prompts.train": sets.train, "prompts.test": sets.test}
    given |= {f"prompts.more_tests.{name}": of_set for name, of_set in sets.more_tests.items()}
    lines = []
    for key, before in state.prompts.items():
        after = now.get(key)
        if after is None or after.sha256 != before.sha256:
            used = _used(run_dir, state, "prompts" if key == "prompts.train" else "eval_prompts")
            lines.append(_difference(key, before, after, used, given.get(key, ())))
    return lines


def _used(run_dir: RunPath, state: ManifestState, table: str) -> Mapping[str, Prompt]:
    """The problems that the run has dealt out so far, by id."""
    rounds = sorted(round_ for round_, name in state.shards if name == table)
    return {
        prompt.prompt_id: prompt
        for round_ in rounds
        for prompt in prompts_from(read_table(run_dir, state.receipts(round_, table)))
    }


def _difference(
    key: str, before: PromptDigest, after: PromptDigest | None, used: Mapping[str, Prompt], given: Iterable[Prompt]
) -> str:
    num_now = 0 if after is None else after.num_prompts
    found = {prompt.prompt_id: prompt for prompt in given}
    altered = [id_ for id_, prompt in used.items() if id_ in found and found[id_] != prompt]
    gone = [id_ for id_ in used if id_ not in found] if key == "prompts.train" else []
    what = [f"{len(ids)} {how} ({_shown(ids)})" for ids, how in ((altered, "altered"), (gone, "gone")) if ids]
    of_used = f"of those used so far {' and '.join(what)}" if what else "none of those used so far is altered"
    return (
        f"{key} ({before.source}): {num_now} problems now, {before.num_prompts} before; {of_used} "
        f"[sha256 {before.sha256[:12]} became {'nothing' if after is None else after.sha256[:12]}]"
    )


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_MAX_SHOWN])) + (", ..." if len(ids) > _MAX_SHOWN else "")


def _reopen(manifest: Manifest, config: Config) -> None:
    """Let go of what was written of the old problems but not finished: half a round's prompts, and half a measurement."""
    state = manifest.state
    for round_ in sorted({round_ for round_, _ in state.shards} - state.reports.keys()):
        num_shards = -(-config.prompts.per_round // config.generate.prompts_per_shard)
        is_dealt = (
            round_ == 0 or (round_, "prompts") in state.sealed or not state.missing(round_, "prompts", num_shards)
        )
        give_up(manifest, round_, MEASURED if is_dealt else (*MEASURED, "prompts"))
