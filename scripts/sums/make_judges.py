"""Make the two judges of the sums task: a tiny LLM judge and a tiny process reward model (PRM).

    python -m scripts.sums.make_judges --assets bcpg_cluster/assets/sums

reads ``policy/`` and the prompt files (whose questions are never used here) and writes ``judge/`` and ``prm/``. Both learn
whether each step is right, from different data, at different sizes and from different seeds, so that they err differently,
as real judges do:

* the judge (``Qwen2ForCausalLM``) reads *made-up* mistakes, then some rollouts of the policy among them, and writes
  verdicts in the grammar of ``stages/judge/llm/judge_prompt.py``; it is taught both rules and told which by the prompt;
* the PRM (``Qwen2ForProcessRewardModel``, vLLM's name for it) reads other rollouts of the policy alone and scores every
  ``<extra_0>`` by the rule ``local``.

A term is one token, another in the question than in a line, and the models start with heads that look for a token they
have seen (:func:`start_looking_back`): without both, neither judge learned to see a term that is taken twice.

The models, their aids in training and the measures are those of ``scripts/chain/make_judges.py``. Everything is seeded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from bcpg_cluster.assets.step_truth import StepTruth
from bcpg_cluster.assets.sums.task import ANSWER, CHECK, MODULUS, REFLECTION, Sum, Term, draw_sum, step_truths
from bcpg_cluster.records import ErrorType, StepRule
from bcpg_cluster.stages.judge.llm.judge_prompt import (
    JudgePrompt,
    StepVerdict,
    parse_judge_prompt,
    parse_verdicts,
    render_judge_messages,
    render_verdicts,
)
from bcpg_cluster.stages.judge.prm.conventions import QWEN_SYSTEM
from bcpg_cluster.stages.segment.structure import StepRules, segment
from scripts.chain import make_judges as models
from scripts.chain.make_judges import IGNORE, KINDS, MAX_STEPS, STEP_TAG, Frame, ProcessRewardModel, Training, padded

STYLES = (0.35, 0.65, 0.9)  # how often a made-up writer checks a line
RULE_OF_PRM: StepRule = "local"

Row = tuple[list[int], list[int], list[int], list[int]]  # as the chain's, and the standing at the token after each step
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# -------------------------------------------------------------------------------------------- responses and their truth


@dataclass(frozen=True, slots=True)
class Response:
    """A response cut into steps, with the truth of each by both rules."""

    task: Sum
    steps: tuple[str, ...]
    truths: tuple[StepTruth, ...]
    local_truths: tuple[StepTruth, ...]

    def truths_by(self, rule: StepRule) -> tuple[StepTruth, ...]:
        """The truth of every step by one of the rules."""
        return self.local_truths if rule == "local" else self.truths

    @property
    def chain(self) -> Sum:
        """The question, by the name that the chain's script has for it."""
        return self.task

    @property
    def is_right(self) -> bool:
        """Whether the response's last step is the right answer."""
        return self.steps[-1].startswith(ANSWER) and self.truths[-1].is_correct


STANDINGS = ("left", "taken", "foreign")  # of the term of a line: still to be taken, taken before, not in the question
_LINE = re.compile(r"\d\d([+-])([1-9]\d?)=\d\d")


def standings(task: Sum, steps: Sequence[str]) -> list[int]:
    """The place in :data:`STANDINGS` of the term that each step ends with taking, :data:`IGNORE` for a step that takes none."""
    left = before = frozenset(task.terms)
    found = []
    for step in steps:
        standing = IGNORE
        for line in step.strip().split("\n"):
            match = _LINE.fullmatch(line)
            standing = IGNORE
            if line == REFLECTION:
                left = before
            elif match:
                term = Term(match[1], int(match[2]))
                standing = 0 if term in left else 1 if term in task.terms else 2
                before, left = left, left - {term}
        found.append(standing)
    return found


def mistake_of(response: Response, step: int, truth: StepTruth) -> str:
    """What is wrong with a step, in words for the quality table."""
    text, standing = response.steps[step], standings(response.task, response.steps)[step]
    if text.startswith(CHECK):
        return "check"
    if truth.error_type == "no_content":
        return "doubt without a reason" if text.startswith(REFLECTION) else "nothing said"
    if truth.error_type == "inconsistent_with_earlier" and standing != IGNORE:
        return ("wrong start", "repeated term", "foreign term")[standing]
    return {"calculation": "wrong result"}.get(truth.error_type, truth.error_type)


def read_response(task: Sum, text: str) -> Response | None:
    """Cut and label a response; ``None`` when there is nothing to label."""
    steps = tuple(step.text for step in segment(list(text), StepRules()))
    if not steps or len(steps) > MAX_STEPS:
        return None
    truths = (tuple(step_truths(task.question, steps, rule)) for rule in ("propagated", "local"))
    return Response(task, steps, *truths)


def wrong_result(rng: random.Random, right: int) -> int:
    """A plausible wrong result: a lost carry, a slip of a digit, sometimes anything."""
    kind = rng.random()
    if kind < 0.5:
        result = right + rng.choice((-10, 10))
    elif kind < 0.75:
        result = right + rng.choice((-20, -11, -9, -2, -1, 1, 2, 9, 11, 20))
    else:
        result = rng.randrange(MODULUS)
    return result % MODULUS if (result - right) % MODULUS else (right + rng.choice((1, 10))) % MODULUS


def miscopied(rng: random.Random, term: Term, other: Term) -> Term:
    """``term`` with its sign or a digit wrong, perhaps taken from ``other``."""
    if rng.random() < 0.2:
        return term.inverse
    tens, units = divmod(term.amount, 10)
    digit = rng.choice((other.amount % 10, other.amount // 10, rng.randrange(10)))
    amount = 10 * max(digit, 1) + units if rng.random() < 0.4 else 10 * tens + digit
    return Term(term.sign, amount) if amount != term.amount else Term(term.sign, min(amount + 1, MODULUS - 1))


class Writer:
    """Writes one response with made-up mistakes: wrong results and copies, lost and repeated terms, odd checks."""

    def __init__(self, rng: random.Random, task: Sum, slip_rate: float) -> None:
        self._rng, self._task, self._slip_rate = rng, task, slip_rate
        self._lines: list[str] = []
        self._taken: list[Term] = []
        self._checks = rng.choice(STYLES)

    def write(self) -> str:
        """The text of the response, now and then cut off."""
        rng, left, written = self._rng, list(self._task.terms), self._task.start
        while left:
            term = left.pop(rng.randrange(len(left)))
            written = self._take(term, written)
        self._lines.append(f"{ANSWER}{written if rng.random() < 0.93 else rng.randrange(MODULUS):02d}")
        text = "\n".join(self._lines)
        return text[: rng.randrange(1, len(text) + 1)] if rng.random() < 0.04 else text

    def _take(self, term: Term, written: int) -> int:
        """Write the line of one term, perhaps its check and the line once more; the value the response then holds."""
        rng = self._rng
        slips, kind = rng.random() < self._slip_rate, rng.random()
        if slips and kind < 0.03:
            self._lines.append(rng.choice(("17", "=", "3+", "check", "answer", "x", "check 1", "17+25", "99*9=91")))
            return written
        if slips and kind < 0.08:
            return written  # the term is lost
        value, result = self._line(term, written, kind if slips else 1.0)
        if rng.random() < self._checks:
            back = self._check(term, result)
            if rng.random() < (0.85 if back != value else 0.05):
                self._lines.append(REFLECTION)
                value, result = self._line(term, written, rng.choice((1.0, 1.0, 0.6, 0.3)))
                if rng.random() < 0.3:
                    self._check(term, result)
        return result

    def _line(self, term: Term, value: int, kind: float) -> tuple[int, int]:
        """Write a line with a mistake of a ``kind`` in 0..1 (1: none); the value it starts from, and its result."""
        rng = self._rng
        if 0.08 <= kind < 0.22:
            term = rng.choice(self._taken or self._task.terms)
        elif kind < 0.28:
            term = miscopied(rng, term, rng.choice(self._task.terms))
        elif kind < 0.36:
            value = (value + rng.choice((-10, -1, 1, 10, rng.randrange(MODULUS)))) % MODULUS
        right = term.apply(value)
        is_wrong = 0.36 <= kind < 1.0 or (kind < 0.36 and rng.random() < 0.15)
        result = wrong_result(rng, right) if is_wrong else right
        self._taken.append(term)
        self._lines.append(term.line(value, result))
        return value, result

    def _check(self, term: Term, result: int) -> int:
        """Write a check, one in eight with a mistake of its own; where it comes out."""
        rng, inverse = self._rng, term.inverse
        slip = rng.random()
        if slip < 0.02:
            inverse = miscopied(rng, inverse, rng.choice(self._task.terms))
        start = (result + rng.choice((-10, -1, 1, 10))) % MODULUS if 0.02 <= slip < 0.04 else result
        back = inverse.apply(start)
        back = wrong_result(rng, back) if 0.04 <= slip < 0.12 else back
        self._lines.append(CHECK + inverse.line(start, back))
        return back


def made_up_responses(rng: random.Random, forbidden: set[str], short: int) -> Iterator[Response]:
    """Endless responses with made-up mistakes to fresh questions: ``short`` to short ones, then some are long.

    Most are wrong, as those are which the method has judged.
    """
    for number in itertools.count():
        if number < short:
            task, rate = draw_sum(rng, 2, 4), 0.35
        else:
            task = draw_sum(rng, 8, 10) if rng.random() < 0.08 else draw_sum(rng, 3, 7)
            rate = rng.choice((0.08, 0.15, 0.3))
        if task.question in forbidden:
            continue
        response = read_response(task, Writer(rng, task, rate).write())
        if response is not None and (not response.is_right or rng.random() < 0.25):
            yield response


# ----------------------------------------------------------------------------------------------------- the policy's own


def fresh_sums(seed: int, count: int, like: Sequence[str], forbidden: set[str]) -> list[Sum]:
    """``count`` new questions with as many terms as those in ``like`` have, none of them forbidden."""
    rng = random.Random(seed)
    lengths = [len(question.split()) - 1 for question in like]
    found: list[Sum] = []
    while len(found) < count:
        terms = rng.choice(lengths)
        task = draw_sum(rng, terms, terms)
        if task.question not in forbidden:
            found.append(task)
    return found


# -------------------------------------------------------------------------------------------------- tokenizers, numbers

NUMBERS = [f"{number:02d}" for number in range(MODULUS)]
TERMS = [f"{sign}{amount}" for sign in "+-" for amount in range(1, MODULUS)]  # as lines have them
ASKED = [f" {term}" for term in TERMS]  # as questions have them


def judge_tokenizer() -> Qwen2Tokenizer:
    """The judge's tokenizer: a verdict line is two tokens (``\\n3 ``, ``wrong propagated``), the first line three."""
    verdicts = ["correct none", *(f"wrong {error}" for error in ErrorType if error is not ErrorType.NONE)]
    heads = [f"\n{index} " for index in range(MAX_STEPS)]
    words = [*verdicts, *heads, *ASKS, "wait ", CHECK, ANSWER, *NUMBERS[:10], *TERMS, *ASKED]
    template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    special = ["<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return models.make_tokenizer(words, special, template, "<|end|>")


ASKS = ("\njudge ", "\njudge local ")  # what the prompt asks for, by rule


def prm_tokenizer() -> Qwen2Tokenizer:
    """The PRM's tokenizer and chat template, in the convention of Qwen2.5-Math-PRM."""
    template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + QWEN_SYSTEM + "<|im_end|>\n{% endif %}"
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    words = [QWEN_SYSTEM, "system\n", "user\n", "assistant\n", "wait\n", CHECK, ANSWER, *NUMBERS[:10], *TERMS, *ASKED]
    special = ["<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", STEP_TAG]
    return models.make_tokenizer(words, special, template, "<|im_end|>")


@dataclass(frozen=True, slots=True)
class TermArithmetic(models.Arithmetic):
    """Equations of three tokens and ``=``: a number, a term, ``=`` and a number."""

    terms: Tensor  # ids of :data:`TERMS`
    asked: Tensor  # ids of :data:`ASKED`
    shift: Tensor  # what the term of each id adds, in ``0..MODULUS-1``; -1 for other tokens

    @classmethod
    def of(cls, tokenizer: Qwen2Tokenizer) -> TermArithmetic:
        """Read the ids off the tokenizer's vocabulary."""
        ids = tokenizer.convert_tokens_to_ids
        numbers, terms, asked = (torch.tensor(ids(words)) for words in (NUMBERS, TERMS, ASKED))
        value, shift = torch.full((len(tokenizer),), -1), torch.full((len(tokenizer),), -1)
        value[numbers] = torch.arange(MODULUS)
        shift[terms] = torch.tensor([int(term) % MODULUS for term in TERMS])
        none = torch.tensor([], dtype=torch.long)
        return cls(numbers, value, none, none, ids("="), terms, asked, shift)

    def targets(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The right result at each ``=``, and after each equation whether the result written is it; ``IGNORE`` elsewhere."""
        result, is_right = torch.full_like(ids, IGNORE), torch.full_like(ids, IGNORE)
        left, shift, written = self.value[ids[:, :-4]], self.shift[ids[:, 1:-3]], self.value[ids[:, 3:-1]]
        found = (left >= 0) & (shift >= 0) & (ids[:, 2:-2] == self.equals)
        true = (left + shift) % MODULUS
        result[:, 2:-2] = torch.where(found, true, IGNORE)
        is_right[:, 4:] = torch.where(found & (written >= 0), (written == true).long(), IGNORE)
        return result, is_right


# ------------------------------------------------------------------------------------------------------------ training


def start_looking_back(layers: Sequence[nn.Module], width: int, size: float, generator: torch.Generator) -> None:
    """Start two layers with heads that find where a term was before; training goes on from there.

    In the first layer head 0 attends to tokens like its own, and head 1 copies the token before (its biases turn with the
    rotary embedding so that a distance of one fits best). In the second layer head 0 attends to places that such a copy
    says follow the same token: seen from a term, the ``=`` after the line that took it, and never its own, which comes later.

    Args:
        size: root mean square of the terms' embeddings, which the copy gets too.
    """
    first, second = (layer.self_attn for layer in layers[:2])
    half, fast, strength = models.HEAD_DIM // 2, 6, 6.3
    turns = 10_000.0 ** (-torch.arange(fast) / half)
    alike, copied = slice(0, models.HEAD_DIM), slice(models.HEAD_DIM, 2 * models.HEAD_DIM)
    with torch.no_grad():
        same = torch.randn(models.HEAD_DIM, width, generator=generator) * 0.115
        first.q_proj.weight[alike] = first.k_proj.weight[alike] = same
        query, key = first.q_proj.bias[copied], first.k_proj.bias[copied]
        query[:fast] = strength
        key[:fast], key[half : half + fast] = strength * turns.cos(), strength * turns.sin()
        copy = torch.linalg.qr(torch.randn(width, models.HEAD_DIM, generator=generator))[0].T
        first.v_proj.weight[copied] = copy
        first.o_proj.weight[:, copied] = copy.T * size
        match = (torch.randn(models.HEAD_DIM, models.HEAD_DIM, generator=generator) * 0.2) @ copy
        second.q_proj.weight[alike] = second.k_proj.weight[alike] = match


class SumTraining(Training):
    """A trunk in training, whose inner layers also learn how the term of each line stands (:data:`STANDINGS`)."""

    def __init__(self, trunk: nn.Module, owner: nn.Module, tokenizer: Qwen2Tokenizer, seed: int) -> None:
        arithmetic = TermArithmetic.of(tokenizer)
        super().__init__(trunk, owner, arithmetic, seed)
        self.terms = arithmetic
        width, embedding = trunk.config.hidden_size, trunk.embed_tokens.weight
        own, places = torch.randn(len(TERMS), width, generator=self.generator) * 0.03, torch.randn(2, width) * 0.02
        with torch.no_grad():  # a term starts as the number that it adds, as itself, and as where it stands
            worth = embedding[arithmetic.numbers[arithmetic.shift[arithmetic.terms]]] + own
            embedding[arithmetic.terms], embedding[arithmetic.asked] = worth + places[0], worth + places[1]
            size = float(embedding[arithmetic.terms].pow(2).mean().sqrt())
        start_looking_back(trunk.layers, width, size, self.generator)
        self.standing = nn.Linear(width, len(STANDINGS))
        self.modules.append(self.standing)

    def response_losses(self, ids: Tensor, kinds: Tensor, standing: Tensor) -> dict[str, Tensor]:
        """How well the layers know the steps: which follow, their kinds of mistake, and how their terms stand."""
        at_end = kinds != IGNORE
        follows = ((kinds == KINDS.index("none")) | (kinds == KINDS.index("propagated"))).long()
        losses = {
            "follows": functional.cross_entropy(self.follows(self._read(3, at_end)), follows[at_end]),
            "kind": functional.cross_entropy(self.kind(self._read(4, at_end)), kinds[at_end]),
        }
        takes = (standing != IGNORE) & (self.terms.targets(ids)[1] != IGNORE)
        rows, ends = takes.nonzero(as_tuple=True)
        if len(rows):
            known = self.standing(self.trunk.norm(self.after[2][rows, ends - 3]))
            losses["standing"] = functional.cross_entropy(known, standing[rows, ends])
        return losses

    def learn_lines(self, name: str, steps: int, frame: Frame) -> None:
        """Phase 1: lines of random sums through the first three layers."""
        every = self.trunk.layers
        self.trunk.layers = every[:3]
        rng = random.Random(self.generator.initial_seed())

        def losses_of() -> dict[str, Tensor]:
            columns = rng.randint(3, 10)
            ids, ends, standing, follows = draw_lines(self.terms, self.generator, 240 // columns, columns, frame)
            self.trunk(input_ids=ids)
            at_term, at_end = self.after[2][:, ends - 3], self.after[3][:, ends]
            known = self.standing(self.trunk.norm(at_term)).flatten(0, 1)
            followed = self.follows(self.trunk.norm(at_end)).flatten(0, 1)
            return {
                "standing": functional.cross_entropy(known, standing.flatten()),
                "follows": functional.cross_entropy(followed, follows.long().flatten()),
                **self.equation_losses(ids),
            }

        self.run(f"{name}: lines", steps, 3e-3, losses_of)
        self.trunk.layers = every


def batches(source: Iterator[Row], size: int, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of rows of similar length; eight batches are drawn and sorted at a time."""
    while True:
        rows = sorted((next(source) for _ in range(8 * size)), key=lambda row: len(row[0]))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(parts)
        for part in parts:
            ids, *others = zip(*part, strict=True)
            labels, kinds, standing = (padded(column, IGNORE) for column in others)
            yield padded(ids, 0), labels, kinds, standing


def draw_lines(
    arithmetic: TermArithmetic, generator: torch.Generator, rows: int, columns: int, frame: Frame
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random sums, one line a term in any order, in which about every other line has a mistake of its own.

    Returns:
        The ids, and for each line: the position of its end (one row for all), how its term stands (:data:`STANDINGS`), and
        whether the line follows (a term that is left, the right start, the right result).
    """

    def pick(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape or (rows, columns), generator=generator)

    def place(signs: Tensor, amounts: Tensor) -> Tensor:
        return (MODULUS - 1) * signs + amounts - 1  # in TERMS

    chances = torch.rand(rows, MODULUS, generator=generator)
    chances[:, :2] = 2.0
    chances[:, 10:] = 0.1 + 0.9 * chances[:, 10:]  # so that about as many have one digit as two
    amounts = chances.argsort(1)[:, :columns]
    signs = pick(0, 2)
    value = pick(0, MODULUS, rows)
    parts = [frame.before.expand(rows, -1), arithmetic.numbers[value].unsqueeze(1)]
    parts += [arithmetic.asked[place(signs, amounts)], frame.between.expand(rows, -1)]
    order = torch.rand(rows, columns, generator=generator).argsort(1)
    order = torch.where(pick(0, 100) < 20, pick(0, columns), order)  # some terms are taken twice, others never
    used_signs, used = signs.gather(1, order), amounts.gather(1, order)
    used_signs = torch.where(pick(0, 100) < 4, 1 - used_signs, used_signs)
    changed = torch.where(pick(0, 2) == 0, used // 10 * 10 + pick(1, 10), used % 10 + 10 * pick(1, 10))
    used = torch.where(pick(0, 100) < 8, changed, used)
    right = pick(0, 1)
    off = torch.stack([pick(1, MODULUS), torch.tensor([10, 90])[pick(0, 2)], 10 * pick(1, 10), *[right] * 4])
    off = off.gather(0, pick(0, 7, 1, rows, columns))[0]
    strayed = pick(0, 100) < 8
    is_free = torch.ones(rows, columns, dtype=torch.bool)
    standing, follows = [], []
    for k in range(columns):
        start = torch.where(strayed[:, k], (value + pick(1, MODULUS, rows)) % MODULUS, value)
        sign, amount = used_signs[:, k], used[:, k]
        same = (signs == sign.unsqueeze(1)) & (amounts == amount.unsqueeze(1))
        is_left = (same & is_free).any(1)
        is_free &= ~same
        standing.append(torch.where(is_left, 0, torch.where(same.any(1), 1, 2)))
        follows.append(is_left & ~strayed[:, k] & (off[:, k] == 0))
        value = (start + torch.where(sign == 0, amount, -amount) + off[:, k]) % MODULUS
        line = [arithmetic.numbers[start], arithmetic.terms[place(sign, amount)]]
        line += [torch.full_like(start, arithmetic.equals), arithmetic.numbers[value], frame.ends[k].expand(rows)]
        parts.append(torch.stack(line, dim=1))
    ids = torch.cat(parts, dim=1)
    ends = ids.shape[1] - 1 - 5 * torch.arange(columns - 1, -1, -1)
    return ids, ends, torch.stack(standing, dim=1), torch.stack(follows, dim=1)


# ------------------------------------------------------------------------------------------------------------ the judge


def judge_row(
    rng: random.Random, tokenizer: Qwen2Tokenizer, prompts: dict[StepRule, JudgePrompt], response: Response
) -> Row:
    """One training row of the judge, by one of the rules, in the full or the causal view; only the answer has labels."""
    first, last = 0, len(response.steps) - 1
    if rng.random() < 0.25:
        first = last = rng.randint(0, last)
    rule: StepRule = rng.choice(("propagated", "local", "local"))
    truths = response.truths_by(rule)
    messages = render_judge_messages(prompts[rule], response.task.question, response.steps, first, last)
    verdicts = [StepVerdict(int(t.is_correct), ErrorType(t.error_type)) for t in truths[first : last + 1]]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    question = tokenizer.encode(asked, add_special_tokens=False)
    answer = [*tokenizer.encode(render_verdicts(first, verdicts), add_special_tokens=False), tokenizer.eos_token_id]
    heads = tokenizer.convert_tokens_to_ids([f"\n{index} " for index in range(last + 1)] + [ASKS[rule == "local"]])
    kinds = [IGNORE] * (len(question) + len(answer))
    stands = kinds.copy()
    position = question.index(heads[0])
    known = standings(response.task, response.steps)
    for head, truth, standing in zip(heads[1:], response.truths, known, strict=False):
        position = question.index(head, position)
        kinds[position], stands[position] = KINDS.index(truth.error_type), standing
    return question + answer, [IGNORE] * len(question) + answer, kinds, stands


def mixed(rng: random.Random, rollouts: Sequence[Response], made_up: Iterator[Response]) -> Iterator[Response]:
    """Endless responses: three real ones (wrong, but for one in nine) for two made-up ones."""
    wrong = [response for response in rollouts if not response.is_right]
    real = wrong + [response for response in rollouts if response.is_right][: len(wrong) // 8]
    while True:
        yield rng.choice(real) if rng.random() < 0.6 else next(made_up)


def make_judge(
    prompts: dict[StepRule, JudgePrompt],
    forbidden: set[str],
    rollouts: Sequence[Response],
    seed: int,
    line_steps: int,
    made_up_steps: int,
    mixed_steps: int,
) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """Train the LLM judge on made-up mistakes, then on these and real ones."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = judge_tokenizer()
    config = models.model_config(tokenizer, layers=5, hidden=96, inner=192, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config)
    training = SumTraining(model.model, model, tokenizer, seed)
    id_of = tokenizer.convert_tokens_to_ids
    indices = torch.tensor(id_of([f"\n{index} " for index in range(MAX_STEPS)]))
    waves = torch.randn(16, model.config.hidden_size, generator=training.generator) * 0.01
    with torch.no_grad():  # the verdict on step k is read off the head of step k + 1: a rotation
        turns = torch.stack([models.circle(k, MAX_STEPS, waves) for k in range(MAX_STEPS)])
        model.model.embed_tokens.weight[indices] += turns
    training.learn_lines("judge", line_steps, Frame(torch.tensor([id_of("<|user|>")]), indices[:1], indices[1:]))

    def losses_of(data: Iterator[Batch]) -> dict[str, Tensor]:
        ids, labels, kinds, standing = next(data)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        asked = labels[:, 1:] != IGNORE
        answers = functional.cross_entropy(model.lm_head(hidden[asked]), labels[:, 1:][asked])
        return {"answer": answers, **training.response_losses(ids, kinds, standing), **training.equation_losses(ids)}

    made_up = made_up_responses(rng, forbidden, short=8 * made_up_steps)
    for name, steps, rate, source in (
        ("made-up responses", made_up_steps, 2e-3, made_up),
        ("real and made-up responses", mixed_steps, 1.2e-3, mixed(rng, rollouts, made_up)),
    ):
        rows = (judge_row(rng, tokenizer, prompts, response) for response in source)
        training.run(f"judge: {name}", steps, rate, partial(losses_of, batches(rows, 32, rng)))
    return model.eval(), tokenizer


# ------------------------------------------------------------------------------------------------------------- the PRM


REPEATS_WEIGH = 4  # how often the PRM reads a response that takes a term twice, for once that it reads another


def is_repetitive(response: Response) -> bool:
    """Whether a response takes a term twice."""
    return STANDINGS.index("taken") in standings(response.task, response.steps)


def make_prm(
    responses: Sequence[Response], seed: int, line_steps: int, steps: int
) -> tuple[ProcessRewardModel, Qwen2Tokenizer]:
    """Train the PRM on the policy's own responses, by the rule :data:`RULE_OF_PRM`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = prm_tokenizer()
    config = models.model_config(tokenizer, layers=4, hidden=96, inner=192, tie_word_embeddings=False)
    model = ProcessRewardModel(config)
    training = SumTraining(model.model, model, tokenizer, seed)
    before, between = (
        torch.tensor(tokenizer.encode(text, add_special_tokens=False))
        for text in (
            f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
        )
    )
    tags = torch.full((MAX_STEPS,), tokenizer.convert_tokens_to_ids(STEP_TAG))
    training.learn_lines("prm", line_steps, Frame(before, between, tags))
    known = [
        row
        for response in responses
        for row in [prm_row(tokenizer, response)] * (REPEATS_WEIGH if is_repetitive(response) else 1)
    ]

    def rows() -> Iterator[Row]:
        while True:
            rng.shuffle(known)
            yield from known

    data = batches(rows(), 48, rng)

    def losses_of() -> dict[str, Tensor]:
        ids, is_right, kinds, standing = next(data)
        hidden = model.model(input_ids=ids).last_hidden_state
        at_tag = is_right != IGNORE
        score = functional.cross_entropy(model.score(hidden[at_tag]), is_right[at_tag])
        return {"score": score, **training.response_losses(ids, kinds, standing), **training.equation_losses(ids)}

    training.run("prm: responses", steps, 2e-3, losses_of)
    return model.eval(), tokenizer


def prm_row(tokenizer: Qwen2Tokenizer, response: Response) -> Row:
    """One training row of the PRM: ids, and at each step tag whether the step is right and its kind of mistake."""
    ids = models.prm_ids(tokenizer, response)
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    rights = (int(truth.is_correct) for truth in response.truths_by(RULE_OF_PRM))
    kinds = (KINDS.index(truth.error_type) for truth in response.truths)
    stands = iter(standings(response.task, response.steps))
    return (
        ids,
        [next(rights) if token == tag else IGNORE for token in ids],
        [next(kinds) if token == tag else IGNORE for token in ids],
        [next(stands) if token == tag else IGNORE for token in ids],
    )


# ------------------------------------------------------------------------------------------------------------- quality


@torch.inference_mode()
def policy_responses(policy: Path, asked: Sequence[Sum], samples: int, seed: int) -> list[list[Response | None]]:
    """``samples`` responses of the policy to each question, at temperature 1; one list a question."""
    from scripts.sums.make_policy import load_policy, sample_texts

    texts = sample_texts(load_policy(policy), [task for task in asked for _ in range(samples)], seed=seed)
    found = [
        read_response(task, text) for task, text in zip([t for t in asked for _ in range(samples)], texts, strict=True)
    ]
    return [found[i : i + samples] for i in range(0, len(found), samples)]


def judge_labels(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, prompt: JudgePrompt, responses: Sequence[Response]
) -> list[list[bool]]:
    """The judge's label of every step, in the full view; a step without a verdict is not called right."""
    messages = [render_judge_messages(prompt, r.task.question, r.steps, 0, len(r.steps) - 1) for r in responses]
    labels = []
    for response, answer in zip(responses, models.judge_answers(model, tokenizer, messages), strict=True):
        verdicts = parse_verdicts(answer, 0, len(response.steps) - 1)
        labels.append([v.label == 1 for v in verdicts] if verdicts else [False] * len(response.steps))
    return labels


def report_quality(
    responses: Sequence[Response],
    rule: StepRule,
    said: dict[str, Sequence[Sequence[bool]]],
    length_of: Callable[[str], int],
) -> None:
    """Print how good labels are by one rule, in tokens and in steps, the answer's own step left out."""
    places = [(i, k) for i, r in enumerate(responses) for k, s in enumerate(r.steps) if not s.startswith(ANSWER)]
    true = [responses[i].truths_by(rule)[k].is_correct for i, k in places]
    tokens = [float(length_of(responses[i].steps[k])) for i, k in places]
    print(f"{rule}: {len(responses)} wrong responses, {len(places)} steps, truly right {sum(true) / len(true):.3f}")
    flat = {name: [labels[i][k] for i, k in places] for name, labels in said.items()}
    flat["consensus"] = [all(row) for row in zip(*flat.values(), strict=True)]
    for name, labels in flat.items():
        by_tokens, by_steps = (models.Quality.of(labels, true, weights) for weights in (tokens, [1.0] * len(places)))
        print(
            f"| {name} | {by_tokens.precision:.3f} | {by_tokens.recall:.3f} | {by_steps.precision:.3f} | {by_steps.recall:.3f} |"
        )
    mistakes = [mistake_of(responses[i], k, responses[i].truths_by(rule)[k]) for i, k in places]
    for kind in sorted({kind for kind, is_right in zip(mistakes, true, strict=True) if not is_right}):
        found = [
            n for n, (other, is_right) in enumerate(zip(mistakes, true, strict=True)) if other == kind and not is_right
        ]
        seen = {name: sum(not labels[n] for n in found) / len(found) for name, labels in flat.items()}
        print(
            f"  {kind} ({len(found)}): called wrong " + ", ".join(f"{name} {share:.2f}" for name, share in seen.items())
        )


# ---------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Train both judges, write them, and print how good they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True, help="directory with policy/ and prompts/")
    parser.add_argument("--seed", type=int, default=20250514)
    parser.add_argument("--only", choices=("judge", "prm"), help="make just this one (no quality table)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assets, seed = arguments.assets, arguments.seed
    compact = (Path(__file__).parents[2] / "bcpg_cluster" / "assets" / "judge_prompts" / "compact.toml").read_text()
    rules: tuple[StepRule, ...] = ("propagated", "local")
    prompts = {rule: parse_judge_prompt(compact, rule=rule) for rule in rules}
    files = sorted((assets / "prompts").glob("*.jsonl"))
    like = [json.loads(line)["question"] for path in files for line in path.read_text().splitlines()]
    forbidden = set(like)
    policy = assets / "policy"

    def rollouts(number: int, questions: int, samples: int) -> list[Response]:
        groups = policy_responses(policy, fresh_sums(seed + number, questions, like, forbidden), samples, seed + number)
        return [response for group in groups for response in group if response is not None]

    if arguments.only != "prm":
        judge, judge_words = make_judge(
            prompts, forbidden, rollouts(4, 400, 4), seed, line_steps=400, made_up_steps=400, mixed_steps=300
        )
        judge.save_pretrained(assets / "judge")
        judge_words.save_pretrained(assets / "judge")
        print(f"judge: {models.parameters_of(judge):,} parameters")
    if arguments.only != "judge":
        own = rollouts(1, 500, 6)
        prm, prm_words = make_prm(own, seed + 2, line_steps=400, steps=400)
        prm.save(assets / "prm", RULE_OF_PRM)
        prm_words.save_pretrained(assets / "prm")
        print(f"prm: {models.parameters_of(prm):,} parameters, {len(own)} rollouts")
    if arguments.only:
        return
    groups = policy_responses(policy, fresh_sums(seed + 3, 200, like, forbidden), samples=8, seed=seed + 3)
    wrong = models.wrong_of_mixed_groups(groups)
    scores = models.prm_scores(prm, prm_words, wrong)
    length_of = AutoTokenizer.from_pretrained(policy).encode
    for rule in rules:
        said = {"judge": judge_labels(judge, judge_words, prompts[rule], wrong)}
        for threshold in (0.5, 0.8):
            if rule == RULE_OF_PRM:
                both = said | {f"PRM > {threshold}": [[s > threshold for s in row] for row in scores]}
                report_quality(wrong, rule, both, lambda step: len(length_of(step, add_special_tokens=False)))
        if rule != RULE_OF_PRM:
            report_quality(wrong, rule, said, lambda step: len(length_of(step, add_special_tokens=False)))


if __name__ == "__main__":
    main()
