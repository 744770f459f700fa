"""``bcpg-cluster validate``: check all that can be checked before an engine starts."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from bcpg_cluster.config.task_defaults import task_notes
from bcpg_cluster.run.build.default_config import DEFAULT_CONFIG, read_config
from bcpg_cluster.run.build.workforce import QUIET
from bcpg_cluster.run.directory import check_run_directory
from bcpg_cluster.run.preflight.judges import judge_notes
from bcpg_cluster.run.preflight.precision import precision_notes
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.store.path import RunPath
from bcpg_cluster_cli.session import new_run


def run_validate(source: str | None, overrides: Sequence[str], run_dir: str | RunPath | None) -> None:
    """Check and print the result; raises what ``iterate`` would raise."""
    for name, value in QUIET.items():  # vLLM and DeepSpeed are imported here, for their parsers
        os.environ.setdefault(name, value)
    console = Console()
    config = read_config(source, overrides, None)
    prompts = preflight(config, is_thorough=True)
    if run_dir is not None:
        check_run_directory(new_run(run_dir, config), config)
    for line in [*task_notes(config), *judge_notes(config), *precision_notes(config)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{source or DEFAULT_CONFIG}: good. {len(prompts.train)} train and {len(prompts.test)} test prompts, judges "
        f"{', '.join(config.judges)}, pools {', '.join(f'{n} x{config.pool(n).members}' for n in config.pool_names())}",
        highlight=False,
        markup=False,
    )
