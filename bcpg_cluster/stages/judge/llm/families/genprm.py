r"""GenPRM: a conversation in which every paragraph of the solution is a user turn, answered by a critique.

A critique has ``<analyze>``, often ``<verify>`` with a Python program and what the model expects it to print, and ``<output>``
with ``**Judgement**: $\boxed{Yes}$`` or ``No``. The programs are not run here: this is what the published code calls execute=False.

Sources: https://github.com/RyanLiu112/GenPRM (src/prm_evaluation), the model card https://huggingface.co/GenPRM/GenPRM-7B, arXiv
2504.00891.
"""

from __future__ import annotations

import re
from string import Template as Text
from typing import Final, Literal

from bcpg_cluster.stages.judge.llm.families.family import Said, Shown, Template

_OUTPUT: Final = re.compile(
    r"\s*\*{0,2}judge?ment\*{0,2}\s*:\s*\*{0,2}\s*\$?\s*\\boxed\{\s*(yes|no)\s*\}\s*\$?\s*(?:</output>\s*)?",
    re.IGNORECASE,
)


class GenPrm:
    """See the module."""

    name: str = "genprm"
    view: Literal["causal", "full"] = "causal"
    is_conversation: bool = True
    user_places: frozenset[str] = frozenset({"problem", "text"})
    step_places: frozenset[str] = frozenset({"text"})

    def messages(self, prompt: Template, shown: Shown) -> list[dict[str, str]]:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`."""
        turns = [{"role": "system", "content": prompt.system}] if prompt.system else []
        for index, step in enumerate(shown.steps):
            text = step.strip("\n")
            said = Text(prompt.step if index else prompt.user).substitute(
                {"text": text} if index else {"text": text, "problem": shown.problem}
            )
            turns.append({"role": "user", "content": said})
            if index < len(shown.steps) - 1:
                turns.append({"role": "assistant", "content": shown.answers[index]})
        return turns

    def read(self, text: str, num_steps: int) -> list[Said] | None:
        """See :class:`~bcpg_cluster.stages.judge.llm.families.family.Family`.

        One ``<output>`` ends the answer, after every part that was begun has ended, and holds the judgement alone.
        """
        critique, marker, output = text.partition("<output>")
        is_open = any(critique.count(f"<{part}>") > critique.count(f"</{part}>") for part in ("analyze", "verify"))
        found = _OUTPUT.fullmatch(output)
        if num_steps != 1 or not marker or is_open or found is None:
            return None
        return [Said(int(found[1].lower() == "yes"), text.strip())]
