"""Rollouts as TRL, verl and prime-rl log them, row by row in this package's words.

None of the three writes token ids or the sampler's log-probs into these files, and TRL writes no gold answers: what is missing is
looked up among the run's own problems, or the row is refused. Rewards of theirs are not taken over: an import is verified here.
docs/data.md says which version of which project writes which column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.import_tokenizer import ImportTokenizer
from bcpg_cluster.prompts.columns import question_of
from bcpg_cluster.records import Prompt, StopReason

Style = Literal["own", "trl", "verl", "prime-rl"]
STYLES: tuple[Style, ...] = ("own", "trl", "verl", "prime-rl")
_MARKER = "forty-two"  # stands for a question
_NEEDED: dict[Style, tuple[str, ...]] = {
    "own": (),
    "trl": ("prompt", "completion"),
    "verl": ("input", "output"),
    "prime-rl": ("prompt", "completion", "example_id"),
}
_ANSWERS = (
    "answer",
    "solution",
    "ground_truth",
)  # columns that TRL's own reward functions often log beside the completion


def style_of(columns: Iterable[str]) -> Style:
    """Whose rows have these columns; ``own`` where that cannot be said."""
    names = set(columns)
    if {"input", "output"} <= names and names & {"gts", "score"}:
        return "verl"
    if {"prompt", "completion", "example_id"} <= names:
        return "prime-rl"
    if {"prompt", "completion", "step"} <= names and "response" not in names:
        return "trl"
    return "own"


@dataclass(frozen=True, slots=True)
class Translation:
    """Turns rows of one style into ours.

    Attributes:
        problems: the run's training problems by question: where a prompt's answer, and its id, come from.
        rendered_texts: what a question reads as once the policy's chat template has been put around it
            (``ImportTokenizer.rendered_texts``).
    """

    style: Style
    problems: Mapping[str, Prompt]
    rendered_texts: Callable[[str], tuple[str, ...]]

    @classmethod
    def to(cls, style: Style, problems: Iterable[Prompt], tokenizer: ImportTokenizer) -> Translation:
        """For one run."""
        return cls(style, {prompt.question: prompt for prompt in problems}, tokenizer.rendered_texts)

    def row(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """One of their rows with our columns. Raises :class:`DataError` where something cannot be known."""
        if self.style == "own":
            return row
        missing = [name for name in _NEEDED[self.style] if name not in row]
        if missing:
            raise DataError(
                f"{where}: lacks {', '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing'}",
                rule=f"a row that {self.style} writes has {', '.join(_NEEDED[self.style])}",
                remedy="give the --style of the file, or --column OURS=THEIRS for columns of other names",
            )
        if self.style == "verl":
            return self._own(row, "input", row["output"], row.get("gts"), where)
        if self.style == "trl":
            answer = next((row[name] for name in _ANSWERS if row.get(name) is not None), None)
            return self._own(row, "prompt", row["completion"], answer, where)
        own = self._own(row, "prompt", row["completion"], row.get("answer"), where)
        task = row.get("task")
        name = f"{task}-{row['example_id']}" if isinstance(task, str) and task else str(row["example_id"])
        ended = StopReason.LENGTH if row.get("is_truncated") is True else StopReason.STOP
        return own | {"prompt_id": name, "stop_reason": str(ended)}

    def _own(self, row: Mapping[str, Any], column: str, response: Any, answer: Any, where: str) -> dict[str, Any]:
        prompt = question_of(row, column, where)
        is_text = isinstance(row[column], str)
        question = self._question(prompt, where) if is_text else prompt
        if answer is None or answer == "":
            if question not in self.problems:
                raise DataError(
                    f"{where}: no answer for the prompt {question!r:.80}",
                    rule="a gold answer is the file's own, else that of the same question in prompts.train",
                    remedy="name the problems that were asked as prompts.train, or add a column `answer` to the file",
                )
            answer = self.problems[question].answer
        return {"prompt": question, "response": response, "answer": answer}

    def _question(self, text: str, where: str) -> str:
        """The question inside of a prompt that was logged as text."""
        if text in self.problems:
            return text
        for wrapped in self.rendered_texts(_MARKER):
            before, _, after = wrapped.partition(_MARKER)
            question = text.removeprefix(before).removesuffix(after)
            if question.strip() and text in self.rendered_texts(question):
                return question
        raise DataError(
            f"{where}: the prompt {text!r:.80} is neither a question of prompts.train nor one in the policy's chat template",
            rule="prompts are logged after the chat template; the question is what the policy's template was put around",
            remedy="set policy.model to the model that answered (its template is compared character by character), "
            "or name its problems as prompts.train",
        )
