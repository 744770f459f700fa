"""A run's prompt sets: checked against each other, dealt to rounds, cut into shards."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.bad_rows import BadRow
from bcpg_cluster.records import Prompt


@dataclass(frozen=True, slots=True)
class PromptSets:
    """The problems of a run: trained on, the benchmark, and further benchmarks by name.

    Attributes:
        skipped: rows that are no prompts and were left out because the config allows it, by the key of their set
            (``prompts.train``); only sets that have some.
    """

    train: list[Prompt]
    test: list[Prompt]
    more_tests: Mapping[str, list[Prompt]] = field(default_factory=dict)
    skipped: Mapping[str, Sequence[BadRow]] = field(default_factory=dict)

    def measured(self, num_prompts: int | None = None) -> dict[str, list[Prompt]]:
        """What every round is measured on, by name: ``test`` (its first ``num_prompts``) and the further benchmarks."""
        return {"test": self.test[:num_prompts], **self.more_tests}


def check_sets(sets: PromptSets) -> None:
    """Raises :class:`DataError` when a test question is trained on, or two test files share a prompt id."""
    check_disjoint(sets.train, sets.test)
    seen = {prompt.prompt_id: "test" for prompt in sets.test}
    for name, prompts in sets.more_tests.items():
        check_disjoint(sets.train, prompts)
        for prompt in prompts:
            if prompt.prompt_id in seen:
                raise DataError(
                    f"prompts.more_tests.{name}: prompt_id {prompt.prompt_id!r} is also in {seen[prompt.prompt_id]}",
                    rule="prompt ids are unique over all test files",
                    remedy="rename it, e.g. with the file's name before it",
                )
            seen[prompt.prompt_id] = name


def check_disjoint(train: Sequence[Prompt], test: Sequence[Prompt]) -> None:
    """Raises :class:`DataError` when a test question is also trained on: the benchmark would measure memory."""
    shared = {prompt.question for prompt in train} & {prompt.question for prompt in test}
    if shared:
        raise DataError(
            f"{len(shared)} test questions are also in the train file, e.g. {min(shared)!r}",
            rule="the test set is held out",
            remedy="remove them from prompts.train",
        )


def round_prompts(prompts: Sequence[Prompt], round_: int, per_round: int, order: str, seed: int) -> list[Prompt]:
    """The prompts of training round ``round_`` (from 1): fresh ones each round until all were used, then from the front.

    Raises:
        DataError: fewer prompts than a single round asks for.
    """
    if per_round > len(prompts):
        raise DataError(
            f"prompts.per_round is {per_round}, the train file holds {len(prompts)}",
            rule="a round takes distinct prompts",
            remedy="lower prompts.per_round or give a larger file",
        )
    ordered = list(prompts)
    if order == "shuffled":
        random.Random(seed).shuffle(ordered)
    start = (round_ - 1) * per_round % len(ordered)
    return (ordered + ordered)[start : start + per_round]


def rounds_with_same_prompts(num_prompts: int, round_: int, per_round: int) -> list[int]:
    """Earlier rounds that :func:`round_prompts` dealt prompts which it deals ``round_`` too; those of the latest pass over all
    prompts, the latest round first.
    """

    def start(number: int) -> int:
        return (number - 1) * per_round % num_prompts

    def is_shared(number: int) -> bool:
        ahead = (start(number) - start(round_)) % num_prompts
        return ahead < per_round or num_prompts - ahead < per_round

    a_pass_ago = round_ - 1 - num_prompts // per_round - 1
    return [number for number in range(round_ - 1, max(a_pass_ago - 1, 0), -1) if is_shared(number)]


def split_shards(prompts: Sequence[Prompt], per_shard: int) -> list[list[Prompt]]:
    """Cut into shards of at most ``per_shard`` prompts; groups stay whole since a group is a prompt."""
    return [list(prompts[start : start + per_shard]) for start in range(0, len(prompts), per_shard)]
