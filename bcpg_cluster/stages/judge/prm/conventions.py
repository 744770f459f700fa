r"""How each family of process reward models wants its input, and where in it the score of a step is. No vendor imports.

A convention turns a problem and steps into token ids and one position per step: the place whose output says how good the
step is. What is done there is the convention's ``head``:

============== ==================================================================== =================================
name           input                                                                score of a step
============== ==================================================================== =================================
qwen           chat; the assistant's turn is ``step<extra_0>step<extra_0>...``      two-way head at ``<extra_0>``
math_shepherd  ``question step ки\nstep ки``                                        next-token ``+`` or ``-`` at ``ки``
rlhflow        chat; a user turn a step (the first with the problem), answered "+"  next-token before each ``+``
skywork        beginning of text, ``problem\n``, then every step and a ``\n``       value head at the ``\n``
trl            beginning of text, ``problem``, then every step and a separator      two labels at the separator's end
implicit       chat; the assistant's turn is ``step\n\nstep\n\nstep``                 log-ratio of two models, a step
============== ==================================================================== =================================

``pathfinder`` asks twice a step and has rules of its own: ``stages.judge.prm.pathfinder``.

Sources: the model cards Qwen/Qwen2.5-Math-PRM-7B and peiyi9979/math-shepherd-mistral-7b-prm; RLHFlow/RLHF-Reward-Modeling
(math-rm); SkyworkAI/skywork-o1-prm-inference; TRL's PRM trainer (https://huggingface.co/docs/trl/prm_trainer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.prm.implicit import ImplicitPrm
from bcpg_cluster.stages.judge.prm.layout import (
    MARKER,
    Convention,
    Head,
    Rendered,
    at_separators,
    digest,
    holds_any,
    require_chat_template,
    special_tokens,
)

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class QwenPrm:
    """Qwen2.5-Math-PRM and relatives: every step of the assistant's turn is followed by a separator, the last one too.

    Raises:
        ConfigError: the separator is not a token, or there is no chat template.
    """

    name: str = "qwen"
    head: Head = "two_way"
    pair: tuple[int, int] | None = None

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._separator = "<extra_0>" if separator is None else separator
        self._system = QWEN_SYSTEM if system is None else system
        self._special = special_tokens(tokenizer)
        token_id = tokenizer.get_vocab().get(self._separator)
        if token_id is None:
            raise ConfigError(
                f"{self._separator!r} is not a token of {model}",
                rule="the step separator is one token of the process reward model's vocabulary",
                remedy="set the separator the model was trained with",
            )
        self.separator_id: int | None = int(token_id)
        other = "" if self._system == QWEN_SYSTEM else f"/system:{digest(self._system)}"
        self.version = f"qwen-prm/{self._separator}{other}"
        require_chat_template(tokenizer, model)

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`Convention`."""
        if holds_any((problem, *steps), (self._separator, *self._special)):
            return None
        messages = [{"role": "system", "content": self._system}] if self._system else []
        response = "".join(step.strip("\n") + self._separator for step in steps)
        messages += [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]
        token_ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=False, return_dict=False)
        # Counted again in ids: some other spelling of the token in the text would shift every score after it.
        return at_separators(token_ids, self.separator_id, len(steps))


class MathShepherd:
    """Math-Shepherd: plain text, a tag after every step; the language model's own ``+`` and ``-`` at the tag.

    Raises:
        ConfigError: tag, ``+`` and ``-`` are not one token each.
    """

    name: str = "math_shepherd"
    head: Head = "token_pair"

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._tag = "ки" if separator is None else separator
        self._system = system or ""  # the model was trained without one
        self._special = special_tokens(tokenizer)
        tag = tokenizer.encode(self._tag, add_special_tokens=False)
        pair = tokenizer.encode("+ -", add_special_tokens=False)
        unknown = tokenizer.unk_token_id
        if len(tag) != 1 or len(set(pair)) != 2 or len(pair) != 2 or unknown in (*tag, *pair):
            raise ConfigError(
                f"the tokenizer of {model} cuts {self._tag!r} into {len(tag)} and '+ -' into {len(pair)} tokens, unknown "
                "ones counted",
                rule="in Math-Shepherd's format the step tag, '+' and '-' are one known token each",
                remedy="set the separator the model was trained with, or the model's own convention",
            )
        self.separator_id: int | None = int(tag[0])
        self.pair: tuple[int, int] | None = (int(pair[0]), int(pair[1]))
        other = f"/system:{digest(self._system)}" if self._system else ""
        self.version = f"math-shepherd-prm/{self._tag}{other}"

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`Convention`."""
        if holds_any((problem, *steps), self._special):
            return None
        tagged = "\n".join(f"{step.strip()} {self._tag}" for step in steps)
        text = (self._system + "\n" if self._system else "") + f"{problem} {tagged}"
        return at_separators(self._tokenizer.encode(text), self.separator_id, len(steps))


class RlhFlow:
    """RLHFlow's PRMs: a conversation in which every step is a user turn, answered by "+".

    The score is what the model expects in the place of "+", so it is read one position before. All earlier steps are
    answered "+", whatever the model thought of them, as its own evaluation does.

    Raises:
        ConfigError: no chat template, no token offsets, or "+" and "-" are not one token each after the template's header.
    """

    name: str = "rlhflow"
    head: Head = "token_pair"
    separator_id: int | None = None  # the token before a "+" belongs to the template, and is everywhere

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._system = system or ""
        self._special = special_tokens(tokenizer)
        self.pair: tuple[int, int] | None = None
        self.version = "rlhflow-prm" + (f"/system:{digest(self._system)}" if self._system else "")
        require_chat_template(tokenizer, model)
        good, bad = (self._lay_out("1+1?", ("1+1=2",), answer) if tokenizer.is_fast else None for answer in "+-")
        if separator is not None or good is None or bad is None or not _differ_there(good, bad):
            raise ConfigError(
                f"{model} cannot be served like RLHFlow's PRMs"
                + (f" (separator {separator!r} was given)" if separator is not None else ""),
                rule="'+' and '-' are one token each after the chat template's assistant header, the tokenizer is a fast one, "
                "and there is no separator",
                remedy="set the model's own convention, and leave the separator out",
            )
        self.pair = good[0][good[1][0]], bad[0][bad[1][0]]

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`Convention`."""
        if holds_any((problem, *steps), (MARKER, *self._special)):
            return None
        laid_out = self._lay_out(problem, steps, "+")
        assert self.pair is not None
        if laid_out is None or any(laid_out[0][place] != self.pair[0] for place in laid_out[1]):
            return None
        return Rendered(tuple(laid_out[0]), tuple(place - 1 for place in laid_out[1]))

    def _lay_out(self, problem: str, steps: Sequence[str], answer: str) -> tuple[list[int], list[int]] | None:
        """The conversation's token ids and where each answer is in them."""
        messages = [{"role": "system", "content": self._system}] if self._system else []
        for index, step in enumerate(steps):
            text = step.strip("\n") if index else f"{problem} {step.strip(chr(10))}"
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": MARKER}]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        marks = [index for index, character in enumerate(text) if character == MARKER]
        encoded = self._tokenizer(
            text.replace(MARKER, answer), add_special_tokens=False, return_offsets_mapping=True, return_tensors=None
        )
        ends = {
            start: index
            for index, (first, last) in enumerate(encoded["offset_mapping"])
            for start in range(first, last)
            if last - first <= 2  # "+", or a blank and "+"; more would be a token the answer shares with the template
        }
        if len(marks) != len(steps) or any(mark not in ends for mark in marks):
            return None
        return list(encoded["input_ids"]), [ends[mark] for mark in marks]


class Skywork:
    """Skywork-o1-Open-PRM: every step is a line, and a value head is read at its line break.

    A line break inside a step would be a border to the model, so it becomes a blank. Those of the problem stay, as in
    the vendor's own code: positions are known by construction, not by looking for the token.

    Raises:
        ConfigError: the separator is not one token.
    """

    name: str = "skywork"
    head: Head = "value"
    pair: tuple[int, int] | None = None

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._separator = "\n" if separator is None else separator
        self._system = system or ""
        self._special = special_tokens(tokenizer)
        tag = tokenizer.encode(self._separator, add_special_tokens=False)
        if not self._separator or len(tag) != 1 or tag[0] == tokenizer.unk_token_id:
            raise ConfigError(
                f"{self._separator!r} is {len(tag)} tokens of {model}, unknown ones counted",
                rule="the step separator is one token of the process reward model's vocabulary",
                remedy="set the separator the model was trained with",
            )
        self._tag_id = int(tag[0])
        self.separator_id: int | None = None  # a line break may be in the problem too
        other = f"/system:{digest(self._system)}" if self._system else ""
        self.version = f"skywork-prm/{self._separator!r}{other}"

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`Convention`."""
        if holds_any((problem, *steps), self._special):
            return None
        head = (self._tokenizer.bos_token or "") + (self._system + "\n" if self._system else "") + problem + "\n"
        token_ids = list(self._tokenizer.encode(head, add_special_tokens=False))
        positions = []
        for step in steps:
            line = " ".join(part.strip() for part in step.strip().split(self._separator) if part.strip())
            token_ids += self._tokenizer.encode(line, add_special_tokens=False) if line else []
            positions.append(len(token_ids))
            token_ids.append(self._tag_id)
        return Rendered(tuple(token_ids), tuple(positions))


class TrlTokenClassification:
    """What TRL's PRM trainer makes of any causal model: a token classifier, read at the last token of a step's separator.

    Problem, steps and separator are encoded by themselves and put together, as in training: pieces never merge over a border.

    Raises:
        ConfigError: the separator is empty, or holds an unknown token.
    """

    name: str = "trl"
    head: Head = "labels"
    pair: tuple[int, int] | None = None
    separator_id: int | None = None  # it may be in the problem and inside a step too

    def __init__(self, tokenizer: Any, model: str, separator: str | None = None, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._separator = "\n" if separator is None else separator
        self._system = system or ""
        self._special = special_tokens(tokenizer)
        self._separator_ids = (
            list(tokenizer.encode(self._separator, add_special_tokens=False)) if self._separator else []
        )
        if not self._separator_ids or tokenizer.unk_token_id in self._separator_ids:
            raise ConfigError(
                f"the separator {self._separator!r} has {len(self._separator_ids)} tokens in {model}, unknown ones counted",
                rule="every step ends with a separator that the token classifier was trained with",
                remedy="set the separator that was PRMConfig.step_separator in training",
            )
        other = f"/system:{digest(self._system)}" if self._system else ""
        self.version = f"trl-prm/{self._separator!r}{other}"

    def render(self, problem: str, steps: Sequence[str]) -> Rendered | None:
        """See :class:`Convention`."""
        if holds_any((problem, *steps), self._special):
            return None
        bos = self._tokenizer.bos_token_id
        head = (self._system + "\n" if self._system else "") + problem
        token_ids = ([] if bos is None else [int(bos)]) + list(self._tokenizer.encode(head, add_special_tokens=False))
        positions = []
        for step in steps:
            text = step.strip("\n")
            token_ids += list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []
            token_ids += self._separator_ids
            positions.append(len(token_ids) - 1)
        return Rendered(tuple(token_ids), tuple(positions))


CONVENTIONS: Final[Mapping[str, Callable[[Any, str, str | None, str | None], Convention]]] = {
    kind.name: kind for kind in (QwenPrm, MathShepherd, RlhFlow, Skywork, TrlTokenClassification, ImplicitPrm)
}


def _differ_there(good: tuple[list[int], list[int]], bad: tuple[list[int], list[int]]) -> bool:
    """Whether two layouts have the same tokens up to their first answer, and another one there."""
    (good_ids, (place, *_)), (bad_ids, (other, *_)) = good, bad
    return place == other and good_ids[:place] == bad_ids[:place] and good_ids[place] != bad_ids[place]
