"""Every prompt's tokens against the policy's context, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bcpg_cluster.cluster.child_processes import child_processes
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.preflight.context import policy_context
from bcpg_cluster.stages.generate import prompt_lengths

_MAX_SHOWN = 20  # prompts named in one line
_SENT_AT_ONCE = 10_000  # questions, each of which is in memory twice then


@dataclass(frozen=True, slots=True)
class MeasuredPrompt:
    """A prompt and its tokens."""

    prompt_id: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SetLengths:
    """A set of prompts against the context.

    Attributes:
        key: of the set in the config.
        context: the policy's, in tokens; ``None`` where it is not known here.
        max_tokens: of a response.
        longest: the longest prompt; ``None`` for an empty set.
        too_long: prompts without room for one token of a response: a run drops them (``prompt_too_long``).
        cramped: prompts with less room than ``max_tokens``: their responses are cut off by the context.
    """

    key: str
    context: int | None
    max_tokens: int
    longest: MeasuredPrompt | None
    too_long: tuple[MeasuredPrompt, ...]
    cramped: tuple[MeasuredPrompt, ...]


def measure_sets(config: Config, sets: PromptSets) -> list[SetLengths]:
    """All prompts of all sets, tokenised by the policy's tokenizer under its chat template.

    Raises:
        ConfigError: responses may be as long as the whole context.
        DataError: no prompt to train on leaves room for a response.
    """
    context = policy_context(config)
    _check_max_tokens(config, context)
    given = {"prompts.train": sets.train, "prompts.test": sets.measured(config.evaluate.num_prompts)["test"]}
    given |= {f"prompts.more_tests.{name}": prompts for name, prompts in sets.more_tests.items()}
    lengths = _lengths(config, [prompt.question for prompts in given.values() for prompt in prompts])
    found = []
    for key, prompts in given.items():
        of_set, lengths = lengths[: len(prompts)], lengths[len(prompts) :]
        found.append(_compare(key, prompts, of_set, context, _max_tokens(config, key)))
    train = found[0]
    if train.longest is not None and len(train.too_long) == len(sets.train):
        raise DataError(
            f"none of the {len(sets.train)} prompts of prompts.train fits the policy's context of {context} tokens; the longest "
            f"has {train.longest.num_tokens} ({train.longest.prompt_id!r})",
            rule="a prompt leaves room for a response in the model's context (policy.engine_args.max_model_len)",
            remedy="raise max_model_len, take shorter prompts, or another model",
        )
    return found


def length_notes(found: Sequence[SetLengths]) -> list[str]:
    """For people: which prompts a run will drop, and which leave their responses too little room."""
    lines = []
    for of_set in found:
        if of_set.too_long:
            lines.append(
                f"{of_set.key}: {_count(of_set.too_long)} as long as the policy's context of {of_set.context} tokens or longer; "
                f"a run drops {'it' if len(of_set.too_long) == 1 else 'them'} (prompt_too_long): {_shown(of_set.too_long)}. Raise "
                "policy.engine_args.max_model_len, or shorten or remove the prompts"
            )
        if of_set.cramped:
            lines.append(
                f"{of_set.key}: {_count(of_set.cramped)} too long for a response of max_tokens {of_set.max_tokens} in the policy's "
                f"context of {of_set.context} tokens, which cuts it off earlier: {_shown(of_set.cramped)}"
            )
        if of_set.context is None and of_set.longest is not None:
            lines.append(
                f"{of_set.key}: the policy's context is not known here (policy.engine_args.max_model_len is not set), so lengths "
                f"were not compared; the longest prompt has {of_set.longest.num_tokens} tokens ({of_set.longest.prompt_id!r})"
            )
    return lines


def _count(prompts: Sequence[MeasuredPrompt]) -> str:
    return "1 prompt is" if len(prompts) == 1 else f"{len(prompts):,} prompts are"


def _shown(prompts: Sequence[MeasuredPrompt]) -> str:
    shown = ", ".join(f"{prompt.prompt_id!r} ({prompt.num_tokens} tokens)" for prompt in prompts[:_MAX_SHOWN])
    left = len(prompts) - _MAX_SHOWN
    return shown + (f" and {left:,} more (validate --json lists all)" if left > 0 else "")


def _compare(
    key: str, prompts: Sequence[Prompt], lengths: Sequence[int], context: int | None, max_tokens: int
) -> SetLengths:
    longest = max(zip(lengths, prompts, strict=True), key=lambda found: found[0], default=None)
    named = None if longest is None else MeasuredPrompt(longest[1].prompt_id, longest[0])

    def those(is_meant: Callable[[int, int], bool]) -> tuple[MeasuredPrompt, ...]:
        if context is None:
            return ()
        found = zip(prompts, lengths, strict=True)
        return tuple(MeasuredPrompt(prompt.prompt_id, number) for prompt, number in found if is_meant(number, context))

    return SetLengths(
        key,
        context,
        max_tokens,
        named,
        too_long=those(lambda number, room: number >= room),
        cramped=those(lambda number, room: number < room < number + max_tokens),
    )


def _max_tokens(config: Config, key: str) -> int:
    return (
        config.generate.max_tokens
        if key == "prompts.train"
        else config.evaluate.max_tokens or config.generate.max_tokens
    )


def _check_max_tokens(config: Config, context: int | None) -> None:
    for key, number in (("generate", config.generate.max_tokens), ("evaluate", config.evaluate.max_tokens)):
        if context is not None and number is not None and number >= context:
            raise ConfigError(
                f"{key}.max_tokens is {number}, and the policy's context has {context} tokens",
                rule="a prompt and its response together fit the context (policy.engine_args.max_model_len, else the model's own)",
                remedy=f"lower {key}.max_tokens, or raise max_model_len where the model allows it",
            )


def _lengths(config: Config, questions: Sequence[str]) -> list[int]:
    if config.policy.kind == "fake":
        from bcpg_cluster.stages.fakes.generator import FakeGenerator

        render = FakeGenerator().render
        return [len(render([{"role": "user", "content": question}])) for question in questions]
    ask = partial(
        prompt_lengths.prompt_lengths,
        resolve_asset(config.policy.model),
        revision=config.policy.revision,
        trust_remote_code=config.policy.trust_remote_code,
    )
    some = [questions[start : start + _SENT_AT_ONCE] for start in range(0, len(questions), _SENT_AT_ONCE)]
    # A separate process: what transformers imports would stay in the driver.
    with child_processes(1) as child:
        return [number for of_some in child.map(ask, some) for number in of_some]
