"""Seconds of one weight push against a raw gloo broadcast of the same bytes, and against the least that a proven push must do.

The push is what a run does once the group has met: ``WeightSender.send`` in the trainer's process, ``receive_weights`` in a live
vLLM engine here (digests of every parameter, vLLM's layer-wise reload, prefix cache reset). Its references, all of the same bytes
and in the same run:

- raw: one flat tensor from the one process to the other, into memory that is there, and nothing else;
- reload: the engine takes the parameters from its own memory, by the same reload, and digests nothing;
- digest: the wire digest of every parameter, once.

The floor is their sum: what a push costs that does these one after the other and nothing else. A push that overlaps them may stay
below it where there are cores for it. CPU seconds are those of both processes. Measured for the embedded policy and for a random
model of some size, since at a few megabytes only fixed costs show.

    python benchmarks/push_seconds.py [--json FILE] [--megabytes 200] [--dtype float32] [--repeats 5]
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, free_port, ratios, summarise

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall seconds, and CPU seconds of all threads of both processes."""

    wall_s: float
    cpu_s: float


def make_model(folder: Path, megabytes: float, hidden: int, tokenizer_of: str) -> str:
    """A random Qwen2 model of about ``megabytes`` in float32, with the embedded policy's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_of)
    per_layer = (
        2 * hidden * hidden + 2 * hidden * hidden // 4 + 3 * hidden * 4 * hidden
    )  # attention, key and value, MLP
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=max(round(megabytes * 2**20 / 4 / per_layer), 1),
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def send_on_command(model: str, dtype: str, pipe: Any) -> None:
    """The trainer's process: holds the weights in float32, sends when told to, and answers with the CPU seconds that took."""
    import torch
    from transformers import AutoModelForCausalLM
    from vllm.distributed.utils import stateless_init_torch_distributed_process_group

    from bcpg_cluster.stages.push.vllm_sender import WeightSender
    from bcpg_cluster.stages.push.wire import as_sent, sent_dtype

    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tensors = [
        (TensorSpec(name, sent_dtype(dtype, tensor.shape), tuple(tensor.shape)), tensor.detach())
        for name, tensor in policy.named_parameters()
    ]
    flat = torch.cat([as_sent(tensor, dtype).reshape(-1).view(torch.uint8) for _, tensor in tensors])
    pipe.send([spec for spec, _ in tensors])
    sender, raw = WeightSender(), None
    while True:
        command, *arguments = pipe.recv()
        begin = time.process_time()
        if command == "join":
            sender.join(arguments[0])
        elif command == "join raw":
            raw = stateless_init_torch_distributed_process_group("127.0.0.1", arguments[0], 0, 2, backend="gloo")
        elif command == "push":
            sender.send(iter(tensors))
        elif command == "raw":
            broadcast(raw, flat)
        elif command == "stop":
            sender.leave()
            return
        pipe.send(time.process_time() - begin)


def broadcast(group: Any, flat: Any) -> None:
    """One flat tensor from rank 0."""
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    group.broadcast([flat], options).wait()


def reload(worker: Any, tensors: list[tuple[str, Any]]) -> None:
    """In vLLM's worker: take parameters from this process's memory, as a push puts them in force."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    from bcpg_cluster.stages.push.vllm_reload import finish_reload

    model = worker.model_runner.get_model()
    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(model)
        model.load_weights(iter(tensors))
        finish_reload(model, worker.vllm_config.model_config)


class Bench:
    """A trainer's process and an engine, joined twice: for pushes, and for raw broadcasts."""

    def __init__(self, model: str, engine_args: dict[str, Any], dtype: str) -> None:
        import torch
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator
        from bcpg_cluster.stages.push.buckets import spec_bytes, unpack

        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._trainer = context.Process(target=send_on_command, args=(model, dtype, there), daemon=True)
        self._trainer.start()
        arguments = {**engine_args, "dtype": dtype}
        self._engine = VllmGenerator(model, engine_args=arguments, weight_transfer_backend="gloo")
        self._specs: list[TensorSpec] = self._pipe.recv()
        group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
        self.join_s = self._both("join", group, here=lambda: self._engine.join_push_group(group, rank=1)).wall_s
        port = free_port()
        self._pipe.send(("join raw", port))
        with ThreadPoolExecutor(1) as thread:
            self._raw = thread.submit(
                stateless_init_torch_distributed_process_group, "127.0.0.1", port, 1, 2, backend="gloo"
            ).result()
        self._pipe.recv()
        self.num_bytes = sum(
            torch.Size(spec.shape).numel() * getattr(torch, spec.dtype).itemsize for spec in self._specs
        )
        self._received = torch.empty(self.num_bytes, dtype=torch.uint8)
        memory = torch.empty(sum(map(spec_bytes, self._specs)), dtype=torch.uint8).zero_()
        self._tensors = list(unpack(memory, self._specs))  # of zeros, which are loaded and digested as fast as others
        self._version = 1

    def _both(self, *command: Any, here: Callable[[], object]) -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        self._pipe.send(command)
        here()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Cost(wall, cpu + self._pipe.recv())

    def push(self) -> Cost:
        self._version += 1
        return self._both("push", here=lambda: self._engine.receive_weights(self._specs, self._version))

    def raw(self) -> Cost:
        return self._both("raw", here=lambda: broadcast(self._raw, self._received))

    def reload(self) -> Cost:
        def replace_weights(llm: Any) -> None:
            llm.collective_rpc(reload, args=(self._tensors,))
            llm.reset_prefix_cache()

        wall, cpu = time.perf_counter(), time.process_time()
        self._engine._loop.between_steps(replace_weights)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    def digest(self) -> Cost:
        from bcpg_cluster.stages.push.wire import wire_digest

        wall, cpu = time.perf_counter(), time.process_time()
        for _, tensor in self._tensors:
            wire_digest(tensor)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    def close(self) -> None:
        self._pipe.send(("stop",))
        self._trainer.join(30)
        self._engine.leave_push_group()
        self._engine.close()


def measure_model(bench: Bench, repeats: int) -> dict[str, list[Cost]]:
    """What each costs, by name; every repeat does all of them, one after the other, in changing order."""
    sides = {"push": bench.push, "raw broadcast": bench.raw, "reload": bench.reload, "digest": bench.digest}
    for side in sides.values():
        side()
    found: dict[str, list[Cost]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in sorted(sides, reverse=repeat % 2 == 1):
            found[name].append(sides[name]())
    parts = zip(found["raw broadcast"], found["reload"], found["digest"], strict=True)
    found["floor"] = [Cost(sum(part.wall_s for part in of), sum(part.cpu_s for part in of)) for of in parts]
    return found


def rows(name: str, costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Summaries of wall and CPU seconds, and what the push costs in terms of its references."""
    found = {}
    for unit, of in (("s", lambda cost: cost.wall_s), ("CPU s", lambda cost: cost.cpu_s)):
        seconds = {side: [of(cost) for cost in found_of] for side, found_of in costs.items()}
        found |= {f"{name}: {side}, {unit}": summarise(values) for side, values in seconds.items()}
        for reference in ("raw broadcast", "floor"):
            found[f"{name}: ratio push / {reference}, {unit}"] = ratios(seconds["push"], seconds[reference])
    return found


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--megabytes", type=float, default=200.0, help="of the random model; 0 leaves it out")
    parser.add_argument("--hidden", type=int, default=512, help="its width (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="of the engine, and so on the wire (default: %(default)s)")
    options = parser.parse_args()
    started = facts()
    config = load_config(options.config)
    from bcpg_cluster.stages.generate.vllm_options import engine_environment

    rollout = config.pool(ROLLOUT_POOL)
    engine = engine_environment(config.engine_args(ROLLOUT_POOL), rollout.num_gpus)
    environment = {**engine, "VLLM_LOGGING_LEVEL": "ERROR", **rollout.env}
    os.environ.update(environment)
    policy = resolve_asset(config.policy.model)
    results: dict[str, Any] = {}
    sizes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded policy": policy}
        if options.megabytes:
            models["random model"] = make_model(Path(folder), options.megabytes, options.hidden, policy)
        for name, model in models.items():
            bench = Bench(model, config.policy.engine_args, options.dtype)
            results |= rows(name, measure_model(bench, options.repeats))
            results[f"{name}: joining the group, s"] = summarise([bench.join_s])
            sizes[name] = f"{bench.num_bytes / 2**20:.1f} MiB"
            bench.close()
    finish(
        "seconds of a push against a raw gloo broadcast of the same bytes, and against its floor (raw + reload + digest)",
        results,
        settings={
            "config": config.name,
            "engine's dtype": options.dtype,
            "bytes": sizes,
            "receivers": 1,
            "environment": environment,
        },
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
