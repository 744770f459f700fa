"""What a ready-made task says of itself: data, no behaviour but the reading of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import text_of
from bcpg_cluster.prompts.table_files import Row
from bcpg_cluster.records import Prompt

BOXED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


@dataclass(frozen=True, slots=True)
class Measure:
    """How a task is usually measured: ``num_samples`` a problem is the n of avg@n. Temperature, top-p, tokens."""

    num_samples: int
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32_768


@dataclass(frozen=True, slots=True)
class Task:
    r"""A data set and how to use it.

    Attributes:
        hub_id: where the hub has it (``None``: it is made by a package). ``data_files``: read these files of it.
        config_name: of the hub data set.
        train_split: what may be trained on; ``None`` for a pure benchmark.
        question: its column; ``template`` is what the model is asked, with ``{question}`` in it (and ``{{``, ``}}``).
        prompt_id: the column of the row's id; ``None`` numbers the rows.
        read_answer: the gold answer in a row.
        keep: rows to use; ``None`` uses all.
        read_question: the question in a row, where it is more than a column.
        reward: the kind of verifier that reads its answers; ``reward_function`` is the import path for ``function``.
        source: the paper or page that the settings come from.
    """

    name: str
    hub_id: str | None
    test_split: str
    question: str
    reward: Literal["math", "code", "function"]
    measure: Measure
    read_answer: Callable[[Row, str], str]
    source: str
    prompt_id: str | None = None
    template: str = BOXED
    config_name: str | None = None
    train_split: str | None = None
    data_files: tuple[str, ...] = ()
    read_question: Callable[[Row, str], str] | None = None
    keep: Callable[[Row], bool] | None = None
    reward_function: str | None = None

    def prompts(self, rows: Iterable[Row]) -> list[Prompt]:
        """One prompt for every row that is kept.

        Raises:
            DataError: a column is missing or empty, an answer cannot be read, or no row is left.
        """
        prompts: dict[str, Prompt] = {}
        number = -1
        for number, row in enumerate(rows):
            if self.keep is not None and not self.keep(row):
                continue
            where = f"{self.name}, row {number}"
            question = self.read_question(row, where) if self.read_question else text_of(row, self.question, where)
            own_id = text_of(row, self.prompt_id, where) if self.prompt_id else str(number)
            prompt = Prompt(
                f"{self.name}-{own_id}", self.template.format(question=question), self.read_answer(row, where)
            )
            if prompt.prompt_id in prompts:
                raise DataError(
                    f"{where}: the id {own_id!r} was used before",
                    rule="prompt ids are unique in a data set",
                    remedy="remove one of the two rows",
                )
            prompts[prompt.prompt_id] = prompt
        if not prompts:
            raise DataError(
                f"{self.name}: none of {number + 1} rows can be used",
                rule="a task has at least one prompt",
                remedy="choose another split or file",
            )
        return list(prompts.values())


def column(name: str) -> Callable[[Row, str], str]:
    """An answer that stands in a column of its own."""

    def read(row: Row, where: str) -> str:
        return text_of(row, name, where)

    return read
