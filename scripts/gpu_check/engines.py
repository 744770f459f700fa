"""vLLM and Ray on the device, on the embedded chain policy: a rollout engine that draws, sleeps and scores, a member with a GPU."""

from __future__ import annotations

import os
import sys
from typing import Any

from scripts.gpu_check.bench import Bench, require

_ON_CPU = {
    "enforce_eager": True,
    "block_size": 32,
    "enable_chunked_prefill": False,
    "kv_cache_memory_bytes": 64 * 2**20,
}
_ON_GPU = {"enforce_eager": True, "gpu_memory_utilization": 0.2, "enable_sleep_mode": True}
MEMBER_S = 120
NATS = 1e-3


def engine_args(is_gpu: bool) -> dict[str, Any]:
    """A small engine in float32."""
    return {"dtype": "float32", "max_model_len": 256, **(_ON_GPU if is_gpu else _ON_CPU)}


def check_rollout(bench: Bench) -> None:
    """A greedy draw before and after sleeping is the same, and engine and trainer agree on its log-probs."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not bench.is_gpu:
        os.environ.update(VLLM_CPU_OMP_THREADS_BIND="nobind", TORCHDYNAMO_DISABLE="1")
    from bcpg_cluster.config.embedded import resolve_asset
    from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator
    from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
    from scripts.gpu_check.shapes import SMALL, step_settings

    model = resolve_asset("embedded:chain/policy")
    engine = VllmGenerator(model, engine_args=engine_args(bench.is_gpu), weight_transfer_backend=None)
    prompt = engine.render([{"role": "user", "content": "17 + 25"}])
    request = GenerateRequest(prompt, Sampling(32, temperature=0.0))
    (before,) = engine.generate([request])
    slept = engine.sleep()
    bench.note(tokens=len(before.token_ids), slept=slept)
    require(slept or not bench.is_gpu, "the engine cannot sleep, though it was started so that it can")
    if slept:
        engine.wake_up()
    (after,) = engine.generate([request])
    require(before.token_ids == after.token_ids, "the same greedy request drew other tokens after sleeping")
    trainer = TorchTrainer(bench.device)
    trainer.open(model, step_settings(SMALL, "float32"))
    (wanted,), (found,) = (scorer.score_tokens([(prompt, before.token_ids)]) for scorer in (trainer, engine))
    off = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
    bench.note(engine_against_trainer_nats=off)
    require(off <= NATS, f"engine and trainer differ by {off:.3g} nats at a token")
    engine.close()


class TrainingMember:
    """What a Ray member hosts: a trainer on the device that Ray gave it."""

    def train(self, folder: str, device: str) -> dict[str, Any]:
        """Loss of the first step of the contract's rows, and where it was computed."""
        from pathlib import Path

        import torch

        from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
        from tests.trainer_contract import SETTINGS, make_model, make_rows, with_reference

        trainer, rows = TorchTrainer(device), make_rows()
        trainer.open(make_model(Path(folder, "model"), tied=True), SETTINGS)
        reports = trainer.train(with_reference(rows, trainer.reference_logprobs(rows)), None)
        where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        return {"loss": reports[0].loss, "steps": len(reports), "device": where}


def check_ray(bench: Bench) -> None:
    """A member with a GPU of its own trains on it."""
    import ray

    from bcpg_cluster.cluster.on_ray.runtime import ClusterChoice, RayRuntime
    from bcpg_cluster.cluster.runtime import MemberSpec

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    runtime = RayRuntime(ClusterChoice("local", "a check"), namespace="bcpg-gpu-check", dashboard=False)
    try:
        spec = MemberSpec(
            "trainer/0", TrainingMember, {}, num_cpus=0.1, num_gpus=1.0 if bench.is_gpu else 0.0,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )  # fmt: skip
        found = runtime.start(spec).call("train", str(bench.folder), bench.device).result(MEMBER_S)
    finally:
        runtime.shutdown()
    bench.note(**found)
    require(found["steps"] == 6, f"the member made {found['steps']} steps instead of 6")
