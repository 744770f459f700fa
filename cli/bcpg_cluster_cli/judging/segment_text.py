"""``bcpg-cluster segment-text``: any text cut into steps, as the stage `segment` would cut it."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.errors import DataError
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.cues import REFLECTION_CUES, STEP_CUES
from bcpg_cluster.stages.segment.merge import cue_at
from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster_cli.terminal import Terminal, shown

CUES = tuple(dict.fromkeys((*STEP_CUES, *REFLECTION_CUES)))
STYLES = ("cyan", "yellow")


def run_segment_text(
    source: str,
    segmenter: Segmenter,
    *,
    tokenizer: str | None = None,
    cues: Sequence[str] = CUES,
    as_json: bool = False,
) -> None:
    """Print the steps of a text.

    Args:
        source: a file of UTF-8 text; ``-`` reads the standard input.
        segmenter: what cuts.
        tokenizer: a directory, ``embedded:NAME`` or a Hugging Face id. Without one, words stand for tokens, so sizes are
            rough (a token is about three quarters of an English word; formulas have more).
        cues: which words are named where a step begins with one; a run's own are ``run.build.segmenters.marked_cues``.

    Raises:
        DataError: the text cannot be read, or the tokenizer cannot give it back.
    """
    text = read_text(source)
    pieces = word_pieces(text) if tokenizer is None else tokenizer_pieces(text, resolve_asset(tokenizer))
    steps = segmenter(pieces)
    lines = describe(steps, text, tuple(cues))
    if as_json:
        print(json.dumps({"tokenizer": tokenizer, "num_tokens": len(pieces), "steps": lines}))
    else:
        show(Terminal(), lines, len(pieces), "tokens" if tokenizer else "words")


def read_text(source: str) -> str:
    """The whole text, line breaks as they are."""
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source} cannot be read: {error}",
            rule="segment-text takes a file of UTF-8 text, or - for the standard input",
            remedy="correct the path or the file's encoding",
        ) from None


def word_pieces(text: str) -> list[str]:
    """Words with the space before them, and every other character by itself; they join to the text."""
    return re.findall(r" ?\w+|\W", text)


def tokenizer_pieces(text: str, model: str) -> tuple[str, ...]:
    """What each token of ``text`` adds to it, as the rollout engine records it.

    Raises:
        DataError: there is no such tokenizer, or its tokens do not join to the text (unknown characters, or special tokens
            in the text).
    """
    from transformers import AutoTokenizer

    from bcpg_cluster.stages.generate.token_texts import token_texts

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # transformers, tokenizers and the hub raise what they like
        raise DataError(
            f"{model!r} gives no tokenizer: {error}",
            rule="--tokenizer is a model's directory, embedded:NAME or a Hugging Face id",
            remedy="correct it, or leave it out: then words are counted",
        ) from error
    pieces = token_texts(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    if "".join(pieces) != text:
        raise DataError(
            f"the tokenizer of {model!r} gives back {''.join(pieces)[:60]!r}... for {text[:60]!r}...",
            rule="the tokens must join to the text again",
            remedy="take special tokens out of the text, use the tokenizer of the model that wrote it, or leave --tokenizer out",
        )
    return pieces


def describe(steps: Sequence[Step], text: str, cues: tuple[str, ...]) -> list[dict[str, Any]]:
    """One mapping a step; ``cue`` is ``None`` where the step begins with none."""
    begins = accumulate((len(step.text) for step in steps), initial=0)
    return [
        {
            "step": index,
            "start": step.start,
            "end": step.end,
            "num_tokens": step.end - step.start,
            "cue": cue_at(text, at, cues),
            "shares_last_token": step.shares_last_token,
            "text": step.text,
        }
        for index, (step, at) in enumerate(zip(steps, begins, strict=False))
    ]


def show(console: Console, lines: Sequence[dict[str, Any]], num_tokens: int, unit: str) -> None:
    """A heading and the text of every step in alternating colours, then the sizes."""
    for line, style in zip(lines, cycle(STYLES), strict=False):
        heading = f"── step {line['step']}   {unit} {line['start']}-{line['end'] - 1} ({line['num_tokens']})"
        heading += f"   cue: {line['cue']}" if line["cue"] else ""
        heading += "   shares its last token with the next step" if line["shares_last_token"] else ""
        console.print(Text(shown(heading), style=f"bold {style}"))
        console.print(Text(shown(line["text"].rstrip()), style=style))
    sizes = [line["num_tokens"] for line in lines]
    spread = (
        f": {min(sizes)} / {statistics.median(sizes):g} / {max(sizes)} a step (least / median / most)" if sizes else ""
    )
    with_cue = sum(line["cue"] is not None for line in lines)
    note = "" if unit == "tokens" else "; --tokenizer counts a model's own tokens"
    console.print(
        f"{len(lines)} steps, {num_tokens} {unit}{spread}; {with_cue} begin with a cue{note}",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
