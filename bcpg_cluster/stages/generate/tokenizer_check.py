"""A model's tokenizer and chat template, checked before any engine starts: does it load, render, and give text back?"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bcpg_cluster.errors import ConfigError, DataError

_THINK = "<think>"


@dataclass(frozen=True, slots=True)
class TokenizerCheck:
    """What to check.

    Attributes:
        key: where the configuration names the model.
        section: its section, for remedies.
        model: directory or hub id.
        texts: problems it will be shown.
        system: a system message that comes before them; empty for none.
        opens_thinking: whether the configuration says that a prompt ends with ``<think>``; ``None`` where that does not
            matter.
    """

    key: str
    section: str
    model: str
    texts: tuple[str, ...]
    revision: str | None = None
    trust_remote_code: bool = False
    system: str = ""
    opens_thinking: bool | None = None


def check_tokenizers(checks: Sequence[TokenizerCheck]) -> None:
    """Load and check every tokenizer (imports transformers: some seconds and some hundred MiB).

    Raises:
        DataError: it does not load, its template is missing or fails, or it changes a problem's text.
        ConfigError: its template opens thinking and the configuration does not say so.
    """
    for check in checks:
        check_tokenizer(load_tokenizer(check), check)


def check_tokenizer(tokenizer: Any, check: TokenizerCheck) -> None:
    """Check a loaded tokenizer. Raises like :func:`check_tokenizers`."""
    if not tokenizer.chat_template:
        raise DataError(
            f"{check.key}: {check.model} has no chat template",
            rule="prompts are rendered by the model's own chat template",
            remedy="put chat_template.jinja beside its tokenizer, or take an instruct model",
        )
    rendered = [_render(tokenizer, text, check) for text in check.texts]
    if len(set(check.texts)) > 1 and len(set(rendered)) == 1:
        raise DataError(
            f"{check.key}: the chat template of {check.model} renders every problem as {rendered[0][:80]!r}",
            rule="a chat template shows the model what the user says",
            remedy="fix chat_template.jinja beside its tokenizer",
        )
    for text in check.texts:
        _check_round_trip(tokenizer, text, check)
    if check.opens_thinking is False and any(prompt.rstrip().endswith(_THINK) for prompt in rendered):
        raise ConfigError(
            f"{check.key}: the chat template of {check.model} ends its prompts with {_THINK}",
            rule="then a response that was cut off while thinking has no answer, and the verifier must know it",
            remedy="set verify.prompt_opens_thinking: true",
        )


def load_tokenizer(check: TokenizerCheck) -> Any:
    """The tokenizer of a model. Raises :class:`DataError` when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            check.model, revision=check.revision, trust_remote_code=check.trust_remote_code
        )
    except Exception as error:  # transformers, tokenizers, the hub and a model's own code raise what they like
        remedy = "correct the model's directory or id; without a network, download it before"
        if "trust_remote_code" in str(error):
            remedy = f"if you trust the code that comes with the model, set {check.section}.trust_remote_code: true"
        raise DataError(
            f"{check.key}: {check.model} gives no tokenizer: {error}",
            rule="a model comes with its tokenizer",
            remedy=remedy,
        ) from error


def _render(tokenizer: Any, text: str, check: TokenizerCheck) -> str:
    messages = [{"role": "system", "content": check.system}] if check.system else []
    messages.append({"role": "user", "content": text})
    try:
        rendered: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # jinja's errors, and whatever a template's raise_exception says
        roles = " and ".join(message["role"] for message in messages)
        raise DataError(
            f"{check.key}: the chat template of {check.model} fails on a {roles} message ({text[:60]!r}): {error}",
            rule="prompts are rendered by the model's own chat template",
            remedy="fix chat_template.jinja beside its tokenizer"
            + (", or take a judge prompt without a system message" if check.system else ""),
        ) from error
    return rendered


def _check_round_trip(tokenizer: Any, text: str, check: TokenizerCheck) -> None:
    """Raises :class:`DataError` when the tokens of a text do not spell it: the model would be shown something else."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Composed accents and a space of its own at the front are some tokenizers' normal forms, and harmless.
    wanted, found = (unicodedata.normalize("NFC", spelt).removeprefix(" ") for spelt in (text, back))
    if wanted == found:
        return
    place = next(
        (k for k, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found))
    )
    raise DataError(
        f"{check.key}: the tokenizer of {check.model} changes a problem's text: {wanted[place : place + 30]!r} "
        f"comes back as {found[place : place + 30]!r} (problem {text[:40]!r}...)",
        rule="the tokens of a text spell the text; otherwise the model reads and writes something other than what is checked",
        remedy="take the tokenizer that belongs to the model, or prompts in characters that it knows",
    )
