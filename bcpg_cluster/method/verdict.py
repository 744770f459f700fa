"""What an LLM judge is asked and how its answer is read. Pure text in, pure text out.

The answer's grammar is the same for every prompt: one line for each step asked about, in order,
``<index> correct none`` or ``<index> wrong <error type>``. Anything else is unparsable: a judge's answer is never
guessed at (fail closed).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import Template

from bcpg_cluster.records import ErrorType


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judge's prompt as data.

    Attributes:
        system: the system message; empty for none. The static part, first, so that prefix caching works.
        user: template with ``$problem``, ``$steps``, ``$first``, ``$last`` and, where it is shown, ``$gold``.
        step: template of one step with ``$index`` and ``$text``.
        gold: template of the gold answer with ``$answer``; used only when the judge may see it.
        collapse_whitespace: put each step on one line.
    """

    name: str
    system: str
    user: str
    step: str
    gold: str = ""
    collapse_whitespace: bool = False

    @property
    def digest(self) -> str:
        """Twelve hex digits over the whole prompt: the version that is recorded with every verdict."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def parse_judge_prompt(text: str) -> JudgePrompt:
    """Read a prompt file (TOML).

    Raises:
        ValueError: a field is missing, unknown, or lacks a placeholder the judge cannot do without.
    """
    try:
        prompt = JudgePrompt(**tomllib.loads(text))
    except (TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"not a judge prompt: {error}") from None
    for field, names in (("user", ("problem", "steps", "first", "last")), ("step", ("index", "text"))):
        identifiers = Template(getattr(prompt, field)).get_identifiers()
        missing = [name for name in names if name not in identifiers]
        if missing:
            raise ValueError(f"judge prompt {prompt.name!r}: {field} lacks ${', $'.join(missing)}")
    return prompt


def render_judge_messages(
    prompt: JudgePrompt, problem: str, steps: Sequence[str], first: int, last: int, gold: str | None = None
) -> list[dict[str, str]]:
    """The chat messages that ask about steps ``first..last`` (inclusive), showing ``steps[0..last]``.

    Steps after ``last`` are hidden, so ``first == last`` gives the paper's causal view (Eq. 3: phi(x, STEP_{:k})) and
    ``0, len(steps) - 1`` the full one. ``gold=None`` keeps the gold answer from the judge.
    """
    if not 0 <= first <= last < len(steps):
        raise ValueError(f"cannot judge steps {first}..{last} of {len(steps)}")

    def shown(text: str) -> str:
        return " ".join(text.split()) if prompt.collapse_whitespace else text.strip("\n")

    rendered = "\n".join(
        Template(prompt.step).substitute(index=index, text=shown(text)) for index, text in enumerate(steps[: last + 1])
    )
    user = Template(prompt.user).substitute(
        problem=problem,
        steps=rendered,
        first=first,
        last=last,
        gold=Template(prompt.gold).substitute(answer=gold) if gold is not None and prompt.gold else "",
    )
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": user}]


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

    Strict: every index once and in order, a known word and a known error type, ``none`` exactly with ``correct``.
    """
    lines = [line.split() for line in text.strip().splitlines() if line.strip()]
    if len(lines) != last - first + 1:
        return None
    verdicts = []
    for index, words in enumerate(lines, start=first):
        if len(words) != 3 or words[0] != str(index) or words[1] not in ("correct", "wrong"):
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
