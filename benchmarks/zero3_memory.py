"""Peak memory of a ZeRO-3 rank at load, snapshot and push: one weight at a time against the whole model at once.

Two ranks on CPUs over gloo, each a process of its own, open a model with random weights of Qwen2.5-0.5B's shape (or a tiny one),
write a snapshot and send all weights to nobody. One side is the trainer's own code. The other is what a trainer does without it:
every rank reads the whole checkpoint with transformers and ZeRO-3 cuts it up afterwards, and rank 0 keeps what is gathered until
the file is written by safetensors. (A push gathers one weight at a time on both sides.)

A figure is the peak of a rank's resident memory during the phase less what the process held before the load, the larger one of both
ranks. Resident memory has the pages of files that are mapped, which the machine can take back.

    python benchmarks/zero3_memory.py [--json FILE] [--shape 0.5b] [--repeats 3] [--engine]

Without ``--engine`` no optimiser is built, which has the same size on both sides and is the largest part of a training rank: at
0.5b, with the model in float32, some 5 GB on each rank.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measure import argument_parser, facts, finish, free_port, interleave_all, ratios, summarise

SIDES = ("one at a time", "whole")
PHASES = ("load", "snapshot", "push")
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 320},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151_936},
}


def make_model(shape: str, seed: int, path: Path) -> None:
    """A checkpoint directory with random weights, written one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from bcpg_cluster.stages.push.weight_file import write_weight_file
    from bcpg_cluster.stages.push.wire import specs_of

    heads = {"num_attention_heads": 14, "num_key_value_heads": 2} if shape == "0.5b" else {"num_attention_heads": 2}
    config = Qwen2Config(**SHAPES[shape], **heads, tie_word_embeddings=True)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(path)
    with torch.device("meta"):
        specs = specs_of(AutoModelForCausalLM.from_config(config).named_parameters(), "float32")
    draw = torch.Generator().manual_seed(seed)
    write_weight_file(
        path / "model.safetensors", specs, (torch.randn(spec.shape, generator=draw) * 0.02 for spec in specs)
    )


def run_rank(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One rank in this process: peak MiB above the start, and seconds, of every phase."""
    import deepspeed
    import torch

    from bcpg_cluster.stages.push.wire import wire_digest
    from bcpg_cluster.stages.train.deepspeed import partitioned
    from bcpg_cluster.stages.train.deepspeed.config import deepspeed_config
    from bcpg_cluster.stages.train.deepspeed.gathered import GatheredWeights
    from bcpg_cluster.stages.train.deepspeed.trainer import DeepSpeedRank
    from bcpg_cluster.stages.train.objective import Bcpg
    from bcpg_cluster.stages.train.protocol import TrainSettings

    torch.set_num_threads(1)
    settings = TrainSettings(objective=Bcpg(), learning_rate=1e-6, min_learning_rate=1e-6, zero_stage=3)
    trainer = DeepSpeedRank(options.rank, 2, "127.0.0.1", options.port)
    group, is_whole = trainer._group, options.side == "whole"
    group.join()
    before_mib = memory_mib("VmRSS")
    found: dict[str, dict[str, float]] = {}

    def measured(phase: str, work: Callable[[], Any]) -> Any:
        group.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begin = time.perf_counter()
        result = work()
        found[phase] = {"s": time.perf_counter() - begin, "MiB": memory_mib("VmHWM") - before_mib}
        return result

    def load() -> GatheredWeights:
        if options.engine:
            trainer.open(options.model, settings)
            return trainer._weights
        policy = partitioned.load_rank_policy(options.model, settings, group, trainer.progress)
        if is_whole:
            deepspeed.zero.Init(module=policy, config_dict_or_path=deepspeed_config(settings))
        return GatheredWeights(policy, options.model, settings, group, trainer.progress)

    with patch.object(
        partitioned, "empty_model", **({"return_value": None} if is_whole else {"wraps": partitioned.empty_model})
    ):
        weights = measured("load", load)
    place = Path(options.model).parent / f"snapshot-{options.port}"
    measured("snapshot", lambda: write(weights, options, place))

    def push() -> None:
        with weights.each() as tensors:
            for _, tensor in tensors if options.rank == 0 else ():
                wire_digest(tensor)

    measured("push", push)
    return found


def write(weights: Any, options: argparse.Namespace, place: Path) -> None:
    """A snapshot on rank 0, in the way of the side."""
    from safetensors.torch import save_file

    from bcpg_cluster.stages.push.snapshot import write_snapshot

    with weights.each() as tensors:
        if options.rank:
            return
        if options.side == "whole":
            place.mkdir()
            save_file({name: tensor.clone() for name, tensor in tensors}, place / "model.safetensors")
        else:
            write_snapshot(str(place), options.model, weights.specs("weights", "float32"), tensors)


def memory_mib(key: str) -> float:
    """Of this process (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 1024


def measure_side(side: str, model: Path) -> dict[str, dict[str, float]]:
    """:func:`run_rank` in two processes, with this one's arguments: of every phase the larger figure of both."""
    port = free_port()
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--model", str(model), "--port", str(port)]
    ranks = [subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    told = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank failed")
    remove(model.parent / f"snapshot-{port}")
    of_ranks = [json.loads(text.splitlines()[-1]) for text in told]
    return {phase: {key: max(rank[phase][key] for rank in of_ranks) for key in ("MiB", "s")} for phase in PHASES}


def remove(directory: Path) -> None:
    """A snapshot, which would fill the disk after a few."""
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def table(measured: dict[str, list[dict[str, dict[str, float]]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row a figure."""
    for phase in PHASES:
        # A snapshot of ours is digested and brought to disk, the other one only written: its seconds would say nothing.
        keys = {"MiB": "peak memory of a rank, MiB"} | ({"s": "s"} if phase == "load" else {})
        for key, what in keys.items():
            ours, theirs = ([run[phase][key] for run in measured[side]] for side in SIDES)
            yield f"{phase}, {SIDES[0]}: {what}", summarise(ours)
            yield f"{phase}, {SIDES[1]}: {what}", summarise(theirs)
            yield f"{phase}, {key}, {SIDES[0]} / {SIDES[1]}", ratios(ours, theirs)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b", help="of the model (default: %(default)s)")
    parser.add_argument("--engine", action="store_true", help="build DeepSpeed's engine and optimiser too")
    for name in ("--side", "--model"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--port", "--rank"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.side:
        print(json.dumps(run_rank(options)))
        return
    started = facts()
    with tempfile.TemporaryDirectory(prefix="zero3-memory-") as directory:
        model = Path(directory, "model")
        make_model(options.shape, options.seed, model)
        num_mib = (model / "model.safetensors").stat().st_size / 2**20
        measured = interleave_all(
            {side: lambda _, side=side: measure_side(side, model) for side in SIDES}, options.repeats
        )
    settings = {"shape": options.shape, "checkpoint, MiB": round(num_mib), "dtype": "float32", "ranks": 2}
    finish(
        "memory of a ZeRO-3 rank, and seconds of its load, one weight at a time against the whole model",
        dict(table(measured)),
        settings=settings | {"engine": options.engine, "threads": 1, "seed": options.seed},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
