"""`bcpg-cluster init`: from a model and a file of problems to a config that is known to be good, in one file.

model.py, data.py, machine.py, judge.py, rewards.py   read what is there (facts.py)
sizes.py, proposal.py                                 decide
commented_yaml.py                                     write
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, page
from bcpg_cluster.new_config.commented_yaml import plain, render
from bcpg_cluster.new_config.data import SplitFiles, read_data
from bcpg_cluster.new_config.judge import read_judge
from bcpg_cluster.new_config.machine import read_machine
from bcpg_cluster.new_config.model import prompt_lengths, read_model
from bcpg_cluster.new_config.proposal import judge_pool, propose
from bcpg_cluster.new_config.rewards import read_reward
from bcpg_cluster.new_config.schema import SCHEMA_LINE, config_schema
from bcpg_cluster.new_config.sizes import choose_members, choose_sizes
from bcpg_cluster.run.build.default_config import config_from
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.store.whole_files import write_whole

SCHEMA_FILE = "bcpg-cluster.schema.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person says of a run to be.

    Attributes:
        test: ``None`` splits one off ``train``.
        judge: an endpoint's address, a directory or hub id; ``None`` is the policy's own base model.
        reward: ``file.py:function``; ``None`` goes by the gold answers.
        columns: by our names, where they are known.
        out: the file to write; ``None`` is ``<name>.yaml`` here.
    """

    model: str
    train: str
    test: str | None = None
    judge: str | None = None
    reward: str | None = None
    judge_model: str | None = None
    judge_key_env: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    address: str | None = None
    may_replace: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A config that was written.

    Attributes:
        guesses: a line for people on each thing that was not said.
        files: everything that was written, the config first.
    """

    path: Path
    config: Config
    guesses: tuple[str, ...]
    files: tuple[Path, ...]


def write_first_config(wanted: Wanted) -> Written:
    """Read, decide, check as `iterate` would, then write. Nothing is written where something is wrong.

    Raises:
        UserError: a model, file, endpoint or function that is not there or cannot be used; a file in the way.
    """
    name = run_name(wanted.model, wanted.train)
    out = wanted.out or Path(f"{name}.yaml")
    name = name if wanted.out is None else _as_name(out.stem)
    machine = read_machine(wanted.address)
    model = read_model("--model", wanted.model)
    data, split, guesses = read_data(wanted.train, wanted.test, wanted.columns, out.parent)
    _check_free([out, *([split.train, split.test] if split else [])], may_replace=wanted.may_replace)
    lengths, opens_thinking = prompt_lengths(model.name, data.questions or ("?" * 64,))
    verify: dict[str, Any] = {}
    if data.columns is not None or data.golds:
        verify, told = read_reward(wanted.reward, data.golds, opens_thinking=opens_thinking)
        guesses.append(told)
    judge, told = read_judge(wanted.judge, wanted.judge_model, wanted.judge_key_env, model)
    guesses.append(f"judge: {told}")
    sizes = choose_sizes(model, data, max(lengths), machine.num_gpus)
    members = choose_members(model, judge.model, judge_pool(judge), sizes, machine)
    guesses.append(
        f"machine: {machine.where}, {machine.num_cpus:g} CPUs, {machine.num_gpus} GPUs; pools "
        + ("beside each other" if members.placement == "separate" else "in turns")
    )
    guesses.append(f"longest prompt: {max(lengths)} tokens; longest response: {sizes.max_tokens}")
    tree = propose(name, model, data, verify, judge, sizes, members, machine)
    tree = {key: value for key, value in tree.items() if value != {}}
    config = _checked(tree, out, split)
    text = f"{SCHEMA_LINE.format(SCHEMA_FILE)}\n{_heading(out, guesses)}\n{render(tree)}\n"
    schema = out.parent / SCHEMA_FILE
    write_whole(schema, config_schema().encode())
    write_whole(out, text.encode())
    return Written(out, config, tuple(guesses), (out, schema, *([split.train, split.test] if split else [])))


def run_name(model: str, train: str) -> str:
    """``<model>-<problems>``, in the characters a run's name may have."""
    parts = [
        Path(model.removeprefix("embedded:")).name,
        Path(train.rpartition(":")[2].partition("=")[0]).name.partition(".")[0],
    ]
    return _as_name("-".join(part for part in parts if part))


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "run"


def _check_free(files: list[Path], *, may_replace: bool) -> None:
    there = [str(path) for path in files if path.exists()]
    if there and not may_replace:
        raise ConfigError(
            f"{' and '.join(there)} exist{'s' if len(there) == 1 else ''} already",
            rule="no file of yours is replaced unasked",
            remedy="give another --out, or --force",
        )


def _checked(tree: dict[str, Any], out: Path, split: SplitFiles | None) -> Config:
    """The config, after every check that `iterate` makes; files of a split are taken away again where one fails."""
    config = config_from(plain(tree), str(out))
    if split is None:
        preflight(config)
        return config
    before = {path: path.read_bytes() if path.exists() else None for path in (split.train, split.test)}
    split.write()
    try:
        preflight(config)
    except BaseException:
        for path, content in before.items():
            path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        raise
    return config


def _heading(out: Path, guesses: list[str]) -> str:
    told = "".join(f"#   {line}\n" for line in guesses)
    return (
        f"# Written by `bcpg-cluster init`. What was not said was guessed; change what is wrong:\n{told}#\n"
        f"#   bcpg-cluster iterate --config {out} --dry-run    # tries every part on two problems\n"
        f"#   bcpg-cluster iterate --config {out} --rounds 3\n"
        f"# Every key: {page('config.md')}."
    )
