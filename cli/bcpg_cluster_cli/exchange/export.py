"""``bcpg-cluster export``: a run's policy or data, in the layouts that other tools load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import UserError
from bcpg_cluster.exchange.dataset_directory import Written
from bcpg_cluster.exchange.export_preferences import PairSettings, export_preferences
from bcpg_cluster.exchange.export_steps import JudgeSet, export_steps
from bcpg_cluster.exchange.export_verl import export_verl
from bcpg_cluster.exchange.export_weights import WEIGHT_STYLES, WeightSettings, export_weights
from bcpg_cluster.exchange.policy.export_policy import export_policy
from bcpg_cluster.exchange.policy.push_to_hub import HubTarget
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.train.objective import Dpo
from bcpg_cluster.stages.weigh.consensus import consensus
from bcpg_cluster.store.path import RunPath
from bcpg_cluster_cli.session import find_run
from bcpg_cluster_cli.terminal import Terminal

WHATS = ("policy", "steps", "weights", "preferences", "verl")
PAIR_STYLES = ("conversational", "standard")
STYLES_OF: dict[str, tuple[str, ...]] = {"preferences": PAIR_STYLES, "weights": WEIGHT_STYLES}


def run_export(
    what: str,
    out: Path,
    run_dir: str | RunPath | None,
    rounds: Sequence[int] = (),
    *,
    style: str | None = None,
    data_source: str | None = None,
    ability: str = "math",
    licence: str | None = None,
    hub: HubTarget | None = None,
    as_json: bool = False,
) -> None:
    """Write one thing of a run to a new directory.

    Args:
        what: ``policy``, ``steps``, ``weights``, ``preferences`` or ``verl``.
        rounds: the rounds to take data of (all by default); for the policy the one round whose weights to take (the newest).
        style: of preferences (``conversational`` by default) or weights, which need one.
        data_source, ability: of verl's rows; the run's name by default.
        licence: of the policy, for its card.
        hub: push the policy there as well.

    Raises:
        UserError: an unknown export, the run is not that far, ``out`` is not empty, or the hub refuses the push.
    """
    if what not in WHATS:
        raise UserError(f"unknown export {what!r}", rule=f"exports are {', '.join(WHATS)}", remedy="give one of these")
    known = STYLES_OF.get(what, ())
    if (style is not None and style not in known) or (what == "weights" and style is None):
        raise UserError(
            "weights need a --style" if style is None else f"unknown style {style!r} of {what}",
            rule="; ".join(f"styles of {name} are {', '.join(styles)}" for name, styles in STYLES_OF.items()),
            remedy="give one of these" if known else "leave --style out",
        )
    if what != "policy" and (licence or hub):
        raise UserError(
            f"{what} has no model card and is not pushed",
            rule="--license and --push-to-hub are for the policy",
            remedy="leave them out; `hf upload OWNER/NAME DIR . --repo-type dataset` pushes a data set",
        )
    directory = find_run(run_dir)
    config = load_run_config(directory)
    console = Terminal(stderr=as_json)
    if what == "policy":
        facts = _policy(directory, out, config, rounds, licence, hub)
    elif what == "steps":
        facts = _dataset(export_steps(directory, out, run_name=config.name, judges=judge_set(config), rounds=rounds))
    elif what == "weights":
        chosen = next(known_style for known_style in WEIGHT_STYLES if known_style == style)
        weights = WeightSettings(config.name, config.generate.temperature, judge_set(config))
        facts = _dataset(export_weights(directory, out, chosen, weights, rounds))
    elif what == "preferences":
        settings = pair_settings(config, style or "conversational")
        facts = _dataset(export_preferences(directory, out, run_name=config.name, settings=settings, rounds=rounds))
    else:
        sets = read_all_prompts(config)
        splits = {"train": sets.train, "test": sets.test, **sets.more_tests}
        source = data_source or config.name
        facts = _dataset(export_verl(out, run_name=config.name, splits=splits, data_source=source, ability=ability))
    console.print(
        f"{what}: {out}   " + "   ".join(f"{key} {value}" for key, value in facts.items()),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        typer.echo(json.dumps({"what": what, "directory": str(out), **facts}))


def judge_set(config: Config) -> JudgeSet:
    """The run's judges, with its consensus."""
    thresholds = {name: judge.threshold for name, judge in config.judges.items()}
    return JudgeSet(
        names=tuple(config.judges),
        voters=config.voters,
        thresholds=thresholds,
        decide=partial(consensus, thresholds=thresholds, rule=config.consensus_rule),
        facts={
            "rule of the consensus": config.weigh.rule,
            "when a step is right (rule of each judge)": ", ".join(f"{n} {j.rule}" for n, j in config.judges.items()),
            "thresholds": ", ".join(f"{name} {value:g}" for name, value in thresholds.items()),
        },
    )


def pair_settings(config: Config, style: str) -> PairSettings:
    """The run's own pairing where its objective pairs, else that objective's defaults."""
    dpo = config.objective if isinstance(config.objective, Dpo) else Dpo()
    return PairSettings(
        style="standard" if style == "standard" else "conversational",
        pairing=dpo.pairing,
        max_pairs=dpo.max_pairs,
        seed=config.seed,
        min_verified_share=config.weigh.min_verified_share,
        truncated=config.weigh.truncated,
    )


def _policy(
    directory: RunPath, out: Path, config: Config, rounds: Sequence[int], licence: str | None, hub: HubTarget | None
) -> dict[str, Any]:
    if len(rounds) > 1:
        raise UserError(
            f"--round was given {len(rounds)} times", rule="a policy comes from one round", remedy="give one --round"
        )
    version = rounds[0] if rounds else None
    if hub is not None:
        hub.check()  # before anything is written
    done = export_policy(directory, out, config, version=version, licence=licence)
    pushed = {} if hub is None else {"pushed": hub.push(out, f"Policy of run {config.name}, round {done.version}")}
    return {
        "version": done.version,
        "parameters": done.num_parameters,
        "dtypes": ", ".join(done.dtypes),
        "chat_template": "yes" if done.has_chat_template else "none",
        **pushed,
    }


def _dataset(written: Written) -> dict[str, Any]:
    return {f"rows_{split}": number for split, number in written.rows.items()}
