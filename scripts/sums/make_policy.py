"""Make the policy of the sums task, and its prompts.

    python -m scripts.sums.make_policy --out bcpg_cluster/assets/sums

writes ``policy/`` (an ordinary Hugging Face causal LM, one token a character) and ``prompts/{train,test}.jsonl``.

What the policy can do: the format, to find the terms that are left, to check lines and to correct those whose check fails.
What it is left to learn: a habit of losing the carry where a large units digit brings one (its data holds lines with the
habit and lines without), to check where it slips, and carries it was shown too rarely to be sure of.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from bcpg_cluster.assets.sums.task import ANSWER, CHECK, MODULUS, REFLECTION, Sum, Term, draw_sum
from scripts.chain.make_policy import ASSISTANT, CHAT_TEMPLATE, END, IGNORED, PAD, UNKNOWN, USER, Muon

CHARACTERS = "0123456789+-= \n"
WORDS = (PAD, END, USER, ASSISTANT, UNKNOWN, *CHARACTERS, CHECK, REFLECTION, ANSWER)  # in the order of their ids
IDS = {word: i for i, word in enumerate(WORDS)}
MIN_TERMS, MAX_TERMS = 5, 7
MAX_NEW_TOKENS = 208
BATCH = 32


@dataclass(frozen=True, slots=True)
class Habits:
    """How the writer of warm-start texts errs and checks. Chances, 0 to 1.

    Attributes:
        habit: that the carry is lost in a line with a carry and a units digit of the amount of 8 or 9.
        hard: of a slip in other lines with a carry. ``easy``: in lines without one.
        checks: how often a line is checked; each text has one of them.
        check_of_easy: what the chance to check is multiplied with where the habit does not threaten.
        slip_in_check: of a slip in a check.
        redo: what the chance to slip is multiplied with where a line is done once more.
        reflects: that a failed check is followed by ``wait``.
    """

    habit: float
    hard: float
    easy: float
    checks: tuple[float, ...] = (0.4, 0.7, 0.95)
    check_of_easy: float = 0.5
    slip_in_check: float = 0.01
    redo: float = 0.3
    reflects: float = 0.95


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the supervised warm start: what it shows, and for how long.

    Attributes:
        lengths: relative weights of sums of 1, 2, 3, ... terms.
        learning_rate: AdamW's, for the embedding, norms and biases.
        matrix_rate: Muon's, for the weight matrices. Both fall linearly over the second half of the stage.
    """

    steps: int
    lengths: tuple[float, ...]
    habits: Habits
    learning_rate: float
    matrix_rate: float


TASK_LENGTHS = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
# The task first, with some short sums on which arithmetic is learned; then the habit.
STAGES = (
    Stage(1500, (0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0), Habits(0.0, 0.10, 0.02, check_of_easy=1.0), 2e-3, 0.008),
    Stage(300, TASK_LENGTHS, Habits(0.5, 0.10, 0.02, check_of_easy=0.7), 1e-3, 0.004),
)
# Logits are scaled by this in the end (through the final norm): after so short a warm start the policy is less sure than it is
# right (greedy 0.75, sampled 0.41), and with that much room any method would gain by sharpening alone. Greedy decoding does not
# change.
SHARPENING = 1.3


def make_tokenizer() -> Qwen2Tokenizer:
    """One token a character, but ``check ``, ``wait`` and ``answer `` whole; decoding gives the text back exactly.

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
        model_max_length=320,
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in (CHECK, REFLECTION, ANSWER)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(text: str) -> list[int]:
    """The ids the tokenizer gives, without its overhead (hundreds of thousands of short texts are encoded)."""
    return [IDS[word] for word in re.findall(rf"<\|\w+\|>|{CHECK}|{REFLECTION}|{ANSWER}|[\s\S]", text)]


def make_model() -> Qwen2ForCausalLM:
    """An untrained policy; its head size is 32, which vLLM's CPU attention can serve."""
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=3,  # with two, it did not learn which terms are left
        num_key_value_heads=3,
        max_position_embeddings=320,
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


# ------------------------------------------------------------------------------------------------------ prompts, texts


def draw_prompts(rng: random.Random, count: int, taken: set[str]) -> list[Sum]:
    """Fresh questions of the task, none in ``taken``; they are added to it."""
    found: list[Sum] = []
    while len(found) < count:
        task = draw_sum(rng, MIN_TERMS, MAX_TERMS)
        if task.question not in taken:
            taken.add(task.question)
            found.append(task)
    return found


def write_prompts(path: Path, name: str, tasks: Iterable[Sum]) -> None:
    """Write one problem a line, with its id and its gold answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for i, task in enumerate(tasks):
            row = {"prompt_id": f"{name}-{i:05d}", "question": task.question, "answer": task.answer}
            file.write(json.dumps(row) + "\n")


def has_carry(value: int, term: Term) -> bool:
    """Whether the units digits of a line bring a carry, or borrow one."""
    units = value % 10, term.amount % 10
    return sum(units) >= 10 if term.sign == "+" else units[0] < units[1]


class Writer:
    """Writes one warm-start text."""

    def __init__(self, rng: random.Random, task: Sum, habits: Habits) -> None:
        self._rng, self._task, self._habits = rng, task, habits
        self._checks = rng.choice(habits.checks)
        self.lines: list[str] = []

    def write(self) -> list[str]:
        """The lines of the text."""
        left, value = list(self._task.terms), self._task.start
        while left:
            term = left.pop(self._rng.randrange(len(left)))
            value = self._take(term, value)
        self.lines.append(f"{ANSWER}{value:02d}")
        return self.lines

    def _take(self, term: Term, value: int) -> int:
        """The lines of one term: with its check, and once more while the check fails; the value after them."""
        is_again = False
        while True:
            threatens = self._habits.habit > 0 and has_carry(value, term) and term.amount % 10 >= 8
            result = self._result(term, value, threatens, self._habits.redo if is_again else 1.0)
            self.lines.append(term.line(value, result))
            if self._rng.random() >= self._checks * (1.0 if threatens else self._habits.check_of_easy):
                return result
            back = term.inverse.apply(result)
            if self._rng.random() < self._habits.slip_in_check:
                back = (back + self._rng.choice((10, -10))) % MODULUS
            self.lines.append(CHECK + term.inverse.line(result, back))
            if back == value or self._rng.random() >= self._habits.reflects:
                return result
            self.lines.append(REFLECTION)
            is_again = True

    def _result(self, term: Term, value: int, threatens: bool, times: float) -> int:
        right, habits = term.apply(value), self._habits
        chance = habits.habit if threatens else habits.hard if has_carry(value, term) else habits.easy
        if self._rng.random() >= chance * times:
            return right
        lost_carry = -10 if term.sign == "+" else 10
        return (right + (lost_carry if threatens else self._rng.choice((-10, -10, 10, 10, 1, -1)))) % MODULUS


def draw_example(stage: Stage, rng: random.Random, held_out: frozenset[str]) -> tuple[list[int], list[int]]:
    """Token ids and labels of one warm-start text; its question is in neither prompt file."""
    while True:
        length = rng.choices(range(1, len(stage.lengths) + 1), stage.lengths)[0]
        task = draw_sum(rng, length, length)
        if task.question not in held_out:
            break
    prompt = encode(f"{USER}{task.question}{ASSISTANT}")
    answer = encode("\n".join(Writer(rng, task, stage.habits).write()) + END)
    return prompt + answer, [IGNORED] * len(prompt) + answer


def draw_batches(
    stage: Stage, rng: random.Random, held_out: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of fresh examples, of similar length each, padded on the right."""
    while True:
        pool = sorted((draw_example(stage, rng, held_out) for _ in range(16 * BATCH)), key=lambda pair: len(pair[0]))
        chunks = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _ in chunk)
            yield tuple(
                torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
                for rows, fill in zip(zip(*chunk, strict=True), (IDS[PAD], IGNORED), strict=True)
            )


# ------------------------------------------------------------------------------------------------- training, measuring


def train(model: Qwen2ForCausalLM, stage: Stage, seed: int, held_out: frozenset[str]) -> None:
    """One stage of the warm start: next-token loss on the responses."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    muon = Muon(matrices, stage.matrix_rate)
    batches = draw_batches(stage, random.Random(seed), held_out)
    began, mean = time.process_time(), 0.0
    model.train()
    for step in range(1, stage.steps + 1):
        scale = min(1.0, step / 50, max(0.02, 2 * (1 - step / stage.steps)))
        adam.param_groups[0]["lr"] = stage.learning_rate * scale
        ids, labels = next(batches)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        model.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        muon.step(scale)
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 200 == 0 or step == stage.steps:
            print(f"step {step}/{stage.steps}: loss {mean:.4f}, {time.process_time() - began:.0f} s", flush=True)
    model.eval()


def load_policy(directory: Path) -> Qwen2ForCausalLM:
    """The policy that lies in a directory."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.inference_mode()
def sample_texts(
    model: Qwen2ForCausalLM, tasks: Sequence[Sum], seed: int, is_greedy: bool = False, batch_size: int = 512
) -> list[str]:
    """One response to each question, at temperature 1 or greedily, without its end token."""
    torch.manual_seed(seed)
    texts = [""] * len(tasks)
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i].terms))
    config = GenerationConfig(
        eos_token_id=IDS[END],
        pad_token_id=IDS[PAD],
        do_sample=not is_greedy,
        max_new_tokens=MAX_NEW_TOKENS,
        top_k=0 if not is_greedy else None,
    )
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        prompts = [encode(f"{USER}{tasks[i].question}{ASSISTANT}") for i in chosen]
        width = max(map(len, prompts))
        ids = torch.tensor([[IDS[PAD]] * (width - len(prompt)) + prompt for prompt in prompts])
        output = model.generate(ids, attention_mask=(ids != IDS[PAD]).long(), generation_config=config)
        for i, row in zip(chosen, output[:, width:].tolist(), strict=True):
            texts[i] = "".join(WORDS[token] for token in row if token not in (IDS[PAD], IDS[END]))
    return texts


def accuracy(model: Qwen2ForCausalLM, tasks: Sequence[Sum], samples: int, seed: int) -> float:
    """Share of right answers: greedy for ``samples`` 0, else over that many samples at temperature 1."""
    asked = [task for task in tasks for _ in range(max(samples, 1))]
    texts = sample_texts(model, asked, seed, is_greedy=samples == 0)
    rights = [text.endswith(f"{ANSWER}{task.answer}") for task, text in zip(asked, texts, strict=True)]
    return sum(rights) / len(rights)


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
