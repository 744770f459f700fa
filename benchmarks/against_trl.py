"""The trainers against TRL's on the same rows in the same batches: is what a step costs at least as little?

The sides in turn, each in a process of its own and from the same weights each time: ``TorchTrainer``, ``DeepSpeedRank`` (one
rank) and TRL's ``SFTTrainer`` (objective rft, on right responses) or ``DPOTrainer`` (objective dpo, on pairs). fp32, one thread
unless told otherwise, no gradient checkpointing, the same optimiser, rate and clip. Every side takes the same rows to each
optimiser step and may compute at most ``--budget`` tokens at a time, padding included: ours cuts by area, TRL has a number of
rows a micro-batch, here as many as fit if all were the longest (``--trl-rows`` for another number). TRL's padding-free batches
and packing want flash attention, and its ``group_by_length`` changes which rows share a step, so neither is used;
``--sort-for-trl`` hands it each step's rows longest first, which no setting of its own does. Its metrics (entropy, token
accuracy) stay on, as ours do.

Reference log-probs are there before, on both sides; opening a trainer is not timed. Loss and gradient norm of every step
are compared, and where they differ nothing is reported. Tokens are those of the rows, without padding.

    pip install -e .[benchmarks]
    python benchmarks/against_trl.py [--case equal-rft tail-rft tail-dpo] [--ours TorchTrainer] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from drawn_lengths import drawn_lengths
from measure import argument_parser, facts, finish, free_port, interleave_all, ratios, summarise

from bcpg_cluster.stages.train.objective import Dpo, Rft
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainRow, TrainSettings

OURS = ("TorchTrainer", "DeepSpeedRank")
CASES = ("equal-rft", "tail-rft", "tail-dpo")
VOCABULARY, HIDDEN, LAYERS, HEADS, INTERMEDIATE = 8192, 320, 6, 5, 864  # 10 million weights
TOLERANCES = (1e-5, 2e-4)  # of a step's loss and gradient norm, relative; DeepSpeed adds a norm up in another precision
BETA = 0.1


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the rows: seconds on the wall and of processor, and what every step says of itself: loss, gradient norm."""

    wall_s: float
    cpu_s: float
    steps: tuple[tuple[float, float], ...]

    def off(self, other: Pass) -> tuple[float, float]:
        """The largest relative differences of a loss, and of a gradient norm."""
        pairs = list(zip(self.steps, other.steps, strict=True))
        loss, norm = (max(abs(mine[at] / theirs[at] - 1) for mine, theirs in pairs) for at in (0, 1))
        return loss, norm


def timed(train: Callable[[], Sequence[tuple[float, float]]]) -> Pass:
    """A pass, measured."""
    wall, cpu = time.perf_counter(), time.process_time()
    steps = train()
    return Pass(time.perf_counter() - wall, time.process_time() - cpu, tuple(steps))


def random_model(path: Path) -> str:
    """A checkpoint of a small Qwen2 with random weights in float32 and a tied head."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


def drawn_rows(case: str, number: int, longest: int, seed: int) -> list[TrainRow]:
    """Rows of random tokens, prompts of a sixteenth of ``longest``, lengths by ``drawn_lengths``; both responses of a pair are
    drawn by themselves.
    """
    rng, kind = random.Random(seed), case.partition("-")[0]

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, VOCABULARY) for _ in range(count))

    num_prompt = longest // 16
    own = drawn_lengths(kind, number, longest, rng)
    rivals = drawn_lengths(kind, number, longest, rng) if case.endswith("dpo") else [num_prompt] * number
    rows = []
    for length, rival in zip(own, rivals, strict=True):
        prompt, response = tokens(num_prompt), tokens(max(length - num_prompt, 1))
        ones, none = (1.0,) * len(response), (False,) * len(response)
        rows.append(TrainRow(prompt, response, ones, 0.5, 1.0, 0.5, 2, none, tokens(rival - num_prompt)))
    return rows


def referenced(rows: Sequence[TrainRow], model: str, settings: TrainSettings, seed: int) -> list[TrainRow]:
    """The rows with the model's log-probs, each moved by a drawn 0.02 nats: at the reference itself every pair's loss is log 2,
    whatever a trainer computes.
    """
    from bcpg_cluster.stages.train.torch_trainer import TorchTrainer

    trainer, rng = TorchTrainer("cpu"), random.Random(seed)
    trainer.open(model, settings)
    found = trainer.reference_logprobs(rows)

    def moved(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(value + rng.gauss(0.0, 0.02) for value in values)

    return [
        replace(row, reference=ReferenceLogprobs(moved(found[index].response), moved(found[index].rival)))
        for index, row in enumerate(rows)
    ]


def rows_by_step(rows: Sequence[TrainRow], model: str, settings: TrainSettings, longest_first: bool) -> list[TrainRow]:
    """The rows in the order of our own steps, so that another trainer that takes them in turn has the same batches."""
    from bcpg_cluster.stages.train.step_plan import lay_out_training

    ordered: list[TrainRow] = []
    for step in lay_out_training(rows, settings, 1, model).steps:
        indices = sorted(row for rank in step.ranks for micro_batch in rank for row in micro_batch)
        if longest_first:
            indices.sort(key=lambda index: -max(sequence_lengths(rows[index])))
        ordered.extend(rows[index] for index in indices)
    return ordered


def sequence_lengths(row: TrainRow) -> list[int]:
    """Tokens of its sequences, prompt included."""
    responses = [row.token_ids, row.rival_token_ids] if row.rival_token_ids else [row.token_ids]
    return [len(row.prompt_token_ids) + len(response) for response in responses]


def trl_trainer(rows: Sequence[TrainRow], model: str, settings: TrainSettings, micro_rows: int, scratch: str) -> Any:
    """TRL's trainer for the objective, over rows that it takes in turn."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    is_dpo = isinstance(settings.objective, Dpo)
    rows_per_step = settings.batch_sequences // settings.objective.sequences_per_row
    shared: dict[str, Any] = {
        "output_dir": scratch,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": rows_per_step // micro_rows,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": settings.adam_betas[0],
        "adam_beta2": settings.adam_betas[1],
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.grad_clip,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
    }
    causal_lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if not is_dpo:
        columns = [
            {
                "input_ids": [*row.prompt_token_ids, *row.token_ids],
                "labels": [-100] * len(row.prompt_token_ids) + list(row.token_ids),
            }
            for row in rows
        ]
        return SFTTrainer(
            causal_lm, SFTConfig(**shared), train_dataset=Dataset.from_list(columns), processing_class=stand_in()
        )

    class GivenPairs(DPOTrainer):
        """Takes the rows as they are: tokens and reference log-probs are there."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    pairs = [
        {
            "prompt_ids": list(row.prompt_token_ids),
            "chosen_ids": list(row.token_ids),
            "rejected_ids": list(row.rival_token_ids),
            "ref_chosen_logps": sum(row.reference.response),
            "ref_rejected_logps": sum(row.reference.rival),
        }
        for row in rows
        if row.reference is not None
    ]
    config = DPOConfig(**shared, beta=settings.objective.beta, precompute_ref_log_probs=True)
    return GivenPairs(causal_lm, None, config, train_dataset=Dataset.from_list(pairs), processing_class=stand_in())


def stand_in() -> Any:
    """A tokenizer that TRL asks for and that has nothing to do: the rows are token ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = {"<pad>": 0, "<eos>": 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(names, "<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def steps_of_trl(trainer: Any) -> list[tuple[float, float]]:
    """Train; the logged loss and gradient norm of every step."""
    trainer.train()
    return [(entry["loss"], float(entry["grad_norm"])) for entry in trainer.state.log_history if "loss" in entry]


def most_rows(budget: int, rows: Sequence[TrainRow], rows_per_step: int) -> int:
    """Rows a micro-batch that fit into the budget if all were the longest, and that divide a step."""
    longest = max(max(sequence_lengths(row)) for row in rows)
    fits = max(budget // (longest * len(sequence_lengths(rows[0]))), 1)
    return max(size for size in range(1, rows_per_step + 1) if rows_per_step % size == 0 and size <= fits)


@dataclass(frozen=True, slots=True)
class Given:
    """What every side of a case is given."""

    model: str
    rows: tuple[TrainRow, ...]
    for_trl: tuple[TrainRow, ...]
    settings: TrainSettings
    micro_rows: int
    threads: int


def our_pass(trainer: Any, given: Given) -> Pass:
    """A pass of one of our trainers from fresh weights."""
    trainer.open(given.model, given.settings)
    return timed(lambda: [(report.loss, report.grad_norm) for report in trainer.train(given.rows, None)])


def trl_pass(given: Given, scratch: str) -> Pass:
    """A pass of TRL's trainer from fresh weights."""
    trainer = trl_trainer(given.for_trl, given.model, given.settings, given.micro_rows, scratch)
    return timed(lambda: steps_of_trl(trainer))


def serve(side: str, given: Given, asked: Any) -> None:
    """A side in a process of its own (DeepSpeed's process group would make TRL wrap its model for several ranks): a pass
    whenever it is asked for one.
    """
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        run: Callable[[], Pass]
        if side == "TRL":
            run = partial(trl_pass, given, scratch)
        elif side == "TorchTrainer":
            from bcpg_cluster.stages.train.torch_trainer import TorchTrainer

            run = partial(our_pass, TorchTrainer("cpu"), given)
        else:
            from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

            run = partial(our_pass, DeepSpeedRank(0, 1, "127.0.0.1", free_port()), given)
        while asked.recv():
            asked.send(run())


class Sides:
    """The sides' processes."""

    def __init__(self, sides: Sequence[str], given: Given) -> None:
        self._pipes: dict[str, Any] = {}
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(side, given, there))
            process.start()
            there.close()
            self._pipes[side] = here
            self._processes.append(process)

    def run(self, side: str, _pair: int = 0) -> Pass:
        """One pass of one side, while the others wait."""
        self._pipes[side].send(True)
        try:
            found: Pass = self._pipes[side].recv()
        except EOFError:
            raise SystemExit(f"{side} failed; its traceback is above") from None
        return found

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes.values():
            with suppress(OSError):
                pipe.send(False)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.terminate()


def given_for(case: str, model: str, options: Namespace) -> Given:
    """The case's rows and settings."""
    settings = TrainSettings(
        objective=Dpo(beta=BETA) if case.endswith("dpo") else Rft(),
        learning_rate=1e-5,
        min_learning_rate=1e-5,
        warmup_ratio=0.0,
        batch_sequences=options.batch,
        micro_batch_tokens=options.budget,
        early_stop_nats=0.0,
        seed=options.seed,
        zero_stage=options.zero_stage,
    )
    rows_per_step = settings.batch_sequences // settings.objective.sequences_per_row
    rows = drawn_rows(case, options.steps * rows_per_step, options.longest, options.seed)
    rows = referenced(rows, model, settings, options.seed)
    for_trl = rows_by_step(rows, model, settings, options.sort_for_trl)
    micro_rows = options.trl_rows or most_rows(options.budget, rows, rows_per_step)
    return Given(model, tuple(rows), tuple(for_trl), settings, micro_rows, options.threads)


def measure_case(case: str, model: str, options: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results and notes of one case."""
    given = given_for(case, model, options)
    names = (*options.ours, "TRL")
    sides = Sides(names, given)
    try:
        warm = {side: sides.run(side) for side in names}
        off = [max(of_sides) for of_sides in zip(*(warm[side].off(warm["TRL"]) for side in options.ours), strict=True)]
        if any(found > allowed for found, allowed in zip(off, TOLERANCES, strict=True)):
            raise SystemExit(f"{case}: losses and norms differ by {off} of themselves: {warm}")
        passes = interleave_all({side: partial(sides.run, side) for side in names}, options.repeats)
    finally:
        sides.close()
    lengths = [length for row in given.rows for length in sequence_lengths(row)]
    results: dict[str, Any] = {}
    for kind, seconds_of in (("CPU s", "cpu_s"), ("s", "wall_s")):
        seconds = {side: [getattr(found, seconds_of) for found in of] for side, of in passes.items()}
        for side in names:
            results[f"{case}: {side}, tokens/{kind}"] = summarise([sum(lengths) / s for s in seconds[side]])
        for side in options.ours:
            results[f"{case}: TRL over {side}, {kind}"] = ratios(seconds["TRL"], seconds[side])
    return results, {
        case: f"{len(given.rows)} rows, {sum(lengths)} tokens, sequences of {min(lengths)}..{max(lengths)}, median "
        f"{statistics.median(lengths):g}; TRL: {given.micro_rows} rows a micro-batch; loss and gradient norm by step "
        f"{', '.join(f'{loss:.5f} {norm:.5f}' for loss, norm in warm['TRL'].steps)}, "
        f"at most {off[0]:.1e} and {off[1]:.1e} of themselves apart"
    }


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--case", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--ours", nargs="+", default=OURS, choices=OURS, help="sides beside TRL (default: both)")
    parser.add_argument("--budget", type=int, default=1024, help="most tokens at a time, padding included")
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest sequence")
    parser.add_argument("--batch", type=int, default=64, help="responses an optimiser step")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--trl-rows", type=int, help="rows of TRL's micro-batches (default: as many as fit)")
    parser.add_argument("--sort-for-trl", action="store_true", help="hand TRL each step's rows longest first")
    options = parser.parse_args()
    started = facts()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(Path(scratch, "model"))
        for case in options.case:
            found, note = measure_case(case, model, options)
            results |= found
            notes |= note
    shown = ("budget", "longest", "batch", "steps", "threads", "zero_stage", "sort_for_trl", "seed")
    finish(
        "the trainers against TRL's, on the same rows in the same steps",
        results,
        settings={**{name: getattr(options, name) for name in shown}, **notes},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
