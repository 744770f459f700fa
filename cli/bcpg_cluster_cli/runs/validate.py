"""``bcpg-cluster validate``: check all that can be checked before an engine starts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import typer

from bcpg_cluster.config.invalid.keys import InvalidConfigError
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.task_defaults import task_notes
from bcpg_cluster.errors import SeveralFaultsError, UserError
from bcpg_cluster.prompts.bad_rows import BadRow, BadRowsError
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.default_config import DEFAULT_CONFIG, read_config
from bcpg_cluster.run.build.engine_defaults import default_notes
from bcpg_cluster.run.build.workforce import QUIET
from bcpg_cluster.run.directory import check_run_directory
from bcpg_cluster.run.preflight.judges import judge_notes
from bcpg_cluster.run.preflight.lengths import SetLengths, length_notes, measure_sets
from bcpg_cluster.run.preflight.notes import machine_notes, segmenter_notes, skipped_notes
from bcpg_cluster.run.preflight.precision import precision_notes
from bcpg_cluster.run.preflight.preflight import preflight, with_further_faults
from bcpg_cluster.run.preflight.prompt_digests import check_prompts
from bcpg_cluster.run.preflight.trials import probe_endpoints, try_reward
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster_cli.session import new_run
from bcpg_cluster_cli.terminal import Terminal


@dataclass
class Findings:
    """What was found good, and what a person should know."""

    num_train: int
    num_test: int
    judges: list[str]
    pools: dict[str, int]
    notes: list[str] = field(default_factory=list)
    lengths: list[SetLengths] = field(default_factory=list)
    skipped: dict[str, list[BadRow]] = field(default_factory=dict)


def run_validate(
    source: str | None,
    overrides: Sequence[str],
    run_dir: str | RunPath | None,
    *,
    probe: bool = False,
    as_json: bool = False,
) -> None:
    """Check and print the result; raises what ``iterate`` would raise, with all other faults that are found.

    Args:
        probe: also ask the judges' endpoints.
    """
    for name, value in QUIET.items():  # vLLM and DeepSpeed are imported here, for their parsers
        os.environ.setdefault(name, value)
    try:
        found = _all_or_every_fault(source, overrides, run_dir, probe=probe)
    except UserError as error:
        if as_json:
            faults = error.faults if isinstance(error, SeveralFaultsError) else (error,)
            plain = [_plain(fault) for fault in faults]
            typer.echo(
                json.dumps({"good": False, "config": source or DEFAULT_CONFIG, "error": plain[0], "errors": plain})
            )
        raise
    if as_json:
        typer.echo(json.dumps({"good": True, "config": source or DEFAULT_CONFIG, **asdict(found)}))
        return
    console = Terminal()
    for line in found.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    dropped = sum(len(of_set.too_long) for of_set in found.lengths)
    console.print(
        f"{source or DEFAULT_CONFIG}: good{f', but a run drops prompts ({dropped})' if dropped else ''}. {found.num_train} train "
        f"and {found.num_test} test prompts, judges {', '.join(found.judges)}, pools "
        f"{', '.join(f'{name} x{members}' for name, members in found.pools.items())}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _all_or_every_fault(
    source: str | None, overrides: Sequence[str], run_dir: str | RunPath | None, *, probe: bool
) -> Findings:
    def of_run(config: Config, prompts: PromptSets) -> None:
        if run_dir is not None:
            _check_run(config, run_dir, prompts)

    try:
        config = read_config(source, overrides, None)
    except InvalidConfigError as invalid:
        raise with_further_faults(invalid, invalid.rest, probe=probe) from None
    try:
        return _look(config, run_dir, probe=probe)
    except UserError as first:
        raise with_further_faults(first, config, probe=probe, more=of_run) from None


def _look(config: Config, run_dir: str | RunPath | None, *, probe: bool) -> Findings:
    prompts = preflight(config, is_thorough=True)
    if run_dir is not None:
        _check_run(config, run_dir, prompts)
    lengths = measure_sets(config, prompts)
    tried = [try_reward(config, prompts)] if config.verify.kind != "code" else []
    tried += probe_endpoints(config) if probe else []
    notes = [*task_notes(config), *judge_notes(config), *precision_notes(config), *default_notes(config)]
    notes += [*skipped_notes(prompts), *length_notes(lengths)]
    return Findings(
        num_train=len(prompts.train),
        num_test=len(prompts.test),
        judges=list(config.judges),
        pools={name: config.pool(name).members for name in config.pool_names()},
        notes=[*notes, *segmenter_notes(config), *machine_notes(config), *tried],
        lengths=lengths,
        skipped={key: [*rows] for key, rows in prompts.skipped.items()},
    )


def _check_run(config: Config, run_dir: str | RunPath, prompts: PromptSets) -> None:
    directory = new_run(run_dir, config)
    check_run_directory(directory, config)
    check_prompts(directory, read_manifest(directory), config, prompts)


def _plain(error: UserError) -> dict[str, Any]:
    """An error for machines; every bad row or faulty key where there are some."""
    content: dict[str, Any] = {"kind": type(error).__name__, "problem": error.problem}
    content |= {"rule": error.rule, "remedy": error.remedy}
    if isinstance(error, BadRowsError):
        content |= {"num_rows": error.num_rows, "rows": [asdict(row) for row in error.rows]}
    if isinstance(error, InvalidConfigError):
        content["keys"] = [asdict(key) for key in error.keys]
    return content
