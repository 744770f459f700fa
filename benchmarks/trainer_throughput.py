"""Tokens/s of the trainer against a bare DeepSpeed loop on the same rows: do the step plan and the token budget pay?

Ours is ``DeepSpeedRank.train``: rows sorted by length, micro-batches by token budget, log-probs in vocabulary chunks and only
where a response token is predicted. The bare loop is what ``deepspeed.initialize`` invites to: rows in the given order, logits of
every position, the same objective (bcpg), optimiser and ZeRO stage. ``--bare padded`` has a fixed number of rows per micro-batch,
as many as fit into the same budget if all were as long as the longest; ``--bare packed`` fills the budget with rows one after the
other, with positions that restart, and has no padding (without flash attention its attention computes every pair of tokens in
the line). ``--packing packed`` packs ours, too. Both start from the same weights each time; opening the engine and the reference
pass are not timed. Tokens are those of the rows, prompt and response, without padding.

    python benchmarks/trainer_throughput.py [--json FILE] [--ranks 1 2] [--rows 512] [--lengths chains|equal|mixed|tail]
        [--bare padded packed] [--run-dir RUN --round 1]

Without ``--run-dir`` the rows are right and spoiled solutions of drawn chains, all about as long, or random tokens of lengths as
``drawn_lengths`` has them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from drawn_lengths import LENGTHS, drawn_lengths
from measure import argument_parser, facts, finish, free_port, interleave, ratios, summarise

from bcpg_cluster.assets.chain.task import draw_chain
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.run.build.settings import train_settings
from bcpg_cluster.stages.train.protocol import TrainRow, TrainSettings
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import weighted_from
from bcpg_cluster.store.shards import read_table


def rows_of_run(run_dir: Path, round_: int, number: int) -> list[TrainRow]:
    """Rows that a run trained on."""
    table = weighted_from(read_table(run_dir, read_manifest(run_dir).receipts(round_, "weighted")))
    return [
        TrainRow(
            r.prompt_token_ids,
            r.token_ids,
            r.token_weights,
            r.advantage,
            r.reward,
            r.group_mean,
            r.group_size,
            r.mined,
        )
        for r in table[:number]
    ]


def drawn_rows(model: str, number: int, seed: int) -> list[TrainRow]:
    """Solutions of chains of 2 to 8 operations, every other one with a digit changed, in the policy's own tokens."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    rng = random.Random(seed)
    rows = []
    for index in range(number):
        chain = draw_chain(rng, 2, 8)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": chain.question}], add_generation_prompt=True, return_dict=False
        )
        response = tokenizer(chain.solution, add_special_tokens=False)["input_ids"]
        reward = float(index % 2 == 0)
        if not reward:
            response = [*response[:-1], rng.choice(response)]
        size = len(response)
        rows.append(
            TrainRow(tuple(prompt), tuple(response), (1.0,) * size, reward - 0.5, reward, 0.5, 2, mined=(False,) * size)
        )
    return rows


def random_rows(model: str, kind: str, number: int, longest: int, seed: int) -> list[TrainRow]:
    """Rows of random tokens, prompts of a sixteenth of ``longest``, every other one right."""
    from transformers import AutoConfig

    rng, num_prompt = random.Random(seed), longest // 16
    vocabulary = AutoConfig.from_pretrained(model).vocab_size
    rows = []
    for index, length in enumerate(drawn_lengths(kind, number, longest, rng)):
        tokens = tuple(rng.randrange(1, vocabulary) for _ in range(length))
        size, reward = length - num_prompt, float(index % 2 == 0)
        rows.append(
            TrainRow(
                tokens[:num_prompt],
                tokens[num_prompt:],
                (1.0,) * size,
                reward - 0.5,
                reward,
                0.5,
                2,
                mined=(False,) * size,
            )
        )
    return rows


class BareLoop:
    """A plain DeepSpeed training loop over batches of rows in the given order, padded or packed."""

    def __init__(
        self, model: str, settings: TrainSettings, rows: list[TrainRow], rank: int, world_size: int, packing: str
    ) -> None:
        self._model_path, self._settings = model, settings
        self._rank, self._world_size, self._packing = rank, world_size, packing
        longest = max(len(row.prompt_token_ids) + len(row.token_ids) for row in rows)
        share = settings.batch_sequences // world_size
        fits = max(settings.micro_batch_tokens // longest, 1)
        self.micro_rows = max(size for size in range(1, share + 1) if share % size == 0 and size <= fits)
        self._rows = rows
        self._engine: Any = None

    def open(self) -> None:
        """Fresh weights and optimiser."""
        import deepspeed
        import torch
        from transformers import AutoModelForCausalLM

        if self._engine is not None:
            self._engine.destroy()
        model: Any = AutoModelForCausalLM.from_pretrained(self._model_path, dtype=torch.float32)
        model.train()
        settings = self._settings
        adam = {
            "lr": settings.learning_rate,
            "betas": list(settings.adam_betas),
            "weight_decay": 0.0,
            "torch_adam": True,
        }
        self._engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=list(model.parameters()),
            config={
                "train_batch_size": settings.batch_sequences,
                "train_micro_batch_size_per_gpu": self.micro_rows,
                "gradient_clipping": settings.grad_clip,
                "optimizer": {"type": "AdamW", "params": adam},
                "zero_optimization": {"stage": settings.zero_stage},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
            dist_init_required=False,
        )

    def epoch(self) -> list[float]:
        """One pass over the rows; the mean loss of every optimiser step on this rank."""
        losses = []
        per_step = self._settings.batch_sequences
        for start in range(0, len(self._rows), per_step):
            shares = [
                self._rows[start : start + per_step][rank :: self._world_size] for rank in range(self._world_size)
            ]
            batches = [self._micro_batches(share) for share in shares]
            share, mine, number = shares[self._rank], batches[self._rank], max(map(len, batches))
            total = 0.0
            for index in range(number):
                # Every rank makes as many forwards; one that has no rows left gets nothing out of its last.
                rows = mine[index] if index < len(mine) else mine[-1]
                loss = self._loss(rows) / len(share) * (index < len(mine))
                self._engine.set_gradient_accumulation_boundary(index == number - 1)
                self._engine.backward(loss, scale_wrt_gas=False)
                self._engine.step()
                total += float(loss.detach())
            losses.append(total)
        return losses

    def _micro_batches(self, share: list[TrainRow]) -> list[list[TrainRow]]:
        if self._packing == "padded":
            return [share[first : first + self.micro_rows] for first in range(0, len(share), self.micro_rows)]
        batches: list[list[TrainRow]] = []
        held = self._settings.micro_batch_tokens
        for row in share:
            tokens = len(row.prompt_token_ids) + len(row.token_ids)
            if held + tokens > self._settings.micro_batch_tokens:
                batches.append([])
                held = 0
            batches[-1].append(row)
            held += tokens
        return batches

    def _loss(self, rows: list[TrainRow]) -> Any:
        """The sum of the rows' losses."""
        from bcpg_cluster.stages.train.objectives import objective_loss

        batch = self._padded(rows) if self._packing == "padded" else self._packed(rows)
        return objective_loss(batch, self._settings.objective).loss.sum()

    def _packed(self, rows: list[TrainRow]) -> Any:
        """One line; its response tokens come back as a rectangle, which is what the objective takes."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        lengths = [len(row.prompt_token_ids) + len(row.token_ids) for row in rows]
        ids = torch.tensor([token for row in rows for token in (*row.prompt_token_ids, *row.token_ids)])[None]
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        logits = self._engine(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()  # [S, V]
        found = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)  # [S - 1]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        own = [found[end - 1 - len(row.token_ids) : end - 1] for end, row in zip(ends, rows, strict=True)]

        def rectangle(values: list[Any]) -> Any:
            return pad_sequence([torch.as_tensor(value, dtype=torch.float32) for value in values], batch_first=True)

        return self._batch(rows, pad_sequence(own, batch_first=True), rectangle)

    def _batch(self, rows: list[TrainRow], logprobs: Any, rectangle: Any) -> Any:
        """What the objective takes; ``rectangle`` lays one value a response token out as ``logprobs`` are."""
        import torch

        from bcpg_cluster.stages.train.objectives.batch import LossBatch

        return LossBatch(
            logprobs=logprobs,
            reference=rectangle([row.reference.response for row in rows if row.reference is not None]),
            mask=rectangle([(1.0,) * len(row.token_ids) for row in rows]).bool(),
            token_weights=rectangle([row.token_weights for row in rows]),
            advantage=torch.tensor([row.advantage for row in rows]),
            reward=torch.tensor([row.reward for row in rows]),
            group_mean=torch.tensor([row.group_mean for row in rows]),
        )

    def _padded(self, rows: list[TrainRow]) -> Any:
        import torch
        from torch.nn.functional import pad

        longest = max(len(row.prompt_token_ids) + len(row.token_ids) for row in rows)

        def padded(values: tuple[Any, ...], before: int, dtype: Any) -> Any:
            return pad(torch.tensor(values, dtype=dtype), (before, longest - before - len(values)))

        ids = torch.stack([padded(row.prompt_token_ids + row.token_ids, 0, torch.long) for row in rows])  # [B, S]
        is_real = torch.stack(
            [padded((1,) * (len(row.prompt_token_ids) + len(row.token_ids)), 0, torch.long) for row in rows]
        )

        def responses(values: list[tuple[float, ...]]) -> Any:
            """[B, S-1]: one value per response token, where the logits that predict it are."""
            prompts = [len(row.prompt_token_ids) for row in rows]
            padded_values = [padded(v, at, torch.float32) for v, at in zip(values, prompts, strict=True)]
            return torch.stack(padded_values)[:, 1:]

        logits = self._engine(input_ids=ids, attention_mask=is_real).logits[:, :-1].float()  # [B, S-1, V]
        return self._batch(rows, logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2), responses)


def run_rank(rank: int, world_size: int, port: int, given: dict[str, Any], answers: Any) -> None:
    """One rank of both sides; rank 0 sends what was measured."""
    from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank

    model, rows, settings = given["model"], given["rows"], given["settings"]
    trainer = DeepSpeedRank(rank, world_size, "127.0.0.1", port)
    trainer.open(model, settings)
    import torch

    mine = trainer.reference_logprobs(rows)
    shares: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(shares, mine)
    reference = {index: values for share in shares for index, values in share.items()}
    rows = [replace(row, reference=reference[index]) for index, row in enumerate(rows)]
    tokens = sum(len(row.prompt_token_ids) + len(row.token_ids) for row in rows)
    bare = BareLoop(model, settings, rows, rank, world_size, given["bare"])
    losses: dict[str, list[float]] = {}

    def timed(run: Any) -> float:
        torch.distributed.barrier()
        begin = time.perf_counter()
        run()
        torch.distributed.barrier()
        return tokens / (time.perf_counter() - begin)

    def ours(pair: int) -> float:
        trainer.open(model, settings)
        return timed(lambda: losses.update(ours=[report.loss for report in trainer.train(rows, None)]))

    def plain(pair: int) -> float:
        bare.open()
        return timed(lambda: losses.update(bare=bare.epoch()))

    ours(-1)
    plain(-1)
    measured = interleave(ours, plain, given["repeats"])
    # DeepSpeedRank reports the loss over all ranks, the bare loop that of its own rows.
    of_ranks: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(of_ranks, losses["bare"])
    means = {
        "ours": statistics.fmean(losses["ours"]),
        "bare": statistics.fmean(loss for of_rank in of_ranks for loss in of_rank),
    }
    if rank == 0:
        answers.put((*measured, bare.micro_rows, means))
    torch.distributed.barrier()
    trainer.close()


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--lengths", choices=("chains", *LENGTHS), default="chains")
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest row of random tokens")
    parser.add_argument("--bare", nargs="+", choices=("padded", "packed"), default=["padded"])
    parser.add_argument("--packing", choices=("padded", "packed"), default="padded", help="of ours")
    parser.add_argument("--budget", type=int, help="tokens of a micro-batch (default: the config's)")
    parser.add_argument("--run-dir", type=Path, help="train on the rows of this run instead of drawn ones")
    parser.add_argument("--round", type=int, default=1)
    options = parser.parse_args()
    started = facts()
    overrides = ["objective.name=bcpg", "train.checkpoint_every_steps=0", "train.epochs=1", "train.early_stop_nats=0"]
    overrides += [f"train.packing={options.packing}", f"seed={options.seed}"]
    overrides += [f"train.micro_batch_tokens={options.budget}"] if options.budget else []
    config = load_config(options.config, overrides)
    settings, model = train_settings(config, 1), resolve_asset(config.policy.model)
    if options.run_dir is not None:
        rows = rows_of_run(options.run_dir, options.round, options.rows)
    elif options.lengths != "chains":
        rows = random_rows(model, options.lengths, options.rows, options.longest, options.seed)
    else:
        rows = drawn_rows(model, options.rows, options.seed)
    rows = rows[: len(rows) // settings.batch_sequences * settings.batch_sequences]  # whole steps on both sides
    if not rows:
        parser.error(f"--rows must be at least train.batch_sequences ({settings.batch_sequences})")
    os.environ.update(config.pool("trainer").env)  # threads of a rank, as in a run
    context = multiprocessing.get_context("spawn")
    results: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for world_size in options.ranks:
        for packing in options.bare:
            given = {"model": model, "rows": rows, "settings": settings, "repeats": options.repeats, "bare": packing}
            answers: Any = context.SimpleQueue()
            port = free_port()
            ranks = [
                context.Process(target=run_rank, args=(r, world_size, port, given, answers)) for r in range(world_size)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
            if any(process.exitcode for process in ranks):
                raise SystemExit("a rank failed; its traceback is above")
            ours, bare, micro_rows, losses = answers.get()
            name = f"{world_size} rank{'s' if world_size > 1 else ''}, bare {packing}"
            results[f"{name}: DeepSpeedRank, tokens/s"] = summarise(ours)
            results[f"{name}: bare loop, tokens/s"] = summarise(bare)
            results[f"{name}: ratio"] = ratios(ours, bare)
            rows_each = f"{micro_rows} rows" if packing == "padded" else "filled"
            notes[name] = (
                f"bare micro-batch {rows_each}; mean loss of the epoch {losses['ours']:.4f}, bare {losses['bare']:.4f}"
            )
    lengths = [len(row.prompt_token_ids) + len(row.token_ids) for row in rows]
    finish(
        "tokens/s of the trainer against a bare DeepSpeed loop on the same rows",
        results,
        settings={
            "config": config.name,
            "rows": f"{len(rows)} ({sum(lengths)} tokens; lengths {min(lengths)}..{max(lengths)}, "
            f"median {statistics.median(lengths):g}) from {options.run_dir or options.lengths}",
            "train": json.dumps(
                {k: getattr(settings, k) for k in ("batch_sequences", "micro_batch_tokens", "zero_stage", "packing")}
            ),
            **notes,
            "environment": config.pool("trainer").env,
            "seed": options.seed,
        },
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
