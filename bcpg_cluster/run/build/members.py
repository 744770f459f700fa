"""What the members of each pool host. Called in the members' own processes, where heavy imports belong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import EngineError
from bcpg_cluster.run.build.engines import (
    make_rollout_engine,
    make_trainer_rank,
    make_verifier,
    num_verifying_threads,
    sent_to_engines,
    snapshot_verifier,
)
from bcpg_cluster.run.build.judges import make_judge
from bcpg_cluster.run.build.segmenters import make_response_segmenter
from bcpg_cluster.stages.generate.protocol import Sampling, TextGenerator
from bcpg_cluster.stages.generate.stage import generate
from bcpg_cluster.stages.graph import CPU_POOL
from bcpg_cluster.stages.job import Stage, StageWorker
from bcpg_cluster.stages.judge.protocol import Judge
from bcpg_cluster.stages.judge.stage import judge as judge_stage
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.stages.train.worker import TrainWorker
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.stages.weigh.stage import weigh
from bcpg_cluster.stages.weigh.trained_rows import trained_rows
from bcpg_cluster.store.fetched import local_copy
from bcpg_cluster.store.path import RunPath


def host_rollout(
    config: Mapping[str, Any],
    policy_version: int,
    snapshot: str | RunPath | None,
    digests: Mapping[str, str],
    member: int,
) -> StageWorker:
    """A member of the rollout pool; it starts with the weights that are served when it is made.

    Raises:
        EngineError: it read other weights than were written.
    """
    settings = Config.model_validate(config)
    engine = make_rollout_engine(settings, policy_version, member)
    if snapshot is not None:
        directory = local_copy(snapshot)
        arrived = engine.load_snapshot(directory, policy_version)
        if digests and (faults := arrival_faults(digests, arrived)):
            engine.close()
            raise EngineError(f"rollout/{member} loaded {directory}: {faults}")
    sample, measure = settings.generate, settings.evaluate
    stages: dict[str, Stage] = {
        "generate": partial(
            generate,
            engine=engine,
            group_size=sample.group_size,
            sampling=Sampling(
                sample.max_tokens, sample.temperature, sample.top_p, sample.top_k, entropy_top_k=settings.entropy_top_k
            ),
            seed_per_request=sample.seed_per_request,
        ),
        "evaluate": partial(
            generate,
            engine=engine,
            group_size=measure.num_samples,
            sampling=Sampling(measure.max_tokens or sample.max_tokens, measure.temperature, measure.top_p),
            seed_per_request=sample.seed_per_request,
            prompts_table="eval_prompts",
            greedy=measure.greedy,
        ),
    }
    return StageWorker(stages, engine)


def host_judges(config: Mapping[str, Any], pool: str) -> StageWorker:
    """A member of a judge pool, with every judge of that pool, and a segmenter that asks one, over the one engine they share."""
    settings = Config.model_validate(config)
    judges = {name: j for name, j in settings.judges.items() if settings.judge_pool(name) == pool}
    generators: dict[str, TextGenerator] = {}
    engines = {name: make_judge(settings, name, generators) for name in judges}
    stages: dict[str, Stage] = {
        f"judge.{name}": partial(judge_stage, engine=engine, name=name, show_gold=judges[name].show_gold)
        for name, engine in engines.items()
    }
    if settings.segment_pool == pool:
        stages["segment"] = _segment(settings, engines)
    first, *others = engines.values()
    return StageWorker(stages, first, () if generators else others)  # those over one engine are closed with it


def host_cpu(config: Mapping[str, Any]) -> StageWorker:
    """A member of the cpu pool: verification, segmentation, weighing, and the judges that need no engine."""
    settings = Config.model_validate(config)
    verifier = make_verifier(settings)
    check = partial(verify, verifier=verifier, num_threads=num_verifying_threads(settings))
    judges = {name: make_judge(settings, name) for name in settings.judges if settings.judge_pool(name) == CPU_POOL}
    stages: dict[str, Stage] = {
        "verify": partial(check, prompts_table="prompts", rollouts_table="rollouts"),
        "verify_evaluation": partial(check, prompts_table="eval_prompts", rollouts_table="eval_rollouts"),
        "weigh": weigh,
    }
    if settings.segment_pool == CPU_POOL:
        stages["segment"] = _segment(settings, judges)
    for name, engine in judges.items():
        show_gold = settings.judges[name].show_gold
        stages[f"judge.{name}"] = partial(judge_stage, engine=engine, name=name, show_gold=show_gold)
    return StageWorker(stages, others=(verifier, *judges.values()))


def _segment(settings: Config, judges: Mapping[str, Judge]) -> Stage:
    """The stage that cuts responses, over the judges of its member."""
    cut = make_response_segmenter(settings, judges.__getitem__)
    return partial(segment, cut=cut, min_verified_share=settings.weigh.min_verified_share)


def host_trainer(config: Mapping[str, Any], rank: int, world_size: int) -> TrainWorker:
    """A rank of the trainer group."""
    settings = Config.model_validate(config)
    if settings.train.kind == "deepspeed":
        from bcpg_cluster.stages.train.deepspeed.config import check_deepspeed_config

        check_deepspeed_config(settings.train.deepspeed, settings.train.zero_stage, settings.train.dtype)
    return TrainWorker(
        rank,
        world_size,
        partial(make_trainer_rank, settings.train.kind, settings.train.group_timeout_s, sent_to_engines(settings)),
        snapshot_verifier(settings.train.kind),
        trained_rows,
    )
