"""What a run was made with, beside what is here now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bcpg_cluster import __version__
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.preflight.made_with import made_with
from bcpg_cluster.run.preflight.prompt_digests import digest_sets
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.store.made_with import Device, FilesDigest, MadeWith
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.reports import PromptDigest

State = Literal["same", "differs", "missing", "not recorded"]
Effect = Literal["must be the same", "may change results"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a run was made with.

    Attributes:
        recorded, here: for people; empty where there is nothing.
        effect: what follows from a difference. With other inputs it would be another run; other programs and machines may
            come to other last bits.
        why: what a person should know about it; mostly empty.
    """

    what: str
    recorded: str
    here: str
    state: State
    effect: Effect
    why: str = ""

    @property
    def is_in_the_way(self) -> bool:
        """Whether it keeps the run from being made again."""
        return self.effect == "must be the same" and self.state in ("differs", "missing")


@dataclass(frozen=True, slots=True)
class Checked:
    """All items of a run."""

    items: tuple[Item, ...]

    @property
    def in_the_way(self) -> list[Item]:
        """Those for which the run cannot be made again here."""
        return [item for item in self.items if item.is_in_the_way]

    @property
    def exit_code(self) -> int:
        """0: all that was recorded is the same; 1: programs or the machine differ; 2: it cannot be made again here."""
        if self.in_the_way:
            return 2
        return 1 if any(item.state in ("differs", "missing") for item in self.items) else 0


def check_run(run_dir: RunPath) -> Checked:
    """Compare what a run recorded with this machine. Writes nothing, and starts nothing.

    Raises:
        RunDirectoryError: it is not a run, or its config cannot be read.
    """
    state, config = read_manifest(run_dir), load_run_config(run_dir)
    now = made_with(config)
    return Checked(
        (
            *_configuration(state, config),
            *_history(state),
            *_prompts(state, config),
            *_files(state, now),
            *_unfixed(config),
            *_programs(state, now),
        )
    )


def _configuration(state: ManifestState, config: Config) -> Iterator[Item]:
    recorded = state.created["identity"] if state.created else ""
    is_same = recorded == config.identity
    why = "" if is_same else "config.yaml was changed by something else, or this version reads it differently"
    yield Item("configuration", recorded, config.identity, "same" if is_same else "differs", "must be the same", why)
    yield Item("seed", str(config.seed), str(config.seed), "same", "must be the same", "part of the configuration")
    if state.config is not None:
        why = "it was changed while the run was running; rounds before that may have been made otherwise"
        yield Item("configuration, throughout", "changed", "the last one", "differs", "may change results", why)


def _history(state: ManifestState) -> Iterator[Item]:
    """What of a run's past no machine can repeat."""
    if state.imports:
        why = "round 1's responses were made elsewhere and imported; import the same file into a new run"
        yield Item("responses of round 1", "imported", "", "missing", "must be the same", why)
    if state.prompt_changes:
        why = "the run took other problems on the way; its earlier rounds were made with files it no longer names"
        yield Item("problems, throughout", "changed", "the last ones", "missing", "must be the same", why)


def _prompts(state: ManifestState, config: Config) -> Iterator[Item]:
    try:
        now = digest_sets(config, read_all_prompts(config))
    except UserError as error:
        yield Item("prompts", "", "", "missing", "must be the same", error.problem)
        return
    if state.prompts is None:
        yield Item("prompts", "", _set(now["prompts.train"]), "not recorded", "must be the same")
        return
    for key, before in state.prompts.items():
        after = now.get(key)
        is_same = after is not None and after.sha256 == before.sha256
        found: State = "same" if is_same else "missing" if after is None else "differs"
        yield Item(key, _set(before), "" if after is None else _set(after), found, "must be the same", before.source)


def _set(found: PromptDigest) -> str:
    return f"{found.num_prompts} problems, {found.sha256[:12]}"


def _files(state: ManifestState, here: MadeWith) -> Iterator[Item]:
    recorded = state.made_with[-1].files if state.made_with else {}
    for key, now in here.files.items():
        before = recorded.get(key)
        found: State = "missing" if now.sha256 is None else "not recorded"
        if before is not None and before.sha256 is not None and now.sha256 is not None:
            found = "same" if before.sha256 == now.sha256 else "differs"
        why = f"{now.source} is not on this machine" if now.sha256 is None else now.source
        # An engine fetches a hub id; what it fetches can be compared only when it is here.
        effect: Effect = "may change results" if now.sha256 is None and _is_hub_id(now) else "must be the same"
        yield Item(key, "" if before is None else _files_digest(before), _files_digest(now), found, effect, why)


def _is_hub_id(found: FilesDigest) -> bool:
    return found.source.count("/") == 1 and not found.source.startswith(("/", ".", "~", "embedded:"))


def _files_digest(found: FilesDigest) -> str:
    sampled = ", sampled" if found.is_sampled else ""
    return "" if found.sha256 is None else f"{found.num_bytes:,} bytes, {found.sha256[:12]}{sampled}"


def _unfixed(config: Config) -> Iterator[Item]:
    """What a seed does not decide."""
    for name, judge in config.judges.items():
        if judge.kind == "openai":
            why = "an endpoint's answers are not decided by this run's seed, and its model may change without notice"
            yield Item(f"judges.{name}", f"endpoint: {judge.model}", "", "not recorded", "may change results", why)
    if not config.generate.seed_per_request:
        why = "generate.seed_per_request is off: the responses depend on how requests met in a batch"
        yield Item("sampling seeds", "per engine", "", "not recorded", "may change results", why)


def _programs(state: ManifestState, now: MadeWith) -> Iterator[Item]:
    """Versions and machine; of a run that changed machines, every one it was on."""
    if not state.made_with:
        recorded = state.created["program_version"] if state.created else ""
        yield _compared("version of bcpg-cluster", recorded, __version__)
        yield Item("versions of packages", "", _versions(now), "not recorded", "may change results")
        yield Item("device", "", _device(now.device), "not recorded", "may change results")
        return
    last = state.made_with[-1]
    for package in sorted({**last.versions, **now.versions}):
        yield _compared(f"version of {package}", last.versions.get(package, ""), now.versions.get(package, ""))
    yield _compared("device", _device(last.device), _device(now.device))
    if len(state.made_with) > 1:
        why = "the run was resumed with other programs, files or machines than it began with; compared is the last"
        count = f"{len(state.made_with)} times"
        yield Item("programs and machine, throughout", count, "once", "differs", "may change results", why)


def _compared(what: str, recorded: str, here: str) -> Item:
    found: State = "same" if recorded == here else "differs" if recorded and here else "missing"
    if not recorded and here:
        found = "differs"
    return Item(what, recorded or "none", here or "none", found, "may change results")


def _versions(found: MadeWith) -> str:
    return ", ".join(f"{package} {version}" for package, version in found.versions.items())


def _device(found: Device) -> str:
    gpus = ", ".join(found.gpus) or "no GPU"
    return f"{found.architecture}, {found.cpu or 'unknown CPU'}, {found.num_cpus} CPUs, {gpus}"
