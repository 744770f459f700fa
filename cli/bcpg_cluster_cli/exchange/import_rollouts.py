"""``bcpg-cluster import``: responses made elsewhere become round 1 of a new run, which ``iterate`` then continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, UserError
from bcpg_cluster.exchange.foreign_rollouts import STYLES, Style
from bcpg_cluster.exchange.import_rollouts import ImportSummary, import_rollouts
from bcpg_cluster.exchange.import_tokenizer import ImportTokenizer, TransformersTokenizer
from bcpg_cluster.prompts.sets import check_disjoint
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.default_config import read_config
from bcpg_cluster.run.preflight.context import policy_context
from bcpg_cluster.run.preflight.preflight import preflight
from bcpg_cluster.run.preflight.prompts import check_answers
from bcpg_cluster.store.layout import CONFIG
from bcpg_cluster.store.path import RunPath, local_only
from bcpg_cluster_cli.session import new_run
from bcpg_cluster_cli.terminal import Terminal


def run_import(
    source: Path,
    config_source: str | None,
    overrides: Sequence[str],
    run_dir: str | RunPath | None,
    seed: int | None,
    columns: Sequence[str] = (),
    *,
    style: str = "auto",
    skip_bad: bool = False,
    as_json: bool = False,
) -> None:
    """Check the file, tokenise it by the policy's tokenizer and make the run.

    Args:
        columns: ``OURS=THEIRS`` for each column that has another name in the file.
        style: who wrote the file (``exchange.foreign_rollouts.STYLES``), or ``auto`` to tell it by its columns.
        skip_bad: leave lines out that cannot be used.

    Raises:
        UserError: the config, the file or the column mapping is invalid, or the run directory is not free.
    """
    config = read_config(config_source, overrides, seed)
    mapping = read_columns(columns)
    sets = preflight(config)
    held_out = [*sets.test, *(prompt for prompts in sets.more_tests.values() for prompt in prompts)]

    def check(prompts: Sequence[Prompt]) -> None:
        check_disjoint(prompts, held_out)
        if config.verify.kind != "math":  # math-verify would take minutes here
            check_answers(config, prompts)

    place = new_run(run_dir, config, None if seed is None else f"{config.name}-seed{seed}")
    directory = local_only(place, "an import")
    done = import_rollouts(
        source,
        directory,
        config,
        import_tokenizer(config),
        columns=mapping,
        check_prompts=check,
        max_model_len=policy_context(config),
        style=_style(style, mapping),
        problems=sets.train,
        skip_bad=skip_bad,
    )
    console = Terminal(stderr=as_json)
    console.print(
        f"{directory}: {done.num_samples} responses to {done.num_prompts} prompts, {done.num_tokens} tokens, as round 1 "
        f"({done.policy})",
        highlight=False,
        markup=False,
    )
    for line in _notes(done):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if done.num_alone:
        console.print(
            f"{done.num_alone} prompts have a single response; a group teaches only where right and wrong ones meet",
            highlight=False,
            markup=False,
        )
    if done.num_longer:
        console.print(
            f"{done.num_longer} responses are longer with their prompt than the policy's context of {done.max_model_len} tokens: "
            "they are trained on, but the policy cannot draw them, and pushes are proven on what fits; raise "
            "policy.engine_args.max_model_len, or leave them out",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"continue with: bcpg-cluster iterate --config {directory / CONFIG} --run-dir {directory}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if as_json:
        typer.echo(json.dumps(asdict(done)))


def _style(style: str, mapping: dict[str, str]) -> Style | None:
    """The style that was asked for; ``None`` to tell it by the columns. Raises :class:`UserError` for an unknown one."""
    for known in STYLES:
        if style == known:
            if mapping and known != "own":
                raise UserError(
                    f"--column was given with --style {style}",
                    rule="a style says which column is what; --column is for files of no known style",
                    remedy="leave one of the two out",
                )
            return known
    if style != "auto":
        raise UserError(
            f"unknown style {style!r}", rule=f"styles are auto, {', '.join(STYLES)}", remedy="give one of these"
        )
    return None


def _notes(done: ImportSummary) -> list[str]:
    """What a reader must know of a file that another trainer wrote."""
    notes = []
    if done.style != "own":
        notes.append(f"read as {done.style} writes rollouts; its rewards are not taken over: `verify` makes them here")
    if done.style in ("trl", "verl"):
        notes.append("the file does not say which responses were cut off: each is taken as ended by itself")
    if done.num_bad:
        kinds = "; ".join(f"{number} x {why}" for why, number in done.bad.items())
        notes.append(f"left out: {done.num_bad} lines that cannot be used ({kinds})")
    return notes


def read_columns(pairs: Sequence[str]) -> dict[str, str]:
    """The mapping of ``OURS=THEIRS`` pairs. Raises :class:`UserError` for an invalid one."""
    mapping = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UserError(
                f"--column {pair!r} cannot be read",
                rule="--column OURS=THEIRS, once for each column with another name",
                remedy="e.g. --column response=completion",
            )
        mapping[ours] = theirs
    return mapping


def import_tokenizer(config: Config) -> ImportTokenizer:
    """The tokenizer of the policy that will be trained.

    Raises:
        DataError: it cannot be loaded, or has no chat template.
    """
    if config.policy.kind == "fake":
        return FakeTokenizer()
    from transformers import AutoTokenizer

    from bcpg_cluster.stages.generate.token_texts import token_texts

    model = resolve_asset(config.policy.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, revision=config.policy.revision, trust_remote_code=config.policy.trust_remote_code
        )
    except (OSError, ValueError) as error:  # what transformers raises for files that are missing or not a tokenizer's
        raise DataError(
            f"policy.model: the tokenizer of {model} cannot be loaded: {error}",
            rule="imported responses are tokenised by the policy's own tokenizer",
            remedy="correct policy.model, or make sure the hub can be reached",
        ) from None
    ends = generation_ends(model, config.policy.revision, trust_remote_code=config.policy.trust_remote_code)
    return TransformersTokenizer(tokenizer, token_texts, ends)


def generation_ends(model: str, revision: str | None, *, trust_remote_code: bool) -> tuple[int, ...]:
    """The tokens that end a generation by the model's ``generation_config.json``, else by its ``config.json``; none where
    neither says it.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(model, revision=revision).eos_token_id
    except OSError:  # there is no such file
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        ends = getattr(config, "eos_token_id", None)
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (int(ends),)


class FakeTokenizer:
    """The tokenizer of fake policies: a character is a token."""

    @property
    def end_token_id(self) -> int:
        """Theirs."""
        from bcpg_cluster.stages.fakes.skill import END_ID

        return END_ID

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """As the fake engine renders."""
        from bcpg_cluster.stages.fakes.generator import FakeGenerator

        return FakeGenerator().render(messages)

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """One token a character."""
        from bcpg_cluster.stages.fakes.skill import decode_token, encode

        ids = encode(text)
        return ids, tuple(map(decode_token, ids))

    def rendered_texts(self, question: str) -> tuple[str, ...]:
        """The question itself: fakes have no template."""
        return (question,)
