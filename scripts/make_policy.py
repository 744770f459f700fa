"""Make the embedded default: a tiny policy for the chain task, and its prompts.

    python scripts/make_policy.py --out bcpg_cluster/assets

writes ``policy/`` (an ordinary Hugging Face causal LM, character-level tokenizer) and ``prompts/{train,test}.jsonl``.
Seeded; the same machine and thread count give the same files.

TIMEDOC
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from bcpg_cluster.assets.chain import ANSWER, MODULUS, REFLECTION, Chain, draw_chain

USER, ASSISTANT, END, PAD, UNKNOWN = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|unk|>"
CHARACTERS = "0123456789+-*= \n"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IGNORED = -100  # a label without loss


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What the supervised warm start shows, and for how long.

    Attributes:
        lengths: how often chains of 1, 2, 3, ... operations are drawn (relative weights).
        keep_times: chance that a hard ``*`` is kept in the data (a chain with two is kept with the square).
        keep_borrow: the same for a ``-`` that goes below zero.
        wrong_first: share of lines written wrongly first, then ``wait``, then right. The wrong line itself carries no
            loss: the policy learns to notice a mistake, not to make one.
    """

    lengths: tuple[float, ...] = (1.0, 1.0, 1.0, 0.5, 0.5, 0.5)
    keep_times: float = 0.3
    keep_borrow: float = 0.3
    wrong_first: float = 0.04
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 3e-3
    matrix_rate: float = 0.02
    hidden: int = 96
    layers: int = 3
    intermediate: int = 256


def make_tokenizer() -> Qwen2Tokenizer:
    """One token a character, but ``wait`` and ``answer `` whole; decoding gives the text back exactly."""
    words = [PAD, END, USER, ASSISTANT, UNKNOWN, *CHARACTERS.replace(" ", "Ġ").replace("\n", "Ċ"), REFLECTION, ANSWER]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in (REFLECTION, ANSWER)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Qwen2Tokenizer, warm: WarmStart) -> Qwen2ForCausalLM:
    """An untrained policy; head size 32, which vLLM's CPU attention can serve."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=warm.hidden,
        intermediate_size=warm.intermediate,
        num_hidden_layers=warm.layers,
        num_attention_heads=warm.hidden // 32,
        num_key_value_heads=warm.hidden // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def is_kept(chain: Chain, warm: WarmStart, rng: random.Random) -> bool:
    """Thin the hard operations out of the warm start: they are what reinforcement learning is left to teach."""
    chance = 1.0
    for value, operation in zip(chain.values, chain.operations, strict=False):
        if operation.symbol == "*" and operation.operand >= 6:
            chance *= warm.keep_times
        elif operation.symbol == "-" and operation.operand > value:
            chance *= warm.keep_borrow
    return rng.random() < chance


def wrong_line(line: str, rng: random.Random) -> str:
    """``line`` with another result: a digit slip, or any other value."""
    left, _, result = line.partition("=")
    slip = rng.choice([-20, -10, -2, -1, 1, 2, 10, 20, rng.randint(1, MODULUS - 1)])
    return f"{left}={(int(result) + slip) % MODULUS}"


def draw_example(
    tokenizer: Qwen2Tokenizer, warm: WarmStart, rng: random.Random, held_out: frozenset[str]
) -> tuple[list[int], list[int]]:
    """Token ids and labels of one warm-start trace; its question is in neither prompt file."""
    length = rng.choices(range(1, len(warm.lengths) + 1), warm.lengths)[0]
    while True:
        chain = draw_chain(rng, length, length)
        if chain.question not in held_out and is_kept(chain, warm, rng):
            break
    pieces: list[tuple[str, bool]] = [(f"{USER}{chain.question}{ASSISTANT}", False)]
    for line in chain.lines:
        if rng.random() < warm.wrong_first:
            pieces += [(f"{wrong_line(line, rng)}\n", False), (f"{REFLECTION}\n", True)]
        pieces.append((f"{line}\n", True))
    pieces.append((f"{ANSWER}{chain.answer}{END}", True))
    ids: list[int] = []
    labels: list[int] = []
    for text, is_taught in pieces:
        piece = encode(tokenizer, text)
        ids += piece
        labels += piece if is_taught else [IGNORED] * len(piece)
    return ids, labels


_CACHE: dict[str, int] = {}


def encode(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    import re

    if not _CACHE:
        _CACHE.update({w.replace("Ġ", " ").replace("Ċ", "\n"): i for w, i in tokenizer.get_vocab().items()})
    return [_CACHE[w] for w in re.findall(r"<\|\w+\|>|wait|answer |[\s\S]", text)]


def batches(
    tokenizer: Qwen2Tokenizer, warm: WarmStart, rng: random.Random, held_out: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of fresh examples, of similar length each, padded on the right."""
    while True:
        pool = sorted(
            (draw_example(tokenizer, warm, rng, held_out) for _ in range(16 * warm.batch)), key=lambda e: len(e[0])
        )
        chunks = [pool[i : i + warm.batch] for i in range(0, len(pool), warm.batch)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _ in chunk)
            ids = torch.full((len(chunk), width), tokenizer.pad_token_id)
            labels = torch.full((len(chunk), width), IGNORED)
            for row, (one, marks) in enumerate(chunk):
                ids[row, : len(one)] = torch.tensor(one)
                labels[row, : len(marks)] = torch.tensor(marks)
            yield ids, labels


class Muon:
    """Momentum whose update is made orthogonal, for weight matrices."""

    def __init__(self, parameters, rate, momentum=0.95):
        shapes = {}
        for p in parameters:
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape)) for shape, ps in shapes.items()]
        self.rate, self.momentum = rate, momentum

    @torch.no_grad()
    def step(self, scale):
        for ps, velocity in self.groups:
            grad = torch.stack([p.grad for p in ps])
            velocity.lerp_(grad, 1 - self.momentum)
            x = grad.lerp(velocity, self.momentum)
            tall = x.shape[1] > x.shape[2]
            x = x.mT if tall else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.mT if tall else x
            rate = self.rate * scale * max(1.0, x.shape[1] / x.shape[2]) ** 0.5
            for p, update in zip(ps, x, strict=True):
                p.sub_(update, alpha=rate)


def train(model, tokenizer, warm, seed, held_out, hook=None):
    rng = random.Random(seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizer = torch.optim.AdamW(others, lr=warm.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    muon = Muon(matrices, warm.matrix_rate)
    stream = batches(tokenizer, warm, rng, held_out)
    started = time.time()
    for step in range(1, warm.steps + 1):
        scale = min(1.0, step / 50, max(0.02, 2 * (1 - step / warm.steps)))
        for group in optimizer.param_groups:
            group["lr"] = warm.learning_rate * scale
        ids, labels = next(stream)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        muon.step(scale)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
        if hook:
            hook(step, model)
