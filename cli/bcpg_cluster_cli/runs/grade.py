"""``bcpg-cluster grade``: the rewards of samples in a file, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from bcpg_cluster.run.build.default_config import read_config
from bcpg_cluster.run.build.engines import make_verifier
from bcpg_cluster.stages.verify.samples import (
    BadGold,
    Graded,
    bad_golds,
    check_columns,
    grade,
    read_golds,
    read_samples,
)
from bcpg_cluster_cli.exchange.import_rollouts import read_columns
from bcpg_cluster_cli.terminal import say

_MAX_SHOWN = 60  # characters of an answer in a line


def run_grade(
    file: Path,
    config_source: str | None,
    overrides: Sequence[str],
    *,
    kind: str | None = None,
    are_golds: bool = False,
    columns: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Print a line a sample.

    Args:
        kind: of verifier, instead of the config's; ``math`` where neither is given.
        are_golds: the file holds gold answers alone; those that no answer can match are listed.
        columns: ``OURS=THEIRS`` for each key that has another name in the file.

    Raises:
        UserError: the config or the file cannot be used.
        typer.Exit: code 1, where a reward is not the expected one or a gold answer cannot be matched.
    """
    mapping = read_columns(columns)
    check_columns(mapping)
    kind = kind or (None if config_source else "math")
    config = read_config(config_source, [*overrides, *([f"verify.kind={kind}"] if kind else [])], None)
    samples = None if are_golds else read_samples(file, mapping)
    golds = read_golds(file, mapping) if are_golds else []
    verifier = make_verifier(config)
    try:
        if samples is None:
            _show_golds(list(bad_golds(verifier, golds)), len(golds), as_json=as_json)
        else:
            _show_samples(list(grade(verifier, samples)), config.verify.kind, as_json=as_json)
    finally:
        verifier.close()


def _show_samples(graded: Sequence[Graded], kind: str, *, as_json: bool) -> None:
    wrong = [one.sample.line for one in graded if one.differs]
    if as_json:
        typer.echo(json.dumps({"kind": kind, "samples": [_facts(one) for one in graded], "differing_lines": wrong}))
    else:
        for one in graded:
            say(_line(one))
        say(_summary(graded, wrong))
    if wrong:
        raise typer.Exit(1)


def _show_golds(bad: Sequence[BadGold], num_golds: int, *, as_json: bool) -> None:
    if as_json:
        facts = [{"line": one.gold.line, "gold": one.gold.gold, "problem": one.problem} for one in bad]
        typer.echo(json.dumps({"num_golds": num_golds, "bad": facts}))
    else:
        for one in bad:
            say(f"line {one.gold.line}: {_on_a_line(one.problem, 300)}")
        say(f"{num_golds - len(bad)} of {num_golds} gold answers are right as their own answer")
    if bad:
        raise typer.Exit(1)


def _facts(one: Graded) -> dict[str, Any]:
    facts = {
        "line": one.sample.line,
        "reward": one.verification.reward,
        "status": str(one.verification.status),
        "response_read_as": one.verification.extracted,
        "gold_read_as": one.verification.extracted_gold or one.sample.gold,
        "why": one.verification.why,
    }
    return facts | ({"expected": one.sample.expected, "differs": one.differs} if one.sample.has_expected else {})


def _line(one: Graded) -> str:
    found = one.verification
    reward = "none" if found.reward is None else f"{found.reward:g}"
    said = "nothing" if found.extracted is None else _on_a_line(found.extracted)
    why = f"; {found.why}" if found.why else ""
    expected = "none" if one.sample.expected is None else f"{one.sample.expected:g}"
    differs = f"   EXPECTED {expected}" if one.differs else ""
    gold = _on_a_line(found.extracted_gold or one.sample.gold)
    return f"line {one.sample.line}: reward {reward} ({found.status}): read {said}, gold {gold}{why}{differs}"


def _summary(graded: Sequence[Graded], wrong: Sequence[int]) -> str:
    statuses = Counter(str(one.verification.status) for one in graded)
    rewards = Counter(one.verification.reward for one in graded)
    counts = f"{rewards[1.0]} right, {rewards[0.0]} wrong, {rewards[None]} without a reward"
    text = f"{len(graded)} samples: {counts} ({', '.join(f'{name} {count}' for name, count in statuses.items())})"
    num_expected = sum(one.sample.has_expected for one in graded)
    if not num_expected:
        return text
    lines = f": lines {', '.join(map(str, wrong))}" if wrong else ""
    return f"{text}\n{len(wrong)} of {num_expected} expected rewards differ{lines}"


def _on_a_line(text: str, most: int = _MAX_SHOWN) -> str:
    """An answer on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
