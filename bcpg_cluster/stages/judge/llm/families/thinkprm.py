r"""ThinkPRM: one thought goes through the steps, each under its heading, and ends each with a box.

``Step 1: ... \boxed{correct}``, ``Step 2: ... \boxed{incorrect}``, then ``</think>`` and, often, whether the solution is right as
a whole. It was trained on verdicts up to the first wrong step, and mostly stops there.

Sources: https://github.com/mukhal/thinkprm, the model cards https://huggingface.co/launch/ThinkPRM-1.5B and ThinkPRM-14B, arXiv
2504.16828.
"""

from __future__ import annotations

import re
from string import Template as Text
from typing import Final, Literal

from bcpg_cluster.stages.judge.llm.families.family import Said, Shown, Template, chat, numbered_steps

_HEADING: Final = re.compile(r"^[\s#*>-]*step\s+(\d+)\b[\s*]*(?:[:.]|$)", re.IGNORECASE | re.MULTILINE)
_VERDICT: Final = re.compile(r"\\boxed\{\s*(?:\\text\{\s*)?(correct|incorrect)\s*\}", re.IGNORECASE)
_WHOLE: Final = re.compile(r"^[\s*]*is the solution correct\?[\s*]*(yes|no)\b", re.IGNORECASE | re.MULTILINE)
_END: Final = "</think>"


class ThinkPrm:
    """See the module."""

    name: str = "thinkprm"
    view: Literal["causal", "full"] = "full"
    is_conversation: bool = False
    user_places: frozenset[str] = frozenset({"problem", "steps"})
    step_places: frozenset[str] = frozenset({"number", "text"})

    def messages(self, prompt: Template, shown: Shown) -> list[dict[str, str]]:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`."""
        steps = "\n".join(numbered_steps(prompt, shown.steps))
        return chat(prompt, Text(prompt.user).substitute(problem=shown.problem, steps=steps))

    def read(self, text: str, num_steps: int) -> list[Said] | None:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`.

        The thought must have ended. Steps are numbered from 1 without a gap, each has one verdict or several that agree, and
        fewer than all of them only where the last one is wrong. What is said of the whole must not contradict them.
        """
        thought, is_over = _thought(text)
        parts = _parts(thought)
        if not is_over or parts is None or not 0 < len(parts) <= num_steps:
            return None
        said = []
        for part in parts:
            verdicts = {found.lower() for found in _VERDICT.findall(part)}
            if len(verdicts) != 1:
                return None
            said.append(Said(int(verdicts == {"correct"}), part.strip()))
        labels = [one.label for one in said]
        if len(said) < num_steps and labels[-1] != 0:
            return None
        whole = {found.lower() for found in _WHOLE.findall(text)}
        if whole not in (set(), {"no" if 0 in labels else "yes"}):
            return None
        return said + [Said(None, "")] * (num_steps - len(said))


def _thought(text: str) -> tuple[str, bool]:
    """The thought, and whether it ended: by its marker, or by what is said of the whole solution."""
    thought, marker, _ = text.partition(_END)
    whole = _WHOLE.search(thought)
    if whole is not None:
        thought = thought[: whole.start()]
    return thought.removeprefix("<think>"), bool(marker) or whole is not None


def _parts(thought: str) -> list[str] | None:
    """The thought cut at its steps' headings; ``None`` when these are not 1, 2, 3 ... What precedes the first belongs to it."""
    starts: list[int] = []
    for heading in _HEADING.finditer(thought):
        number = int(heading[1])
        if number == len(starts) + 1:
            starts.append(heading.start())
        elif number != len(starts) or number == 0:  # named again, the step at hand goes on
            return None
    if not starts or _VERDICT.search(thought, 0, starts[0]):
        return None
    return [thought[begin:end] for begin, end in zip([0, *starts[1:]], [*starts[1:], len(thought)], strict=True)]
