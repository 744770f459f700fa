"""Make the two judges of the chain task: a tiny LLM judge and a tiny process reward model (PRM).

    python -m scripts.chain.make_judges --assets bcpg_cluster/assets/chain

reads ``policy/`` and the prompt files (``*.jsonl``, whose questions are never used here) and writes ``judge/`` and
``prm/``. Both models learn the same thing, whether each step of a chain is right, but from different data, at different
sizes and from different seeds, so that they err differently, as real judges do:

* the judge (``Qwen2ForCausalLM``) reads *made-up* mistakes, then some rollouts of the policy among them, and writes
  verdicts in the grammar of ``stages/judge/llm/judge_prompt.py``;
* the PRM (``Qwen2ForProcessRewardModel``, vLLM's name for it) reads other rollouts of the policy alone and scores
  every ``<extra_0>``.

Each is taught the lines of random chains first (whose turn is it? what is the result? is the one written right?), then
whole responses. The losses that read inner layers serve training only; nothing of them is saved.

Everything is seeded. It took 11 minutes (judge 7, PRM 4) on one core of a 2-core AMD EPYC, CPU only, torch 2.13.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen2Tokenizer,
)

from bcpg_cluster.assets.chain.task import (
    ANSWER,
    MODULUS,
    REFLECTION,
    Chain,
    Operation,
    StepTruth,
    draw_chain,
    step_truths,
)
from bcpg_cluster.records import ErrorType
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

HEAD_DIM = 32
MAX_POSITIONS = 512
MAX_STEPS = 32
STEP_TAG = "<extra_0>"
IGNORE = -100
KINDS = [kind.value for kind in ErrorType]

Row = tuple[list[int], list[int], list[int]]  # ids, next-token labels, kind of mistake at the token after each step


# -------------------------------------------------------------------------------------------- responses and their truth


@dataclass(frozen=True, slots=True)
class Response:
    """A response cut into steps, with the truth of each."""

    chain: Chain
    steps: tuple[str, ...]
    truths: tuple[StepTruth, ...]

    @property
    def is_right(self) -> bool:
        """Whether the response's last step is the right answer."""
        return self.steps[-1].startswith(ANSWER) and self.truths[-1].is_correct


def read_response(chain: Chain, text: str) -> Response | None:
    """Cut and label a response; ``None`` when there is nothing to label."""
    steps = tuple(step.text for step in segment(list(text), StepRules()))
    if not steps or len(steps) > MAX_STEPS:
        return None
    return Response(chain, steps, tuple(step_truths(chain.question, steps)))


def wrong_result(rng: random.Random, operation: Operation, value: int) -> int:
    """A plausible wrong result of ``operation`` on ``value``: a slip of a digit, another fact, sometimes anything."""
    right = operation.apply(value)
    kind = rng.random()
    if kind < 0.3:  # the tens are wrong
        result = right + 10 * rng.choice((-1, 1, rng.randint(1, 9)))
    elif kind < 0.5:  # near it
        result = right + rng.choice((-20, -11, -9, -2, -1, 1, 2, 9, 11, 20))
    elif kind < 0.65:  # the wrong way round, or another operation
        result = (
            operation.operand - value if operation.symbol == "-" else rng.choice((-right, value + operation.operand))
        )
    elif kind < 0.75:  # a neighbouring fact
        near = rng.choice((Operation(operation.symbol, operation.operand + rng.choice((-1, 1))), operation))
        result = near.apply(value + rng.choice((-10, -1, 1, 10)))
    else:
        result = rng.randrange(MODULUS)
    return result % MODULUS if (result - right) % MODULUS else (right + rng.choice((1, 10))) % MODULUS


def miscopied(rng: random.Random, operation: Operation, other: Operation) -> Operation:
    """``operation`` with a digit, its number or its symbol wrong, perhaps taken from ``other``."""
    number, place = operation.operand, rng.random()
    if place < 0.1:
        return Operation(rng.choice("+-*".replace(operation.symbol, "")), number)
    if place < 0.25:
        return other
    digit = rng.choice((other.operand % 10, other.operand // 10, rng.randrange(10)))
    tens, units = divmod(number, 10)
    if tens and place < 0.5:
        tens = max(digit, 1)
    elif place < 0.9:
        units = digit
    else:
        tens, units = divmod(other.operand, 10)
    return Operation(operation.symbol, max(10 * tens + units, 1))


def made_up_response(rng: random.Random, chain: Chain, slip_rate: float) -> str:
    """A response with made-up mistakes: wrong results, wrong copies, lost and repeated lines, garbage, corrections."""
    lines: list[str] = []
    place, written = 0, chain.start
    while place < len(chain.operations):
        operation = chain.operations[place]
        left, used, slips = written, operation, rng.random() < slip_rate
        result = operation.apply(left)
        kind = rng.random() if slips else 0.0
        if slips and kind < 0.5:
            result = wrong_result(rng, operation, left)
        elif kind >= 0.98:
            lines.append(rng.choice(("17", "=", "3+", "+4=7", "answer", "x", "", "waitwait", "9*9*9=9", "1 2 3")))
        elif kind >= 0.96 and place:
            place -= 1
            continue
        elif kind >= 0.92:
            place += 1
            continue
        elif kind >= 0.84:
            left = (left + rng.choice((-10, -1, 1, 10, rng.randrange(MODULUS)))) % MODULUS
            result = operation.apply(left)
        elif kind >= 0.5:
            used = miscopied(rng, operation, rng.choice(chain.operations))
            result = used.apply(left) if rng.random() < 0.8 else wrong_result(rng, used, left)
        lines.append(f"{left}{used.symbol}{used.operand}={result}")
        before, written, place = written, result, place + 1
        if rng.random() < (0.25 if slips else 0.04):
            again = chain.values[place - 1] if rng.random() < 0.5 else before
            written = wrong_result(rng, operation, again) if rng.random() < 0.35 else operation.apply(again)
            lines += [REFLECTION, f"{again}{operation.symbol}{operation.operand}={written}"]
    lines.append(f"{ANSWER}{written if rng.random() < 0.93 else rng.randrange(MODULUS)}")
    text = "\n".join(lines)
    return text[: rng.randrange(1, len(text) + 1)] if rng.random() < 0.04 else text


def made_up_responses(rng: random.Random, forbidden: set[str], short: int) -> Iterator[Response]:
    """Endless responses with made-up mistakes to fresh questions: ``short`` to short ones, then one in twelve is long.

    Most are wrong, as those are which the method has judged.
    """
    for number in itertools.count():
        if number < short:
            chain, rate = draw_chain(rng, 2, 5), 0.4
        else:
            chain = draw_chain(rng, 9, 15) if rng.random() < 0.08 else draw_chain(rng, 3, 8)
            rate = rng.choice((0.08, 0.2, 0.4))
        if chain.question in forbidden:
            continue
        response = read_response(chain, made_up_response(rng, chain, rate))
        if response is not None and (not response.is_right or rng.random() < 0.25):
            yield response


# ----------------------------------------------------------------------------------------------------- the policy's own


def fresh_chains(seed: int, count: int, like: Sequence[str], forbidden: set[str]) -> list[Chain]:
    """``count`` new chains with as many operations as the questions in ``like`` have, none of them forbidden."""
    rng = random.Random(seed)
    lengths = [len(question.split()) - 1 for question in like]
    chains: list[Chain] = []
    while len(chains) < count:
        operations = rng.choice(lengths)
        chain = draw_chain(rng, operations, operations)
        if chain.question not in forbidden:
            chains.append(chain)
    return chains


@torch.inference_mode()
def policy_responses(
    policy: Path, chains: Sequence[Chain], samples: int, seed: int, batch_size: int = 512
) -> list[list[Response | None]]:
    """``samples`` responses of the policy to each chain, at temperature 1; one list a chain."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
    asked = [chain for chain in chains for _ in range(samples)]
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].operations))
    found: list[Response | None] = [None] * len(asked)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        messages = [[{"role": "user", "content": asked[i].question}] for i in chosen]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
        )
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        output = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=112
        )
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            found[i] = read_response(asked[i], text)
    return [found[i : i + samples] for i in range(0, len(found), samples)]


def wrong_of_mixed_groups(groups: Sequence[Sequence[Response | None]]) -> list[Response]:
    """The wrong responses of the groups that hold right and wrong ones: what the method mines."""
    wrong = []
    for group in groups:
        rights = [response is not None and response.is_right for response in group]
        if any(rights) and not all(rights):
            wrong += [r for r, right in zip(group, rights, strict=True) if r is not None and not right]
    return wrong


# -------------------------------------------------------------------------------------------------- tokenizers, weights


def make_tokenizer(words: Sequence[str], special: Sequence[str], template: str, eos: str) -> Qwen2Tokenizer:
    """A tokenizer of bytes, numbers up to 99 and ``words``; the longest match wins, and decoding is exact.

    It is a ``Qwen2Tokenizer`` without merges: transformers 5 loads that class for every Qwen2 model, whatever its files say.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate([*special, *alphabet])},
        merges=[],
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token=eos,
        additional_special_tokens=[word for word in special if word not in ("<|pad|>", "<|unk|>", eos)],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
    numbers = [str(number) for number in range(10, MODULUS)]
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in [*words, *numbers]])
    tokenizer.chat_template = template
    return tokenizer


def judge_tokenizer() -> Qwen2Tokenizer:
    """The judge's tokenizer: a verdict line is two tokens (``\\n3 ``, ``wrong propagated``), the first line three."""
    verdicts = ["correct none", *(f"wrong {error}" for error in ErrorType if error is not ErrorType.NONE)]
    words = [*verdicts, *(f"\n{index} " for index in range(MAX_STEPS)), "\njudge ", "wait ", "answer "]
    words += [" +", " -", " *"]
    template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    special = ["<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return make_tokenizer(words, special, template, "<|end|>")


def prm_tokenizer() -> Qwen2Tokenizer:
    """The PRM's tokenizer and chat template, in the convention of Qwen2.5-Math-PRM."""
    template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + QWEN_SYSTEM + "<|im_end|>\n{% endif %}"
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    words = [QWEN_SYSTEM, "system\n", "user\n", "assistant\n", "wait\n", "answer ", " +", " -", " *"]
    special = ["<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", STEP_TAG]
    return make_tokenizer(words, special, template, "<|im_end|>")


def model_config(tokenizer: Qwen2Tokenizer, layers: int, hidden: int, inner: int, **more: object) -> Qwen2Config:
    """The shape of a tiny Qwen2 model."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_DIM,
        num_key_value_heads=hidden // HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **more,
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """What a model's format puts around the numbers: ids before the question, between it and the lines, after each line."""

    before: Tensor
    between: Tensor
    ends: Tensor


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Which token ids are numbers, operations and ``=``; finds the equations in a batch of ids."""

    numbers: Tensor  # id of each number 0..99
    value: Tensor  # value of each id, -1 for other tokens
    symbols: Tensor  # ids of + - *
    spaced: Tensor  # ids of + - * with a space before, as questions have them
    equals: int

    @classmethod
    def of(cls, tokenizer: Qwen2Tokenizer) -> Arithmetic:
        """Read the ids off the tokenizer's vocabulary."""
        ids = tokenizer.convert_tokens_to_ids
        numbers = torch.tensor([ids(str(number)) for number in range(MODULUS)])
        value = torch.full((len(tokenizer),), -1)
        value[numbers] = torch.arange(MODULUS)
        return cls(
            numbers, value, *(torch.tensor([ids(lead + symbol) for symbol in "+-*"]) for lead in ("", " ")), ids("=")
        )

    def apply(self, left: Tensor, kind: Tensor, right: Tensor) -> Tensor:
        """The results of the operations (``kind`` 0, 1, 2 for + - *)."""
        return torch.where(kind == 0, left + right, torch.where(kind == 1, left - right, left * right)) % MODULUS

    def targets(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of the equations in ``ids``, ``IGNORE`` elsewhere.

        Returns:
            The right result at each ``=``, and at the token after an equation whether the result written is it.
        """
        result, is_right = torch.full_like(ids, IGNORE), torch.full_like(ids, IGNORE)
        left, symbol, right = self.value[ids[:, :-5]], ids[:, 1:-4], self.value[ids[:, 2:-3]]
        known = (symbol.unsqueeze(-1) == self.symbols).any(-1)
        kind = (symbol.unsqueeze(-1) == self.symbols).int().argmax(-1)
        found = known & (left >= 0) & (right >= 0) & (ids[:, 3:-2] == self.equals)
        true = self.apply(left, kind, right)
        written = self.value[ids[:, 4:-1]]
        result[:, 3:-2] = torch.where(found, true, IGNORE)
        is_right[:, 5:] = torch.where(found & (written >= 0), (written == true).long(), IGNORE)
        return result, is_right

    def draw(
        self, generator: torch.Generator, rows: int, columns: int, frame: Frame
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random chains in which about every other line has a mistake of its own.

        Returns:
            The ids, and for each line: the position of its end (one row for all), the id pair of the operation whose turn
            it is, and whether the line follows (right operation, right start, right result).
        """

        def pick(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape or (rows, columns), generator=generator)

        kinds = pick(0, 3)
        operands = torch.where(kinds == 2, pick(2, 10), pick(10, MODULUS))
        value = pick(0, MODULUS, rows)
        question = torch.stack([self.spaced[kinds], self.numbers[operands]], dim=-1).view(rows, -1)
        parts = [
            frame.before.expand(rows, -1),
            self.numbers[value].unsqueeze(1),
            question,
            frame.between.expand(rows, -1),
        ]
        # the operations as the lines have them: some copied from another place, some with a digit changed
        other = torch.where(pick(0, 100) < 8, pick(0, columns), torch.arange(columns))
        used_kinds, used = kinds.gather(1, other), operands.gather(1, other)
        changed = torch.where(pick(0, 2) == 0, used // 10 * 10 + pick(0, 10), used % 10 + 10 * pick(1, 10))
        used = torch.where(pick(0, 100) < 8, changed, used)
        near = torch.tensor([1, 99, 2, 98, 9, 91, 11, 89])[pick(0, 8)]
        right = torch.zeros_like(near)
        off = torch.stack([near, 10 * pick(1, 10), pick(1, MODULUS), right, right, right, right])
        off = off.gather(0, pick(0, 7, 1, rows, columns))[0]
        strayed = pick(0, 100) < 10
        follows = (used_kinds == kinds) & (used == operands) & (off == 0)
        for k in range(columns):
            left = torch.where(strayed[:, k], pick(0, MODULUS, rows), value)
            follows[:, k] &= left == value
            value = (self.apply(left, used_kinds[:, k], used[:, k]) + off[:, k]) % MODULUS
            line = [self.numbers[left], self.symbols[used_kinds[:, k]], self.numbers[used[:, k]]]
            line += [torch.full_like(left, self.equals), self.numbers[value], frame.ends[k].expand(rows)]
            parts.append(torch.stack(line, dim=1))
        ids = torch.cat(parts, dim=1)
        ends = ids.shape[1] - 1 - 6 * torch.arange(columns - 1, -1, -1)
        turns = torch.stack([self.symbols[kinds], self.numbers[operands]], dim=-1)
        return ids, ends, turns, follows


def circle(number: int, period: int, waves: Tensor) -> Tensor:
    """``number`` as a place on circles: its first ``len(waves) / 2`` frequencies over ``period``, spread by ``waves``."""
    angles = [2 * math.pi * (wave + 1) * number / period for wave in range(len(waves) // 2)]
    return torch.tensor([part for angle in angles for part in (math.cos(angle), math.sin(angle))]) @ waves


def embed_numbers(embedding: Tensor, arithmetic: Arithmetic, generator: torch.Generator) -> None:
    """Start number embeddings from their digits and slow waves, so that sums and neighbours are easy to find."""
    digits, waves = (torch.randn(rows, embedding.shape[1], generator=generator) * 0.02 for rows in (20, 6))
    for number, token in enumerate(arithmetic.numbers.tolist()):
        embedding[token] = digits[number // 10] + digits[10 + number % 10] + 0.7 * circle(number, MODULUS, waves)


# ------------------------------------------------------------------------------------------------------------ training


class Training:
    """A trunk in training: optimisers, the learning rate's course, and losses that say what each layer should know.

    Layer 2 knows whose turn it is and works out results, layer 3 whether the one written is right and the line follows from
    the lines before it, layer 4 what kind of mistake the step is. They are read at the ``=`` and at the token after a step.
    """

    def __init__(self, trunk: Qwen2Model, owner: nn.Module, arithmetic: Arithmetic, seed: int) -> None:
        self.trunk, self.arithmetic = trunk, arithmetic
        self.generator = torch.Generator().manual_seed(seed)
        width = trunk.config.hidden_size
        self.is_right, self.follows, self.kind = nn.Linear(width, 2), nn.Linear(width, 2), nn.Linear(width, len(KINDS))
        self.modules = nn.ModuleList([owner, self.is_right, self.follows, self.kind])
        self.after: dict[int, Tensor] = {}  # what each layer gave in the last forward pass, counted from 1
        for number, layer in enumerate(trunk.layers, start=1):
            layer.register_forward_hook(lambda _module, _inputs, output, number=number: self._keep(number, output))
        with torch.no_grad():
            embed_numbers(trunk.embed_tokens.weight, arithmetic, self.generator)

    def _keep(self, number: int, output: Tensor) -> None:
        if self.trunk.training:
            self.after[number] = output

    def _read(self, layer: int, places: Tensor) -> Tensor:
        return self.trunk.norm(self.after[layer][places])

    def equation_losses(self, ids: Tensor) -> dict[str, Tensor]:
        """How well the layers know the equations in ``ids``: their results, and which are written right."""
        result, is_right = self.arithmetic.targets(ids)
        at_equals, at_end = result != IGNORE, is_right != IGNORE
        if not at_end.any():
            return {}
        known = self._read(2, at_equals) @ self.trunk.embed_tokens.weight[self.arithmetic.numbers].T
        return {
            "result": functional.cross_entropy(known, result[at_equals]),
            "equation": functional.cross_entropy(self.is_right(self._read(3, at_end)), is_right[at_end]),
        }

    def step_losses(self, ids: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        """How well the layers know the steps: the next operation, which steps follow, their kinds of mistake."""
        at_end = kinds != IGNORE
        follows = ((kinds == KINDS.index("none")) | (kinds == KINDS.index("propagated"))).long()
        losses = {
            "follows": functional.cross_entropy(self.follows(self._read(3, at_end)), follows[at_end]),
            "kind": functional.cross_entropy(self.kind(self._read(4, at_end)), kinds[at_end]),
        }
        # in these steps the operation written is the one whose turn it is: five and four tokens before the end
        in_turn = torch.isin(kinds, torch.tensor([KINDS.index(k) for k in ("none", "propagated", "calculation")]))
        in_turn &= self.arithmetic.targets(ids)[1] != IGNORE
        rows, ends = in_turn.nonzero(as_tuple=True)
        if len(rows):
            rows, before = torch.cat([rows, rows]), torch.cat([ends - 5, ends - 4])
            guess = self.trunk.norm(self.after[2][rows, before]) @ self.trunk.embed_tokens.weight.T
            losses["turn"] = functional.cross_entropy(guess, ids[rows, before + 1])
        return losses

    def run(self, name: str, steps: int, rate: float, losses_of: Callable[[], dict[str, Tensor]]) -> None:
        """``steps`` optimiser steps with warm-up and a linear end."""
        matrices = [p for p in self.trunk.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.modules.parameters() if id(p) not in chosen]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        began, means = time.monotonic(), dict[str, float]()
        for step in range(steps):
            factor = min(1.0, (step + 1) / 50, (1 - step / steps) / 0.5)
            losses = losses_of()
            torch.stack(list(losses.values())).sum().backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
                optimizer.step()
                optimizer.zero_grad()
            means |= {part: 0.95 * means.get(part, loss.item()) + 0.05 * loss.item() for part, loss in losses.items()}
            if (step + 1) % 100 == 0 or step + 1 == steps:
                shown = ", ".join(f"{part} {mean:.3f}" for part, mean in means.items())
                print(f"  {name} {step + 1}/{steps}, {time.monotonic() - began:.0f} s: {shown}", flush=True)

    def learn_lines(self, name: str, steps: int, frame: Frame) -> None:
        """Phase 1: lines of random chains through the first three layers."""
        every = self.trunk.layers
        self.trunk.layers = every[:3]
        rng = random.Random(self.generator.initial_seed())

        def losses_of() -> dict[str, Tensor]:
            columns = rng.randint(3, 12)
            ids, ends, turns, follows = self.arithmetic.draw(self.generator, 360 // columns, columns, frame)
            self.trunk(input_ids=ids)
            known = self.trunk.norm(self.after[2][:, torch.stack([ends - 5, ends - 4], dim=1)])
            turn = functional.cross_entropy((known @ self.trunk.embed_tokens.weight.T).flatten(0, 2), turns.flatten())
            judged = self.follows(self.trunk.norm(self.after[3][:, ends]))
            followed = functional.cross_entropy(judged.flatten(0, 1), follows.long().flatten())
            return {"follows": followed, "turn": turn, **self.equation_losses(ids)}

        self.run(f"{name}: lines", steps, 3e-3, losses_of)
        self.trunk.layers = every


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """The rows as one tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def batches(source: Iterator[Row], size: int, rng: random.Random) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of rows of similar length; eight batches are drawn and sorted at a time."""
    while True:
        rows = sorted((next(source) for _ in range(8 * size)), key=lambda row: len(row[0]))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(parts)
        for part in parts:
            ids, labels, kinds = zip(*part, strict=True)
            yield padded(ids, 0), padded(labels, IGNORE), padded(kinds, IGNORE)


def parameters_of(model: nn.Module) -> int:
    """How many parameters a model has."""
    return sum(p.numel() for p in model.parameters())


# ------------------------------------------------------------------------------------------------------------ the judge


def judge_row(rng: random.Random, tokenizer: Qwen2Tokenizer, prompt: JudgePrompt, response: Response) -> Row:
    """One training row of the judge, in the full or the causal view; the labels are the answer's tokens only."""
    first, last = 0, len(response.steps) - 1
    if rng.random() < 0.3:
        first = last = rng.randint(0, last)
    messages = render_judge_messages(prompt, response.chain.question, response.steps, first, last)
    verdicts = [StepVerdict(int(t.is_correct), ErrorType(t.error_type)) for t in response.truths[first : last + 1]]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    question = tokenizer.encode(asked, add_special_tokens=False)
    answer = [*tokenizer.encode(render_verdicts(first, verdicts), add_special_tokens=False), tokenizer.eos_token_id]
    heads = tokenizer.convert_tokens_to_ids([f"\n{index} " for index in range(last + 1)] + ["\njudge "])
    kinds = [IGNORE] * (len(question) + len(answer))
    position = question.index(heads[0])
    for head, truth in zip(heads[1:], response.truths, strict=False):
        position = question.index(head, position)
        kinds[position] = KINDS.index(truth.error_type)
    return question + answer, [IGNORE] * len(question) + answer, kinds


def mixed(rng: random.Random, rollouts: Sequence[Response], made_up: Iterator[Response]) -> Iterator[Response]:
    """Endless responses: three real ones (wrong, but for one in nine) for two made-up ones."""
    wrong = [response for response in rollouts if not response.is_right]
    real = wrong + [response for response in rollouts if response.is_right][: len(wrong) // 8]
    while True:
        yield rng.choice(real) if rng.random() < 0.6 else next(made_up)


def make_judge(
    prompt: JudgePrompt,
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
    model = Qwen2ForCausalLM(model_config(tokenizer, layers=5, hidden=128, inner=256, tie_word_embeddings=True))
    training = Training(model.model, model, Arithmetic.of(tokenizer), seed)
    id_of = tokenizer.convert_tokens_to_ids
    indices = torch.tensor(id_of([f"\n{index} " for index in range(MAX_STEPS)]))
    waves = torch.randn(16, model.config.hidden_size, generator=training.generator) * 0.01
    with torch.no_grad():  # the verdict on step k is read off the head of step k + 1: a rotation
        model.model.embed_tokens.weight[indices] += torch.stack([circle(k, MAX_STEPS, waves) for k in range(MAX_STEPS)])
    training.learn_lines("judge", line_steps, Frame(torch.tensor([id_of("<|user|>")]), indices[:1], indices[1:]))

    def losses_of(data: Iterator[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        ids, labels, kinds = next(data)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        asked = labels[:, 1:] != IGNORE
        answers = functional.cross_entropy(model.lm_head(hidden[asked]), labels[:, 1:][asked])
        return {"answer": answers, **training.step_losses(ids, kinds), **training.equation_losses(ids)}

    made_up = made_up_responses(rng, forbidden, short=8 * made_up_steps)
    for name, steps, rate, source in (
        ("made-up responses", made_up_steps, 2e-3, made_up),
        ("real and made-up responses", mixed_steps, 1.2e-3, mixed(rng, rollouts, made_up)),
    ):
        rows = (judge_row(rng, tokenizer, prompt, response) for response in source)
        training.run(f"judge: {name}", steps, rate, partial(losses_of, batches(rows, 32, rng)))
    return model.eval(), tokenizer


@torch.inference_mode()
def judge_answers(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, messages: Sequence[list[dict[str, str]]]
) -> list[str]:
    """The judge's greedy answers."""
    texts = [tokenizer.apply_chat_template(m, add_generation_prompt=True, tokenize=False) for m in messages]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [""] * len(texts)
    tokenizer.padding_side = "left"
    for begin in range(0, len(order), 256):
        chosen = order[begin : begin + 256]
        inputs = tokenizer([texts[i] for i in chosen], add_special_tokens=False, padding=True, return_tensors="pt")
        output = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=120
        )
        decoded = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, answer in zip(chosen, decoded, strict=True):
            answers[i] = answer
    return answers


def judge_labels(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    prompt: JudgePrompt,
    responses: Sequence[Response],
    causal: bool,
) -> tuple[list[list[bool]], float, float]:
    """The judge's labels of every step, the share of parsable answers, and the share of right error types."""
    asked = []
    for response in responses:
        last = len(response.steps) - 1
        asked.append([(k, k) for k in range(last + 1)] if causal else [(0, last)])
    messages = [
        render_judge_messages(prompt, response.chain.question, response.steps, first, last)
        for response, views in zip(responses, asked, strict=True)
        for first, last in views
    ]
    answers = iter(judge_answers(model, tokenizer, messages))
    labels: list[list[bool]] = []
    parsed = typed = total = 0
    for response, views in zip(responses, asked, strict=True):
        row: list[bool] = []
        for first, last in views:
            verdicts = parse_verdicts(next(answers), first, last)
            parsed += verdicts is not None
            row += [False] * (last - first + 1) if verdicts is None else [v.label == 1 for v in verdicts]
            for verdict, truth in zip(verdicts or [], response.truths[first : last + 1], strict=False):
                typed, total = typed + (verdict.error_type == truth.error_type), total + 1
        labels.append(row)
    return labels, parsed / len(messages), typed / max(total, 1)


# ------------------------------------------------------------------------------------------------------------- the PRM


class ProcessRewardModel(nn.Module):
    """A Qwen2 trunk and a two-layer head, with the parameter names of vLLM's ``Qwen2ForProcessRewardModel``."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = Qwen2Model(config)
        width = config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (wrong, right) at every position."""
        return self.score(self.model(input_ids=ids).last_hidden_state)

    def save(self, directory: Path, step_rule: str) -> None:
        """Write ``config.json``, with the rule it was taught, and ``model.safetensors`` as vLLM loads them."""
        directory.mkdir(parents=True, exist_ok=True)
        config = self.model.config.to_dict()
        config |= {"architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2, "dtype": "float32"}
        config["bcpg_step_rule"] = step_rule
        (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def prm_ids(tokenizer: Qwen2Tokenizer, response: Response) -> list[int]:
    """The PRM's input: the question, then the steps, each followed by the step tag."""
    content = "".join(step.strip("\n") + STEP_TAG for step in response.steps)
    messages = [
        {"role": "system", "content": QWEN_SYSTEM},
        {"role": "user", "content": response.chain.question},
        {"role": "assistant", "content": content},
    ]
    return tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)


def prm_row(tokenizer: Qwen2Tokenizer, response: Response) -> Row:
    """One training row of the PRM: ids, no next-token labels, and the kind of mistake at each step tag."""
    ids = prm_ids(tokenizer, response)
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    kinds = (truth.error_type for truth in response.truths)
    return ids, [IGNORE] * len(ids), [KINDS.index(next(kinds)) if token == tag else IGNORE for token in ids]


def make_prm(
    responses: Sequence[Response], seed: int, line_steps: int, steps: int
) -> tuple[ProcessRewardModel, Qwen2Tokenizer]:
    """Train the PRM on the policy's own responses."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = prm_tokenizer()
    model = ProcessRewardModel(model_config(tokenizer, layers=4, hidden=96, inner=256, tie_word_embeddings=False))
    training = Training(model.model, model, Arithmetic.of(tokenizer), seed)
    before, between = (
        torch.tensor(tokenizer.encode(text, add_special_tokens=False))
        for text in (
            f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
        )
    )
    tags = torch.full((MAX_STEPS,), tokenizer.convert_tokens_to_ids(STEP_TAG))
    training.learn_lines("prm", line_steps, Frame(before, between, tags))
    known = [prm_row(tokenizer, response) for response in responses]

    def rows() -> Iterator[Row]:
        while True:
            rng.shuffle(known)
            yield from known

    data = batches(rows(), 48, rng)

    def losses_of() -> dict[str, Tensor]:
        ids, _, kinds = next(data)
        hidden = model.model(input_ids=ids).last_hidden_state
        at_tag = kinds != IGNORE
        is_right = (kinds[at_tag] == KINDS.index("none")).long()
        score = functional.cross_entropy(model.score(hidden[at_tag]), is_right)
        return {"score": score, **training.step_losses(ids, kinds), **training.equation_losses(ids)}

    training.run("prm: responses", steps, 2e-3, losses_of)
    return model.eval(), tokenizer


@torch.inference_mode()
def prm_scores(
    model: ProcessRewardModel, tokenizer: Qwen2Tokenizer, responses: Sequence[Response]
) -> list[list[float]]:
    """P(right) of every step."""
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    rows = [prm_ids(tokenizer, response) for response in responses]
    scores: list[list[float]] = []
    for begin in range(0, len(rows), 256):
        part = rows[begin : begin + 256]
        probabilities = model(padded(part, 0)).softmax(-1)[..., 1]
        scores += [probabilities[i, [j for j, t in enumerate(row) if t == tag]].tolist() for i, row in enumerate(part)]
    return scores


# ------------------------------------------------------------------------------------------------------------- quality


@dataclass(frozen=True, slots=True)
class Quality:
    """How well labels say "right", over steps with weights."""

    precision: float
    recall: float
    share: float

    @classmethod
    def of(cls, said: Sequence[bool], true: Sequence[bool], weights: Sequence[float]) -> Quality:
        """Measure ``said`` against ``true``."""
        both = sum(w for s, t, w in zip(said, true, weights, strict=True) if s and t)
        says = sum(w for s, w in zip(said, weights, strict=True) if s)
        trues = sum(w for t, w in zip(true, weights, strict=True) if t)
        return cls(both / max(says, 1e-9), both / max(trues, 1e-9), says / max(sum(weights), 1e-9))


def report_quality(
    responses: Sequence[Response],
    judged: dict[str, Sequence[Sequence[bool]]],
    scores: Sequence[Sequence[float]],
    length_of: Callable[[str], int],
    threshold: float,
) -> None:
    """Print the quality of the judge's views, of the PRM and of their consensus, the answer's own step left out."""
    places = [
        (i, k)
        for i, r in enumerate(responses)
        for k, step in enumerate(r.steps)
        if not step.lstrip().startswith(ANSWER)
    ]
    true = [responses[i].truths[k].is_correct for i, k in places]
    tokens = [float(length_of(responses[i].steps[k])) for i, k in places]
    ones = [1.0] * len(places)
    prm = [scores[i][k] > threshold for i, k in places]
    rows = {f"PRM > {threshold}": prm}
    for view, labels in judged.items():
        judge = [labels[i][k] for i, k in places]
        rows |= {f"judge, {view}": judge, f"consensus, {view}": [a and b for a, b in zip(judge, prm, strict=True)]}
    print(f"{len(responses)} wrong responses, {len(places)} steps, truly right: {sum(true) / len(true):.3f} of steps")
    print("| labels | precision (tokens) | recall (tokens) | share (tokens) | precision (steps) | recall (steps) |")
    print("|---|---|---|---|---|---|")
    for name, said in rows.items():
        a, b = Quality.of(said, true, tokens), Quality.of(said, true, ones)
        print(f"| {name} | {a.precision:.3f} | {a.recall:.3f} | {a.share:.3f} | {b.precision:.3f} | {b.recall:.3f} |")
    for view, labels in judged.items():
        judge = [labels[i][k] for i, k in places]
        table = [
            [sum(a == x and b == y for a, b in zip(judge, prm, strict=True)) for y in (True, False)]
            for x in (True, False)
        ]
        total = len(places)
        observed = (table[0][0] + table[1][1]) / total
        by_chance = (sum(judge) * sum(prm) + (total - sum(judge)) * (total - sum(prm))) / total**2
        kappa = (observed - by_chance) / max(1 - by_chance, 1e-9)
        print(f"judge ({view}) by PRM, right/wrong: {table}, Cohen's kappa {kappa:.3f}")


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
    prompt = parse_judge_prompt((assets.parent / "judge_prompts" / "compact.toml").read_text())
    like = [
        json.loads(line)["question"]
        for path in sorted(assets.rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    forbidden = set(like)
    policy = assets / "policy"

    def rollouts(number: int, chains: int, samples: int) -> list[Response]:
        groups = policy_responses(policy, fresh_chains(seed + number, chains, like, forbidden), samples, seed + number)
        return [response for group in groups for response in group if response is not None]

    if arguments.only != "prm":
        judge, judge_words = make_judge(
            prompt, forbidden, rollouts(4, 1200, 4), seed, line_steps=500, made_up_steps=500, mixed_steps=350
        )
        judge.config.bcpg_step_rule = "propagated"
        judge.save_pretrained(assets / "judge")
        judge_words.save_pretrained(assets / "judge")
        print(f"judge: {parameters_of(judge):,} parameters")
    if arguments.only != "judge":
        own = rollouts(1, 1500, 8)
        prm, prm_words = make_prm(own, seed + 2, line_steps=400, steps=500)
        prm.save(assets / "prm", "propagated")
        prm_words.save_pretrained(assets / "prm")
        print(f"prm: {parameters_of(prm):,} parameters, {len(own)} rollouts")
    if arguments.only:
        return

    groups = policy_responses(policy, fresh_chains(seed + 3, 300, like, forbidden), samples=8, seed=seed + 3)
    wrong = wrong_of_mixed_groups(groups)
    judged = {}
    for view in ("full", "causal"):
        judged[view], parsable, typed = judge_labels(judge, judge_words, prompt, wrong, causal=view == "causal")
        print(f"judge ({view}): parsable {parsable:.4f}, right error type {typed:.3f}")
    words = AutoTokenizer.from_pretrained(policy)
    scores = prm_scores(prm, prm_words, wrong)
    report_quality(wrong, judged, scores, lambda step: len(words.encode(step, add_special_tokens=False)), threshold=0.5)


if __name__ == "__main__":
    main()
