"""PathFinder-PRM: a step is asked about twice. First for its errors, then, with those filled in, for its reward.

Layout, tokens and the order of the passes: the model card https://huggingface.co/declare-lab/PathFinder-PRM-7B and
https://github.com/declare-lab/PathFinder-PRM (src/evaluation), arXiv 2505.19706. A conversation has the instruction and the
problem in the user's turn, and in the assistant's the earlier steps and the step itself with ``<extra>`` in the place of each
label. A label is ``<+>`` or ``<->``: whichever the model finds likelier as the next token, one place before. The reward is
P(``<+>``) against ``<->`` in the second pass. The card's snippet runs no second pass for a step with an error and gives it -1;
here the reward is always asked for, given the errors found, as the paper writes it. No vendor imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.prm.layout import Rendered, digest, holds_any, require_chat_template, special_tokens

# As the model was trained with it, slip included.
INSTRUCTION: Final = (
    "You are a Math Teacher. Given a question and a student's solution, evaluate the mathemetical correctness, logic consistency "
    "of the current step and whether it will lead to the correct final solution"
)
GOOD, BAD, MASK = "<+>", "<->", "<extra>"


class PathFinder:
    """The two inputs of a step.

    Attributes:
        pair: token ids of ``<+>`` and ``<->``.
        version: names all that decides the inputs.

    Raises:
        ConfigError: the three label tokens are not in the vocabulary, or there is no chat template.
    """

    name: str = "pathfinder"

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._instruction = INSTRUCTION if system is None else system
        self._special = (*special_tokens(tokenizer), GOOD, BAD, MASK)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (GOOD, BAD, MASK) if token not in vocabulary]
        if missing or separator is not None:
            raise ConfigError(
                f"{', '.join(missing)} not in the vocabulary of {model}"
                if missing
                else f"separator {separator!r} was given",
                rule="PathFinder's labels are the tokens <+>, <-> and <extra>, and it has no separator",
                remedy="set the model's own convention, and leave the separator out",
            )
        self.pair = int(vocabulary[GOOD]), int(vocabulary[BAD])
        self._mask_id = int(vocabulary[MASK])
        self.version = "pathfinder-prm" + (
            "" if system is None or system == INSTRUCTION else f"/system:{digest(system)}"
        )
        require_chat_template(tokenizer, model)

    def errors(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """The input that asks for the errors of the last of these steps; positions: mathematics, consistency.

        ``None`` when a label's place cannot be told apart in it.
        """
        return self._render(problem, steps, f" Math reasoning: {MASK}, Consistency: {MASK}", 2)

    def reward(self, problem: str, steps: Sequence[str], *, is_sound: bool, is_consistent: bool) -> Rendered | None:
        """The input that asks for the reward of the last of these steps, given its errors; one position."""
        found = f" Math reasoning: {_label(is_sound)}, Consistency: {_label(is_consistent)}"
        return self._render(problem, steps, f"{found}, Correctness: {MASK}", 1)

    def _render(self, problem: str, steps: Sequence[str], labels: str, num_masks: int) -> Rendered | None:
        if holds_any((problem, *steps), self._special):
            return None
        *earlier, current = (step.strip("\n") for step in steps)
        before = "\n\n".join(earlier) + "\n\n" if earlier else ""
        messages = [
            {"role": "user", "content": f"{self._instruction}\n\n Question: {problem}"},
            {"role": "assistant", "content": f"{before}Current Step: {current}{labels}"},
        ]
        token_ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=False, return_dict=False)
        places = [index - 1 for index, token_id in enumerate(token_ids) if token_id == self._mask_id]
        return Rendered(tuple(token_ids), tuple(places)) if len(places) == num_masks else None


def most_passes(num_steps: int) -> int:
    """The most inputs that a response of at most so many steps is asked by."""
    return 2 * num_steps


def _label(is_good: bool) -> str:
    return GOOD if is_good else BAD
