"""Tokens/s of the rollout pool against a bare ``vllm.LLM.generate``: what do leases, records and the store cost?

Both sides draw the same responses (same prompts, sampling and per-request seeds) with the same engine options, each from one
engine in an actor of its own; the other engine is idle meanwhile. The pool's time is the driver's wall time from the first
lease to the sealed table: shards of prompts read, responses drawn, texts cut per token, Parquet written, receipts accepted.
The bare time is that of the one call, as a person would write it: vLLM cuts texts and builds log-prob dictionaries while it
steps. The pool asks vLLM for neither (texts are cut after the engine's work, log-probs come flat), so a ratio above 1 is
possible; ``--lean`` gives the bare call the same, and what is left is the price of leases, records and the store.

    python benchmarks/rollout_throughput.py [--json FILE] [--prompts 96] [--group-size 16] [--repeats 5] [--lean]
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, interleave, ratios, summarise

from bcpg_cluster.assets.chain.task import draw_chain
from bcpg_cluster.cluster.leases import PoolLimits
from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.runtime import Member, MemberSpec
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sets import split_shards
from bcpg_cluster.records import Prompt, SampleId
from bcpg_cluster.run.build.members import host_rollout
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.stages.generate.stage import request_seed
from bcpg_cluster.stages.generate.vllm_options import engine_environment
from bcpg_cluster.stages.graph import ROLLOUT_POOL, StageSpec
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.rows import prompt_row
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster.watch.observer import SilentObserver

GENERATE = StageSpec("generate", ROLLOUT_POOL, ("prompts",), "rollouts")


class BareEngine:
    """``vllm.LLM`` and nothing else, in an actor."""

    def __init__(self, model: str, engine_args: dict[str, Any]) -> None:
        from vllm import LLM

        self._llm = LLM(model, **engine_args)

    def ping(self) -> str:
        return "ready"

    def generate(self, questions: list[str], seeds: list[int], sampling: dict[str, Any]) -> tuple[float, int]:
        """Seconds and tokens of one ``LLM.generate`` call over all requests."""
        from vllm import SamplingParams

        tokenizer = self._llm.get_tokenizer()
        rendered = {
            question: tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
            )
            for question in set(questions)
        }
        prompts = [{"prompt_token_ids": list(rendered[question])} for question in questions]
        params = [SamplingParams(**sampling, seed=seed, logprobs=0) for seed in seeds]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)


def make_bare_engine(model: str, engine_args: dict[str, Any]) -> BareEngine:
    """The bare actor's factory."""
    return BareEngine(model, engine_args)


def choose_prompts(config: Config, number: int, seed: int) -> tuple[list[Prompt], str]:
    """The shipped prompts if there are enough, else chains drawn here."""
    try:
        shipped = read_prompts(resolve_asset(config.prompts.train))
    except ConfigError:
        shipped = []
    if len(shipped) >= number:
        return shipped[:number], config.prompts.train
    rng = random.Random(seed)
    chains = [draw_chain(rng, 4, 6) for _ in range(number)]
    return [Prompt(f"chain-{i}", chain.question, chain.answer) for i, chain in enumerate(chains)], "drawn chains"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", default="laptop")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--lean", action="store_true", help="the bare call neither detokenises nor builds dictionaries")
    options = parser.parse_args()
    started = facts()
    config = load_config(options.config, [f"generate.group_size={options.group_size}", f"seed={options.seed}"])
    prompts, source = choose_prompts(config, options.prompts, options.seed)
    shards = split_shards(prompts, config.generate.prompts_per_shard)
    rollout = config.pool("rollout")
    # One processor's worth of threads for each side, like a member of the pool. PATH and niceness: as for any run.
    engine = engine_environment(config.engine_args("rollout"), rollout.num_gpus)
    environment = {**engine, "VLLM_LOGGING_LEVEL": "WARNING", **rollout.env, "PATH": os.environ["PATH"]}
    sample = config.generate
    sampling = {
        "max_tokens": sample.max_tokens,
        "temperature": sample.temperature,
        "top_p": sample.top_p,
        "top_k": sample.top_k,
        **({"detokenize": False, "flat_logprobs": True} if options.lean else {}),
    }

    def spec(name: str, factory: Any, **arguments: Any) -> MemberSpec:
        return MemberSpec(name, factory, arguments, rollout.leases_per_member, rollout.cpus, env=environment)

    runtime = RayRuntime(ClusterChoice("local", "a benchmark"), namespace="bcpg-benchmark", dashboard=False)
    with tempfile.TemporaryDirectory() as folder, Manifest(Path(folder)) as manifest:
        bare = runtime.start(
            spec(
                "bare/0",
                make_bare_engine,
                model=resolve_asset(config.policy.model),
                engine_args=config.policy.engine_args,
            )
        )
        content = config.model_dump(mode="json")
        arguments = {"config": content, "policy_version": 0, "snapshot": None, "digests": {}}
        pool = Pool(
            "rollout",
            runtime,
            lambda member: spec(f"rollout/{member}", host_rollout, **arguments, member=member),
            PoolLimits(rollout.leases_per_member),
        )
        pool.resize(1)
        _wait_ready(pool, bare)
        drawn: list[int] = []

        def ours(pair: int) -> float:
            round_ = pair + 1
            for number, shard in enumerate(shards):
                rows = [prompt_row(prompt) for prompt in shard]
                receipt = write_shard(
                    manifest.run_dir, table="prompts", round_=round_, shard=number, attempt=new_attempt(), rows=rows,
                    seconds=0.0, metrics={},
                )  # fmt: skip
                manifest.accept(receipt)
            flow = Dataflow(
                manifest, {"rollout": pool}, (GENERATE,), round_, len(shards), {"policy_version": 0},
                observer=SilentObserver(),
            )  # fmt: skip
            begin = time.perf_counter()
            flow.run()
            seconds = time.perf_counter() - begin
            tokens = sum(receipt.metrics["tokens"] for receipt in manifest.state.receipts(round_, "rollouts"))
            drawn.append(int(tokens))
            return tokens / seconds

        def reference(pair: int) -> float:
            ids = [SampleId(pair + 1, prompt.prompt_id, k) for prompt in prompts for k in range(sample.group_size)]
            questions = [prompt.question for prompt in prompts for _ in range(sample.group_size)]
            seeds = [request_seed(config.seed, "rollouts", id_) for id_ in ids]
            seconds, tokens = bare.call("generate", questions, seeds, sampling).result()
            drawn.append(tokens)
            return tokens / seconds

        ours(-1)  # warm both up: first shapes, allocator, tokenizer
        reference(-1)
        drawn.clear()
        pooled, plain = interleave(ours, reference, options.repeats)
    runtime.shutdown()
    finish(
        "tokens/s of the rollout pool (1 member) against a bare vllm.LLM.generate",
        {
            "pool, tokens/s": summarise(pooled),
            "bare, tokens/s": summarise(plain),
            "ratio pool / bare": ratios(pooled, plain),
        },
        settings={
            "config": config.name,
            "prompts": f"{len(prompts)} x {sample.group_size} samples, {source}, {len(shards)} shards",
            "tokens a side and repeat": f"{min(drawn)}..{max(drawn)}",
            "bare call": "lean" if options.lean else "plain",
            "engine_args": config.policy.engine_args,
            "environment of both": {key: value for key, value in environment.items() if key != "PATH"},
            "seed": options.seed,
        },
        json_file=options.json,
        started=started,
    )


def _wait_ready(pool: Pool, bare: Member) -> None:
    while not pool.members():
        pool.poll()
        wait(list(pool.futures()), timeout=1.0, return_when=FIRST_COMPLETED)
    bare.call("ping").result()


if __name__ == "__main__":
    main()
