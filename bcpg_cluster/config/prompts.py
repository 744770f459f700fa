"""The sections that say where problems come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.section import Section


class ColumnsConfig(Section):
    """Which column of a data set is what; ``question.text`` reaches into a column of objects.

    Attributes:
        question, answer: the problem and the gold answer.
        prompt_id: names the problem; without it problems are numbered by their row.
    """

    question: str = "question"
    answer: str = "answer"
    prompt_id: str | None = None


class GeneratedConfig(Section):
    """Problems that a package makes (``task:reasoning_gym/NAME``): how many, and from what.

    All problems of a set differ, and no test problem is trained on, whatever the seeds: further ones are drawn instead.

    Attributes:
        train_size, test_size: problems of the train file, and of each test file.
        train_seed, test_seed: of the generator.
        parameters: the generator's own, by generator and name: ``{chain_sum: {max_terms: 4}}``.
    """

    train_size: int = Field(5000, ge=1)
    test_size: int = Field(500, ge=1)
    train_seed: int = Field(0, ge=0)
    test_seed: int = Field(1_000_000, ge=0)
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PromptsConfig(Section):
    """Where problems come from.

    ``train`` and ``test`` are JSON lines with ``prompt_id``, ``question`` and ``answer``; or, with ``columns``, any JSON-lines or
    Parquet file, saved data set or hub id; or a ready-made task: ``task:gsm8k``, ``task:NAME=/a/local/copy``.

    ``order`` says which prompts a round gets: ``stated`` takes the file's own order, ``shuffled`` a permutation by the run's
    seed; either way each round takes the next ``per_round`` and starts again at the front when all were used. ``more_tests``
    are further test files by name (harder problems, say), measured and reported beside ``test`` every round. ``generated``
    is for tasks whose problems are made.
    """

    train: str
    test: str
    per_round: int = Field(256, ge=1)
    order: Literal["stated", "shuffled"] = "shuffled"
    columns: ColumnsConfig | None = None
    train_split: str | None = None
    test_split: str | None = None
    config_name: str | None = None
    revision: str | None = None
    limit: int | None = Field(None, ge=1)
    more_tests: dict[str, str] = Field(default_factory=dict)
    generated: GeneratedConfig | None = None

    @model_validator(mode="after")
    def _something_is_generated(self) -> PromptsConfig:
        begin = "task:reasoning_gym/"
        sources = (self.train, self.test, *self.more_tests.values())
        generators = {source.removeprefix(begin) for source in sources if source.startswith(begin)}
        if self.generated is not None:
            unused = sorted(set(self.generated.parameters) - generators)
            if not generators or unused:
                raise ValueError(
                    f"prompts.generated {f'names {unused}, ' if unused else ''}is about problems that are made; train, test and "
                    f"more_tests name {sorted(begin + name for name in generators) or 'no ' + begin + 'NAME'}"
                )
        return self
