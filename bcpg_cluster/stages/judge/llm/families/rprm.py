r"""R-PRM: analyses one step in view of the earlier ones, and ends with ``Verification: Is the step correct (Yes/No)? Yes``.

Sources: https://github.com/NJUNLP/R-PRM (src/prompts), the model card https://huggingface.co/kevinpro/R-PRM-7B-DPO, arXiv
2503.21295. The published score is P(Yes) against P(No) after that question, averaged over ten analyses; here the word counts.
"""

from __future__ import annotations

import re
from string import Template as Text
from typing import Final, Literal

from bcpg_cluster.stages.judge.llm.families.family import Said, Shown, Template, chat, numbered_steps

_QUESTION: Final = re.compile(r"is the step correct \(yes/no\)\?", re.IGNORECASE)
_VERDICT: Final = re.compile(
    r"[\s*]*(?:verification[\s*]*:[\s*]*)?is the step correct \(yes/no\)\?[\s*]*(yes|no)[\s*.]*", re.IGNORECASE
)


class RPrm:
    """See the module."""

    name: str = "rprm"
    view: Literal["causal", "full"] = "causal"
    is_conversation: bool = False
    user_places: frozenset[str] = frozenset({"problem", "steps", "now"})
    step_places: frozenset[str] = frozenset({"number", "text"})

    def messages(self, prompt: Template, shown: Shown) -> list[dict[str, str]]:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`."""
        *earlier, now = numbered_steps(prompt, shown.steps)
        return chat(prompt, Text(prompt.user).substitute(problem=shown.problem, steps="\n".join(earlier), now=now))

    def read(self, text: str, num_steps: int) -> list[Said] | None:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`.

        The question is there once, on the last line, with its answer and nothing else.
        """
        lines = text.strip().splitlines()
        found = _VERDICT.fullmatch(lines[-1]) if lines else None
        if num_steps != 1 or found is None or len(_QUESTION.findall(text)) != 1:
            return None
        return [Said(int(found[1].lower() == "yes"), text.strip())]
