"""Seconds of one weight push against a raw gloo broadcast of the same bytes between the same two processes.

The push is what a run does once the group has met: ``WeightSender.send`` in the trainer's process, ``receive_weights`` in a live
vLLM engine here (digests of every parameter, vLLM's layer-wise reload, prefix cache reset). The raw broadcast is one flat
tensor and nothing else, so the ratio is mostly the price of putting weights in force and of proving what arrived. Measured for
the embedded policy and for a random model of some size, since at a few megabytes only fixed costs show.

    python benchmarks/push_seconds.py [--json FILE] [--megabytes 200] [--repeats 5]
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, free_port, interleave, ratios, summarise

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec


def make_model(folder: Path, megabytes: float, tokenizer_of: str) -> str:
    """A random Qwen2 model of about ``megabytes`` in float32, with the embedded policy's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_of)
    hidden = 512
    per_layer = 2 * hidden * hidden + 2 * hidden * 128 + 3 * hidden * 4 * hidden  # attention, key and value, MLP
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


def send_on_command(model: str, pipe: Any) -> None:
    """The trainer's process: holds the weights, sends when told to."""
    import torch
    from transformers import AutoModelForCausalLM
    from vllm.distributed.utils import stateless_init_torch_distributed_process_group

    from bcpg_cluster.stages.push.vllm_sender import WeightSender

    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tensors = [
        (TensorSpec(name, "float32", tuple(tensor.shape)), tensor.detach())
        for name, tensor in policy.named_parameters()
    ]
    flat = torch.cat([tensor.reshape(-1) for _, tensor in tensors])
    pipe.send([spec for spec, _ in tensors])
    sender, raw = WeightSender(), None
    while True:
        command, *arguments = pipe.recv()
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


def broadcast(group: Any, flat: Any) -> None:
    """One flat tensor from rank 0."""
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    group.broadcast([flat], options).wait()


def measure_model(model: str, engine_args: dict[str, Any], repeats: int) -> tuple[dict[str, list[float]], int]:
    """Seconds by what was measured, and the bytes of all parameters."""
    import torch
    from vllm.distributed.utils import stateless_init_torch_distributed_process_group

    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    trainer = context.Process(target=send_on_command, args=(model, there), daemon=True)
    trainer.start()
    engine = VllmGenerator(model, engine_args=engine_args, weight_transfer_backend="gloo")
    specs: list[TensorSpec] = here.recv()
    num_values = sum(torch.Size(spec.shape).numel() for spec in specs)
    group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
    here.send(("join", group))
    begin = time.perf_counter()
    engine.join_push_group(group, rank=1)
    join_s = time.perf_counter() - begin
    port = free_port()
    here.send(("join raw", port))
    with ThreadPoolExecutor(1) as thread:
        raw = thread.submit(
            stateless_init_torch_distributed_process_group, "127.0.0.1", port, 1, 2, backend="gloo"
        ).result()
    received = torch.empty(num_values)

    def push(pair: int) -> float:
        begin = time.perf_counter()
        here.send(("push",))
        engine.receive_weights(specs, pair + 2)
        return time.perf_counter() - begin

    def plain(pair: int) -> float:
        begin = time.perf_counter()
        here.send(("raw",))
        broadcast(raw, received)
        return time.perf_counter() - begin

    push(-1)
    plain(-1)
    pushed, plain_s = interleave(push, plain, repeats)
    here.send(("stop",))
    trainer.join(30)
    engine.leave_push_group()
    engine.close()
    return {"push": pushed, "raw": plain_s, "join": [join_s]}, num_values * 4


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--megabytes", type=float, default=200.0, help="of the random model; 0 leaves it out")
    options = parser.parse_args()
    started = facts()
    config = load_config(options.config)
    from bcpg_cluster.stages.generate.vllm_options import engine_environment

    rollout = config.pool("rollout")
    engine = engine_environment(config.engine_args("rollout"), rollout.num_gpus)
    environment = {**engine, "VLLM_LOGGING_LEVEL": "WARNING", **rollout.env}
    os.environ.update(environment)
    policy = resolve_asset(config.policy.model)
    results: dict[str, Any] = {}
    sizes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded policy": policy}
        if options.megabytes:
            models["random model"] = make_model(Path(folder), options.megabytes, policy)
        for name, model in models.items():
            seconds, num_bytes = measure_model(model, config.policy.engine_args, options.repeats)
            results[f"{name}: push, s"] = summarise(seconds["push"])
            results[f"{name}: raw broadcast, s"] = summarise(seconds["raw"])
            results[f"{name}: ratio push / raw"] = ratios(seconds["push"], seconds["raw"])
            results[f"{name}: joining the group, s"] = summarise(seconds["join"])
            sizes[name] = f"{num_bytes / 2**20:.1f} MiB"
    finish(
        "seconds of a push against a raw gloo broadcast of the same bytes",
        results,
        settings={"config": config.name, "bytes": sizes, "receivers": 1, "environment": environment},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
