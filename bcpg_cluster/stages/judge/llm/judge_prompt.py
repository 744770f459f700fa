"""What an LLM judge is asked and how its answer is read. Pure text in, pure text out.

A prompt says which of two formats it asks for. ``lines``: one line for each step asked about, in order,
``<index> correct none`` or ``<index> wrong <error type>``. ``json``: see ``stages.judge.llm.answer_schema``. The names of
``stages.judge.llm.families`` are the formats of models that were trained to judge. Anything else is unparsable: a judge's answer
is never guessed at (fail closed).
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from string import Template
from typing import Final, Literal

from bcpg_cluster.records import ErrorType, StepRule
from bcpg_cluster.stages.judge.llm.families.families import FAMILIES
from bcpg_cluster.stages.judge.llm.families.family import chat
from bcpg_cluster.stages.judge.llm.prompt_rules import with_rule

# Fields that came later: left out of the digest while unset, so that old prompts keep the version they were recorded with.
_LATER_FIELDS: Final[Mapping[str, object]] = {
    "answer": "lines",
    "earlier": "",
    "repair": "",
    "tags": (),
    "rule": "propagated",
}

_PLACEHOLDERS: Final[Mapping[str, tuple[set[str], set[str]]]] = {  # by template: those it needs, those it may have
    "user": ({"problem", "steps", "first", "last"}, {"gold", "earlier"}),
    "step": ({"index", "text"}, set()),
    "gold": ({"answer"}, set()),
    "earlier": ({"verdicts"}, set()),
    "repair": (set(), {"first", "last", "count"}),
}


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judge's prompt as data.

    Attributes:
        system: the system message; empty for none. The static part, first, so that prefix caching works.
        user: template with ``$problem``, ``$steps``, ``$first``, ``$last`` and, where they are shown, ``$gold`` and
            ``$earlier``.
        step: template of one step with ``$index`` and ``$text``.
        gold: template of the gold answer with ``$answer``; used only when the judge may see it.
        collapse_whitespace: put each step on one line.
        answer: the format asked for; ``json`` is enforced by a schema where the engine can. A family's name gives ``user`` and
            ``step`` other placeholders, and takes no ``gold`` and ``earlier``.
        earlier: template with ``$verdicts``, what an earlier window of the same response found wrong; empty carries
            nothing from window to window.
        repair: what a judge is told once when its answer cannot be read, with ``$first``, ``$last``, ``$count``; empty
            for no second try.
        tags: names of the tags that fence the problem and the solution; look-alikes within them are defused.
        rule: when a step is right, by the words of this prompt.
    """

    name: str
    system: str
    user: str
    step: str
    gold: str = ""
    collapse_whitespace: bool = False
    answer: Literal["lines", "json", "thinkprm", "genprm", "rprm"] = "lines"
    earlier: str = ""
    repair: str = ""
    tags: tuple[str, ...] = ()
    rule: StepRule = "propagated"

    @property
    def digest(self) -> str:
        """Twelve hex digits over the whole prompt: the version that is recorded with every verdict."""
        fields = {k: v for k, v in asdict(self).items() if k not in _LATER_FIELDS or v != _LATER_FIELDS[k]}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def parse_judge_prompt(text: str, rule: StepRule = "propagated") -> JudgePrompt:
    """Read a prompt file (TOML), with its words for one rule (see ``stages.judge.llm.prompt_rules``).

    Raises:
        ConfigError: it has no words for ``rule``.
        ValueError: a field is missing, unknown or of the wrong type, or a template lacks a placeholder the judge cannot
            do without, or has one that nothing fills.
    """
    try:
        fields = with_rule(tomllib.loads(text), rule)
        tags = fields.get("tags", [])
        if not isinstance(tags, list):
            raise TypeError(f"tags must be a list of names, not {tags!r}")
        if "rule" in fields:
            raise TypeError("the rule is the config's to choose; [rules.NAME] has the words for it")
        prompt = JudgePrompt(**fields | {"tags": tuple(tags), "rule": rule})
    except (TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"not a judge prompt: {error}") from None
    for name, value in asdict(prompt).items():
        if name not in ("collapse_whitespace", "tags") and not isinstance(value, str):
            raise ValueError(f"judge prompt {prompt.name!r}: {name} must be text, not {value!r}")
    if prompt.answer not in ("lines", "json", *FAMILIES):
        known = ", ".join(map(repr, ("json", *FAMILIES)))
        raise ValueError(f"judge prompt {prompt.name!r}: answer must be 'lines' or {known}, not {prompt.answer!r}")
    if prompt.answer in FAMILIES and (prompt.gold or prompt.earlier or prompt.tags):
        raise ValueError(
            f"judge prompt {prompt.name!r}: with answer {prompt.answer!r} there is no gold, earlier or tags"
        )
    if not all(isinstance(tag, str) and tag for tag in prompt.tags):
        raise ValueError(f"judge prompt {prompt.name!r}: tags must be names, not {list(prompt.tags)!r}")
    for field in _PLACEHOLDERS:
        _check_template(prompt, field)
    if prompt.earlier and "earlier" not in Template(prompt.user).get_identifiers():
        raise ValueError(f"judge prompt {prompt.name!r}: earlier is given, but user has no $earlier")
    return prompt


def _check_template(prompt: JudgePrompt, field: str) -> None:
    needed, allowed = _PLACEHOLDERS[field]
    if prompt.answer in FAMILIES and field in ("user", "step"):
        family = FAMILIES[prompt.answer]
        needed, allowed = set(family.user_places if field == "user" else family.step_places), set()
    text: str = getattr(prompt, field)
    if not text and field not in ("user", "step"):
        return
    if not Template(text).is_valid():
        raise ValueError(f"judge prompt {prompt.name!r}: {field} has a stray $; write $$ for the sign itself")
    found = set(Template(text).get_identifiers())
    if needed - found:
        raise ValueError(f"judge prompt {prompt.name!r}: {field} lacks ${', $'.join(sorted(needed - found))}")
    if found - needed - allowed:
        raise ValueError(f"judge prompt {prompt.name!r}: nothing fills ${', $'.join(sorted(found - needed - allowed))}")


def render_judge_messages(
    prompt: JudgePrompt,
    problem: str,
    steps: Sequence[str],
    first: int,
    last: int,
    gold: str | None = None,
    *,
    earlier: Mapping[int, ErrorType] | None = None,
    shown: int | None = None,
) -> list[dict[str, str]]:
    """The chat messages that ask about steps ``first..last`` (inclusive), showing ``steps[0..last]``.

    Steps after ``last`` are hidden, so ``first == last`` gives the paper's causal view (Eq. 3: phi(x, STEP_{:k})) and
    ``0, len(steps) - 1`` the full one. ``gold=None`` keeps the gold answer from the judge.

    Args:
        earlier: the steps before ``first`` already found wrong, and why.
        shown: how many steps are shown; more than ``last + 1`` gives the judge a look ahead.

    Raises:
        ValueError: the steps asked about are not among those shown.
    """
    shown = last + 1 if shown is None else shown
    if not 0 <= first <= last < shown <= len(steps):
        raise ValueError(f"cannot judge steps {first}..{last} of {len(steps)}, {shown} of them shown")

    def defused(text: str) -> str:
        if not prompt.tags:
            return text
        # A response that closes its own fence would speak outside it; `<` as `&lt;` is read alike, but closes nothing.
        names = "|".join(map(re.escape, prompt.tags))
        return re.sub(rf"<(?=\s*/?\s*(?:{names}))", "&lt;", text, flags=re.IGNORECASE)

    def one_step(text: str) -> str:
        return " ".join(text.split()) if prompt.collapse_whitespace else text.strip("\n")

    rendered = "\n".join(
        Template(prompt.step).substitute(index=index, text=defused(one_step(text)))
        for index, text in enumerate(steps[:shown])
    )
    wrong = "\n".join(f"{index} {error}" for index, error in sorted((earlier or {}).items()) if index < first)
    user = Template(prompt.user).substitute(
        problem=defused(problem),
        steps=rendered,
        first=first,
        last=last,
        gold=Template(prompt.gold).substitute(answer=gold) if gold is not None and prompt.gold else "",
        earlier=Template(prompt.earlier).substitute(verdicts=wrong) if wrong and prompt.earlier else "",
    )
    return chat(prompt, user)


def render_repair(
    prompt: JudgePrompt, messages: Sequence[dict[str, str]], answer: str, first: int, last: int
) -> list[dict[str, str]]:
    """The conversation so far, the answer that could not be read, and the request to give it again in the format."""
    request = Template(prompt.repair).substitute(first=first, last=last, count=last - first + 1)
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": request}]


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """A parsed verdict: ``label`` 1 for correct, 0 for wrong."""

    label: int
    error_type: ErrorType


def render_verdicts(first: int, verdicts: Sequence[StepVerdict]) -> str:
    """The answer a judge should give; the inverse of :func:`parse_verdicts`."""
    return "\n".join(
        f"{first + offset} {'correct' if v.label else 'wrong'} {v.error_type}" for offset, v in enumerate(verdicts)
    )


def parse_verdicts(text: str, first: int, last: int) -> list[StepVerdict] | None:
    """Read a judge's answer about steps ``first..last``; ``None`` when it is not exactly that.

    Strict: every index once and in order, a known word and a known error type, ``none`` exactly with ``correct``. A colon, dot or
    parenthesis behind the index says nothing: models take it over from the list of steps.
    """
    lines = [line.split() for line in text.strip().splitlines() if line.strip()]
    if len(lines) != last - first + 1:
        return None
    verdicts = []
    for index, words in enumerate(lines, start=first):
        if len(words) != 3 or words[0] not in _index_words(index) or words[1] not in ("correct", "wrong"):
            return None
        try:
            error_type = ErrorType(words[2])
        except ValueError:
            return None
        label = int(words[1] == "correct")
        if (error_type is ErrorType.NONE) != (label == 1):
            return None
        verdicts.append(StepVerdict(label, error_type))
    return verdicts


def _index_words(index: int) -> tuple[str, ...]:
    return (str(index), *(f"{index}{mark}" for mark in ":.)"))
