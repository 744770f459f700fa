"""Make the policy of the chain task, and its prompts.

    python -m scripts.chain.make_policy --out bcpg_cluster/assets/chain

writes ``policy/`` (an ordinary Hugging Face causal LM, 0.34 M parameters, 1.3 MB, one token a character) and
``prompts/{train,test}.jsonl``. It took 8 minutes (6.5 of processor time, one thread) on a 2-core AMD EPYC with AVX2
and torch 2.13 that had other work to do. Seeded: two runs there gave the same bytes; on another kind of processor the
weights, and with them the start accuracy, may differ a little.

What the policy can do: the format and most of the arithmetic. What it is left to learn: which of two habits the task
rewards where a subtraction goes below zero (its training data holds both), products by 6..9 (rare there), and not to
lose its place in a chain of 4-6 operations (mostly shorter ones in the first stage). On the 400 test problems it starts
at 0.445 greedy and 0.32 sampled at temperature 1, with 48 tokens a response.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from bcpg_cluster.assets.chain.task import ANSWER, MODULUS, REFLECTION, Chain, draw_chain

USER, ASSISTANT, END, PAD, UNKNOWN = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|unk|>"
CHARACTERS = "0123456789+-*= \n"
WORDS = (PAD, END, USER, ASSISTANT, UNKNOWN, *CHARACTERS, REFLECTION, ANSWER)  # in the order of their ids
IDS = {word: i for i, word in enumerate(WORDS)}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IGNORED = -100  # the label of a token without loss


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the supervised warm start: what it shows, and for how long.

    Attributes:
        lengths: relative weights of chains of 1, 2, 3, ... operations, before thinning.
        keep_times: chance that a ``*`` by 6..9 is kept in the data (a chain with two of them: the square of it).
        keep_below: the same for a ``-`` that goes below zero.
        other_habit: share of traces by a writer with another habit (see :func:`other_lines`).
        learning_rate: AdamW's, for the embedding, norms and biases.
        matrix_rate: Muon's, for the weight matrices. Both fall linearly over the second half of the stage.
    """

    steps: int
    lengths: tuple[float, ...]
    keep_times: float
    keep_below: float
    other_habit: float
    learning_rate: float
    matrix_rate: float


# Arithmetic is learned on short chains (on long ones it takes several times the steps), the task's length after that.
STAGES = (
    Stage(3000, (1.0, 1.0, 1.0, 0.5, 0.5, 0.5), 0.3, 0.3, 0.0, 3e-3, 0.02),
    Stage(1500, (1.0, 1.0, 1.0, 4.0, 5.0, 6.0), 0.3, 1.0, 0.55, 1.5e-3, 0.01),
)
BATCH = 32
# Logits are scaled by this in the end (through the final norm): a short warm start leaves the policy less sure than it
# is right (greedy 0.445, sampled 0.274), and with that much room any method would gain by sharpening alone. Greedy
# decoding does not change.
SHARPENING = 1.15
WRONG_FIRST = 0.04  # share of lines written wrongly first, then ``wait``, then right


def make_tokenizer() -> Qwen2Tokenizer:
    """One token a character, but ``wait`` and ``answer `` whole; decoding gives the text back exactly.

    It has to be a ``Qwen2Tokenizer``: transformers 5 builds that class for every Qwen2 model, whatever the files say.
    """
    tokenizer = Qwen2Tokenizer(
        vocab={word if len(word) > 1 else word.replace(" ", "Ġ").replace("\n", "Ċ"): i for word, i in IDS.items()},
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


def encode(text: str) -> list[int]:
    """The ids the tokenizer gives, without its overhead (hundreds of thousands of short texts are encoded)."""
    return [IDS[word] for word in re.findall(rf"<\|\w+\|>|{REFLECTION}|{ANSWER}|[\s\S]", text)]


def make_model() -> Qwen2ForCausalLM:
    """An untrained policy; its head size is 32, which vLLM's CPU attention can serve."""
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=IDS[END],
        pad_token_id=IDS[PAD],
        initializer_range=0.05,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=IDS[END], pad_token_id=IDS[PAD], do_sample=True, temperature=1.0
    )
    return model


def draw_prompts(rng: random.Random, count: int, taken: set[str]) -> list[Chain]:
    """Fresh problems of the task (4-6 operations), none in ``taken``; their questions are added to it."""
    chains: list[Chain] = []
    while len(chains) < count:
        chain = draw_chain(rng, 4, 6)
        if chain.question not in taken:
            taken.add(chain.question)
            chains.append(chain)
    return chains


def write_prompts(path: Path, name: str, chains: Iterable[Chain]) -> None:
    """Write one problem a line, with its id and its gold answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for i, chain in enumerate(chains):
            row = {"prompt_id": f"{name}-{i:05d}", "question": chain.question, "answer": chain.answer}
            file.write(json.dumps(row) + "\n")


def is_kept(chain: Chain, stage: Stage, rng: random.Random) -> bool:
    """Thin hard operations out of the warm start: they are a part of what reinforcement learning is left to teach."""
    chance = 1.0
    for value, operation in zip(chain.values, chain.operations, strict=False):
        if operation.symbol == "*" and operation.operand >= 6:
            chance *= stage.keep_times
        elif operation.symbol == "-" and operation.operand > value:
            chance *= stage.keep_below
    return rng.random() < chance


def other_lines(chain: Chain) -> tuple[list[str], str]:
    """The lines and the answer of a writer with another habit.

    Where a subtraction goes below zero, the result loses its sign (``26-88=62``) instead of wrapping round
    (``26-88=38``). The policy meets both habits and cannot know which of them the task rewards: it has to find out.
    """
    lines, value = [], chain.start
    for operation in chain.operations:
        goes_below = operation.symbol == "-" and operation.operand > value
        result = operation.operand - value if goes_below else operation.apply(value)
        lines.append(f"{value}{operation.symbol}{operation.operand}={result}")
        value = result
    return lines, str(value)


def wrong_line(line: str, rng: random.Random) -> str:
    """``line`` with another result: a slip in one digit, or any other value."""
    left, _, result = line.partition("=")
    slip = rng.choice([-20, -10, -2, -1, 1, 2, 10, 20, rng.randint(1, MODULUS - 1)])
    return f"{left}={(int(result) + slip) % MODULUS}"


def draw_example(stage: Stage, rng: random.Random, held_out: frozenset[str]) -> tuple[list[int], list[int]]:
    """Token ids and labels of one warm-start trace; its question is in neither prompt file.

    A line that is written wrongly first carries no loss: the policy learns to notice a mistake, not to make one.
    """
    while True:
        length = rng.choices(range(1, len(stage.lengths) + 1), stage.lengths)[0]
        chain = draw_chain(rng, length, length)
        if chain.question not in held_out and is_kept(chain, stage, rng):
            break
    lines, answer = list(chain.lines), chain.answer
    if stage.other_habit and rng.random() < stage.other_habit:
        lines, answer = other_lines(chain)
    pieces: list[tuple[str, bool]] = [(f"{USER}{chain.question}{ASSISTANT}", False)]
    for line in lines:
        if rng.random() < WRONG_FIRST:
            pieces += [(f"{wrong_line(line, rng)}\n", False), (f"{REFLECTION}\n", True)]
        pieces.append((f"{line}\n", True))
    pieces.append((f"{ANSWER}{answer}{END}", True))
    ids: list[int] = []
    labels: list[int] = []
    for text, is_taught in pieces:
        piece = encode(text)
        ids += piece
        labels += piece if is_taught else [IGNORED] * len(piece)
    return ids, labels


def draw_batches(
    stage: Stage, rng: random.Random, held_out: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of fresh examples, of similar length each, padded on the right."""
    while True:
        pool = [draw_example(stage, rng, held_out) for _ in range(16 * BATCH)]
        pool.sort(key=lambda example: len(example[0]))
        chunks = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _ in chunk)
            ids = torch.full((len(chunk), width), IDS[PAD])
            labels = torch.full((len(chunk), width), IGNORED)
            for row, (its_ids, its_labels) in enumerate(chunk):
                ids[row, : len(its_ids)] = torch.tensor(its_ids)
                labels[row, : len(its_labels)] = torch.tensor(its_labels)
            yield ids, labels


class Muon:
    """Momentum whose update is made orthogonal (five Newton-Schulz steps): half the steps AdamW needs here.

    In float32, and all matrices of one shape at a time; torch's own works in bfloat16, which is slow on many CPUs.
    """

    def __init__(self, matrices: Iterable[torch.nn.Parameter], rate: float, momentum: float = 0.95) -> None:
        shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        self._groups = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]
        self._rate, self._momentum = rate, momentum

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Update every matrix from its gradient; ``scale`` is the schedule's factor."""
        for group, velocity in self._groups:
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            velocity.lerp_(gradient, 1 - self._momentum)
            x = gradient.lerp(velocity, self._momentum)
            is_tall = x.shape[1] > x.shape[2]
            x = x.mT if is_tall else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                square = x @ x.mT
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            x = x.mT if is_tall else x
            rate = self._rate * scale * max(1.0, x.shape[1] / x.shape[2]) ** 0.5
            for matrix, update in zip(group, x, strict=True):
                matrix.sub_(update, alpha=rate)


def train(
    model: Qwen2ForCausalLM,
    stage: Stage,
    seed: int,
    held_out: frozenset[str],
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """One stage of the warm start: next-token loss on the taught tokens of the responses."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    muon = Muon(matrices, stage.matrix_rate)
    batches = draw_batches(stage, random.Random(seed), held_out)
    started = time.monotonic()
    model.train()
    for step in range(1, stage.steps + 1):
        scale = min(1.0, step / 50, max(0.02, 2 * (1 - step / stage.steps)))
        adam.param_groups[0]["lr"] = stage.learning_rate * scale
        ids, labels = next(batches)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        muon.step(scale)
        if step % 250 == 0:
            print(f"step {step}/{stage.steps}  loss {loss.item():.4f}  {time.monotonic() - started:.0f} s", flush=True)
        on_step(step)
    model.eval()


@torch.no_grad()
def accuracy(model: Qwen2ForCausalLM, chains: list[Chain], samples: int, seed: int) -> float:
    """Share of right answers: greedy where ``samples`` is 0, else of that many samples each at temperature 1."""
    torch.manual_seed(seed)
    right = 0
    prompts = [encode(f"{USER}{chain.question}{ASSISTANT}") for chain in chains]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[IDS[PAD]] * (width - len(prompt)) + prompt for prompt in prompts])
    config = GenerationConfig(
        eos_token_id=IDS[END],
        pad_token_id=IDS[PAD],
        do_sample=samples > 0,
        num_return_sequences=max(samples, 1),
        max_new_tokens=96,
        top_k=0,
    )
    out = model.generate(ids, attention_mask=(ids != IDS[PAD]).long(), generation_config=config)
    for i, response in enumerate(out[:, width:].tolist()):
        text = "".join(WORDS[token] for token in response if token != IDS[PAD])
        right += text.endswith(f"{ANSWER}{chains[i // max(samples, 1)].answer}{END}")
    return right / len(out)


def main() -> None:
    """Write the policy and the prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder that gets policy/ and prompts/")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    taken: set[str] = set()
    test = draw_prompts(random.Random(1), 400, taken)
    write_prompts(arguments.out / "prompts" / "test.jsonl", "test", test)
    write_prompts(arguments.out / "prompts" / "train.jsonl", "train", draw_prompts(random.Random(2), 4096, taken))
    torch.manual_seed(arguments.seed)
    model = make_model()
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters", flush=True)
    for i, stage in enumerate(STAGES):
        train(model, stage, arguments.seed + i, frozenset(taken))
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPENING)
    model.save_pretrained(arguments.out / "policy")
    (arguments.out / "policy" / "model.safetensors").chmod(0o644)  # save_pretrained leaves it to its owner alone
    make_tokenizer().save_pretrained(arguments.out / "policy")
    print(f"greedy {accuracy(model, test, 0, 0):.3f}  sampled {accuracy(model, test, 4, 0):.3f}")


if __name__ == "__main__":
    main()
