"""The sections that say where problems come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.identity import Decides
from bcpg_cluster.config.section import Section


class ColumnsConfig(Section):
    """Which column of a data set holds what; ``question.text`` reaches into a column of objects, ``messages.0.content`` into a
    list.
    """

    question: str = "question"
    """Column of the problem: a text, or a chat of one user message."""
    answer: str = "answer"
    """Column of the gold answer."""
    prompt_id: str | None = None
    """Column that names the problem; ``null`` numbers problems by their row."""


class GeneratedConfig(Section):
    """How many problems a package makes (``task:reasoning_gym/NAME``), and from what.

    All problems of a set differ, and no test problem is trained on, whatever the seeds: further ones are drawn instead.
    """

    train_size: int = Field(5000, ge=1)
    """Problems to train on."""
    test_size: int = Field(500, ge=1)
    """Problems in each test file."""
    train_seed: int = Field(0, ge=0)
    """Seed of the generator for the problems to train on."""
    test_seed: int = Field(1_000_000, ge=0)
    """Seed of the generator for test problems."""
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The generators' own parameters, by generator and name: ``{chain_sum: {max_terms: 4}}``."""


class PromptsConfig(Section):
    """Where problems come from.

    ``train`` and ``test`` are JSON lines with ``prompt_id``, ``question`` and ``answer``; or, with ``columns``, any file of rows
    (JSON lines, a JSON array, CSV, TSV, Parquet; text also as ``.gz``), saved data set or hub id; or a ready-made task:
    ``task:gsm8k``, ``task:NAME=/a/local/copy``.

    Each round takes the next ``per_round`` problems and starts again at the front when all are used.
    """

    train: str
    """Problems to train on: a file (``embedded:sums/prompts/train.jsonl`` or a path), a data set or a task."""
    test: str
    """Held-out problems, given likewise; no question may also be in ``train``."""
    per_round: int = Field(256, ge=1)
    """Problems in one round."""
    order: Literal["stated", "shuffled"] = "shuffled"
    """Order in which rounds take problems: the file's own (``stated``), or a permutation by the run's seed (``shuffled``)."""
    columns: ColumnsConfig | None = None
    """Which column of a data set holds what; ``null`` is for prompt files, or columns ``question`` and ``answer``."""
    train_split: str | None = None
    """Split of a data set to train on; ``null`` is a task's own, or the only one."""
    test_split: str | None = None
    """Split of a data set to measure on; ``null`` is a task's own, or the only one."""
    config_name: str | None = None
    """A hub data set's configuration; ``null`` is its default."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set; ``null`` is the hub's default branch."""
    limit: int | None = Field(None, ge=1)
    """Use only the first this many problems of each file; ``null`` is all."""
    skip_bad: Annotated[bool, Decides.NEVER] = False
    """Leave out rows that cannot be used (not readable, without an answer, with an id or a question that contradicts another row,
    with a gold answer that no response could match), count them, and record them in the run; otherwise they are an error."""
    more_tests: dict[str, str] = Field(default_factory=dict)
    """Further test files by name (harder problems, say), measured and reported beside ``test`` every round."""
    generated: GeneratedConfig | None = None
    """For ``task:reasoning_gym/NAME``: how many problems are made, and from what; ``null`` is the defaults."""

    @model_validator(mode="after")
    def _something_is_generated(self) -> PromptsConfig:
        begin = "task:reasoning_gym/"
        sources = (self.train, self.test, *self.more_tests.values())
        generators = {source.removeprefix(begin) for source in sources if source.startswith(begin)}
        if self.generated is not None:
            unused = sorted(set(self.generated.parameters) - generators)
            if not generators or unused:
                raise ValueError(
                    f"prompts.generated {f'names {unused}, ' if unused else ''}is for problems that a package makes; train, test "
                    f"and more_tests name {sorted(begin + name for name in generators) or 'no ' + begin + 'NAME'}"
                )
        return self
