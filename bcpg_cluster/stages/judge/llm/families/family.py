"""What a generative process reward model wants to be shown, and what can be read in its answer. Pure text in, pure text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template as Text
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says of one step.

    Attributes:
        label: 1 right, 0 wrong; ``None`` for a step that the judge did not come to.
        thought: the part of the answer that argues for it, verdict included; at most the answer's tokens, over all its steps.
    """

    label: int | None
    thought: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What one question shows: the problem, all steps up to the last one asked about, and the answers to those before it.

    Attributes:
        answers: one a step that was asked about before, as the judge gave it; empty where the family does not see them.
    """

    problem: str
    steps: tuple[str, ...]
    answers: tuple[str, ...] = ()


class Template(Protocol):
    """The texts of a prompt that a family fills in: a :class:`~bcpg_cluster.stages.judge.llm.judge_prompt.JudgePrompt`."""

    @property
    def system(self) -> str:
        """The system message; empty for none."""
        ...

    @property
    def user(self) -> str:
        """With the family's placeholders."""
        ...

    @property
    def step(self) -> str:
        """With the family's placeholders."""
        ...


class Family(Protocol):
    """One family's questions and answers.

    Attributes:
        name: the value of a prompt's ``answer``.
        view: the only view it was trained for.
        is_conversation: whether a question shows the answers to the steps before, so that it waits for them.
        user_places, step_places: what the prompt's ``user`` and ``step`` have to hold.
    """

    name: str
    view: Literal["causal", "full"]
    is_conversation: bool
    user_places: frozenset[str]
    step_places: frozenset[str]

    def messages(self, prompt: Template, shown: Shown) -> list[dict[str, str]]:
        """The chat messages that ask about the last step (``causal``) or about all of them (``full``)."""
        ...

    def read(self, text: str, num_steps: int) -> list[Said] | None:
        """What an answer says of the steps asked about; ``None`` when it is not exactly in the format. Never a guess."""
        ...


def numbered_steps(prompt: Template, steps: Sequence[str]) -> list[str]:
    """The steps in the prompt's words, counted from 1."""
    return [
        Text(prompt.step).substitute(number=number, text=step.strip("\n")) for number, step in enumerate(steps, start=1)
    ]


def chat(prompt: Template, user: str) -> list[dict[str, str]]:
    """The prompt's system message, if it has one, and the user's."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": user}]


def by_name(*families: Family) -> Mapping[str, Family]:
    """The families by their names."""
    return {family.name: family for family in families}
