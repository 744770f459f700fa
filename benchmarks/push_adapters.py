"""Seconds and bytes of a push of whole weights against a push of adapters alone, of one LoRA policy into one live vLLM engine.

Both pushes are what a run does once the group has met: the torch trainer's ``push_weights`` in a process of its own,
``receive_weights`` or ``receive_adapters`` here (digests of what arrived, vLLM's layer-wise reload, prefix cache reset). An engine
merges adapters into the checkpoint it began with, so it reads that again; the more rounds it has merged since, the more it adds
up: the last of some pushes without a reload between them says how much that is. Log-probs of both ways are compared.

    python benchmarks/push_adapters.py [--json FILE] [--megabytes 100] [--rank 16] [--repeats 5] [--rounds 8]
"""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, free_port, interleave, ratios, summarise
from push_seconds import make_model

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.stages.push.adapters.versions import BASE_WEIGHTS, AdapterPush
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec

PROBE = [(tuple(range(3, 20)) * 2, tuple(range(4, 22)) * 3)]  # tokens of the embedded policy, which has 23
ALPHA = 32.0


def train_on_command(model: str, rank: int, pipe: Any) -> None:
    """The trainer's process: holds base weights and adapters, sends what it is told to."""
    import torch

    from bcpg_cluster.stages.train.objective import Bcpg
    from bcpg_cluster.stages.train.protocol import LoraSettings, TrainSettings
    from bcpg_cluster.stages.train.torch_trainer import TorchTrainer

    trainer = TorchTrainer("cpu")
    trainer.open(model, TrainSettings(Bcpg(), 1e-4, 1e-5, lora=LoraSettings(rank, ALPHA)))
    random = torch.Generator().manual_seed(0)
    for adapter in trainer._opened().adapters.values():
        adapter.up.data.normal_(std=0.01, generator=random)
    pipe.send({carried: trainer.push_specs(carried) for carried in ("weights", "adapters")})
    pipe.send(trainer.adapter_digests())
    while True:
        command, argument = pipe.recv()
        if command == "join":
            trainer.join_push_group(argument)
        elif command == "push":
            trainer.push_weights(argument)
        else:
            trainer.close()
            return


def num_bytes(specs: list[TensorSpec]) -> int:
    """On the wire, in float32."""
    return 4 * sum(math.prod(spec.shape) for spec in specs)


def measure(model: str, engine_args: dict[str, Any], rank: int, repeats: int, num_rounds: int) -> dict[str, Any]:
    """Seconds of both ways, interleaved; of a push after others; megabytes; and how far log-probs are apart."""
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    here, there = multiprocessing.get_context("spawn").Pipe()
    trainer = multiprocessing.get_context("spawn").Process(
        target=train_on_command, args=(model, rank, there), daemon=True
    )
    trainer.start()
    engine = VllmGenerator(model, engine_args=engine_args, weight_transfer_backend="gloo")
    specs, digests = here.recv(), here.recv()
    group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
    here.send(("join", group))
    engine.join_push_group(group, rank=1)

    cpu_s: dict[str, list[float]] = {"weights": [], "adapters": []}

    def push(carried: str, receive: Callable[[], object]) -> float:
        begin, cpu = time.perf_counter(), time.process_time()
        here.send(("push", carried))
        receive()
        cpu_s[carried].append(time.process_time() - cpu)
        return time.perf_counter() - begin

    def whole(number: int) -> float:
        return push("weights", lambda: engine.receive_weights(specs["weights"], number + 2))

    def adapters(number: int, start: str = BASE_WEIGHTS) -> float:
        if start == BASE_WEIGHTS:
            engine.load_snapshot(model, number + 2)  # not timed: every push merges one round into the base
        what = AdapterPush(digests, ALPHA / rank, start, "after")
        return push("adapters", lambda: engine.receive_adapters(specs["adapters"], what, number + 2))

    whole(-1)
    of_whole = engine.score_tokens(PROBE)[0]
    adapters(-1)
    of_adapters = engine.score_tokens(PROBE)[0]
    difference = max(abs(a - b) for a, b in zip(of_whole, of_adapters, strict=True))
    cpu_s = {"weights": [], "adapters": []}
    whole_s, adapters_s = interleave(whole, adapters, repeats)
    cpu = {carried: [*seconds] for carried, seconds in cpu_s.items()}
    adapters(0)
    later = [adapters(round_, "after") for round_ in range(1, num_rounds)]
    here.send(("stop", None))
    trainer.join(30)
    engine.leave_push_group()
    engine.close()
    return {
        "whole weights, s": summarise(whole_s),
        "adapters alone, s": summarise(adapters_s),
        "ratio adapters / whole": ratios(adapters_s, whole_s),
        "whole weights, CPU s of the engine's process": summarise(cpu["weights"]),
        "adapters alone, CPU s of the engine's process": summarise(cpu["adapters"]),
        f"adapters, round {num_rounds} since the engine read a checkpoint, s": summarise(later[-1:]),
        "whole weights, MiB on the wire": summarise([num_bytes(specs["weights"]) / 2**20]),
        "adapters alone, MiB on the wire": summarise([num_bytes(specs["adapters"]) / 2**20]),
        "largest difference of log-probs, nats": summarise([difference]),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of the random model")
    parser.add_argument("--hidden", type=int, default=512, help="its hidden size")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8, help="pushed one after the other without a reload")
    options = parser.parse_args()
    started = facts()
    config = load_config(options.config)
    from bcpg_cluster.stages.generate.vllm_options import engine_environment

    rollout = config.pool(ROLLOUT_POOL)
    engine = engine_environment(config.engine_args(ROLLOUT_POOL), rollout.num_gpus)
    environment = {**engine, "VLLM_LOGGING_LEVEL": "WARNING", **rollout.env}
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), options.megabytes, options.hidden, resolve_asset(config.policy.model))
        results = measure(model, config.policy.engine_args, options.rank, options.repeats, options.rounds)
    finish(
        "a push of whole weights against one of adapters alone",
        results,
        settings={"config": config.name, "rank": options.rank, "receivers": 1, "environment": environment},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
