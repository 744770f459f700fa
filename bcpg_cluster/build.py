"""The composition root: from a configuration to the objects of a run. Implementations are named in ``implementations``.

Heavy imports happen inside the member factories, which run in the members' own processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bcpg_cluster.catch_up import CatchUp
from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.pool import Pool, PoolLimits
from bcpg_cluster.cluster.runtime import MemberSpec, Runtime
from bcpg_cluster.cluster.turns import TRAINER, Turns
from bcpg_cluster.config import Config, GeneratedConfig, LoraConfig, PoolConfig, resolve_asset
from bcpg_cluster.control import Control
from bcpg_cluster.coordinator import Coordinator, Parts, Serving, weights_path
from bcpg_cluster.engines import tokenizer_check
from bcpg_cluster.engines.protocols import LoraSettings, Sampling, TextGenerator, TrainSettings
from bcpg_cluster.engines.tokenizer_check import TokenizerCheck
from bcpg_cluster.engines.vllm_rollout import ACTOR_ENVIRONMENT
from bcpg_cluster.errors import DataError, Interrupted
from bcpg_cluster.footprint import member_group
from bcpg_cluster.hub import is_hub_id, near_paths
from bcpg_cluster.implementations import (
    check_segmenter,
    judge_engine_args,
    load_judge_prompt,
    make_judge,
    make_rollout_engine,
    make_segmenter,
    make_trainer_rank,
    make_verifier,
    policy_engine_args,
)
from bcpg_cluster.observer import Observer
from bcpg_cluster.preflight import check_hub_model, check_judge
from bcpg_cluster.prompt_sources import Columns
from bcpg_cluster.prompts import PromptSets, check_sets, round_prompts
from bcpg_cluster.records import Prompt
from bcpg_cluster.run_mark import leave_mark
from bcpg_cluster.run_path import RunPath
from bcpg_cluster.scaler import PoolBounds, Scaler
from bcpg_cluster.stages.generate import generate
from bcpg_cluster.stages.graph import ROLLOUT_POOL
from bcpg_cluster.stages.job import Stage, StageWorker
from bcpg_cluster.stages.judge import judge as judge_stage
from bcpg_cluster.stages.segment import segment
from bcpg_cluster.stages.train import TrainWorker
from bcpg_cluster.stages.verify import verify
from bcpg_cluster.stages.weigh import WeighSettings, weigh
from bcpg_cluster.store.fetched import local_copy
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.tasks.registry import Made, read_prompt_source, train_split_of
from bcpg_cluster.tasks.run_defaults import check_tasks

_NUM_PROBES = 64  # problems a tokenizer is tried on

# --- what members host (called in the member's own process) ------------------------------------------------------


def host_rollout(
    config: Mapping[str, Any], policy_version: int, snapshot: str | RunPath | None, member: int
) -> StageWorker:
    """A member of the rollout pool; it starts with the weights that are served when it is made."""
    settings = Config.model_validate(config)
    weights = None if snapshot is None else local_copy(snapshot)
    engine = make_rollout_engine(settings, policy_version, weights, member)
    sample, measure = settings.generate, settings.evaluate
    stages: dict[str, Stage] = {
        "generate": partial(
            generate,
            engine=engine,
            group_size=sample.group_size,
            sampling=Sampling(sample.max_tokens, sample.temperature, sample.top_p, sample.top_k),
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
    """A member of a judge pool, with every judge of that pool over the one engine they share."""
    settings = Config.model_validate(config)
    judges = {name: j for name, j in settings.judges.items() if settings.judge_pool(name) == pool}
    generators: dict[str, TextGenerator] = {}
    engines = {name: make_judge(settings, name, generators) for name in judges}
    stages = {
        f"judge.{name}": partial(judge_stage, engine=engine, name=name, show_gold=judges[name].show_gold)
        for name, engine in engines.items()
    }
    first, *others = engines.values()
    return StageWorker(stages, first, () if generators else others)  # those over one engine are closed with it


def host_cpu(config: Mapping[str, Any]) -> StageWorker:
    """A member of the cpu pool: verification, segmentation, weighing, and the judges that need no engine."""
    settings = Config.model_validate(config)
    verifier = make_verifier(settings)
    judges = {name: make_judge(settings, name) for name in settings.judges if settings.judge_pool(name) == "cpu"}
    stages: dict[str, Stage] = {
        "verify": partial(verify, verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"),
        "verify_evaluation": partial(
            verify, verifier=verifier, prompts_table="eval_prompts", rollouts_table="eval_rollouts"
        ),
        "segment": partial(
            segment, cut=make_segmenter(settings.segment), min_verified_share=settings.weigh.min_verified_share
        ),
        "weigh": weigh,
    }
    for name, engine in judges.items():
        show_gold = settings.judges[name].show_gold
        stages[f"judge.{name}"] = partial(judge_stage, engine=engine, name=name, show_gold=show_gold)
    return StageWorker(stages, others=(verifier, *judges.values()))


def host_trainer(config: Mapping[str, Any], rank: int, world_size: int) -> TrainWorker:
    """A rank of the trainer group."""
    settings = Config.model_validate(config)
    if settings.train.kind == "deepspeed":
        from bcpg_cluster.engines.deepspeed_trainer import check_deepspeed_config

        check_deepspeed_config(settings.train.deepspeed, settings.train.zero_stage, settings.train.dtype)
    return TrainWorker(
        rank, world_size, partial(make_trainer_rank, settings.train.kind, settings.train.group_timeout_s)
    )


# --- small translations ------------------------------------------------------------------------------------------


def train_settings(config: Config, round_: int) -> TrainSettings:
    """One round's training; every round shuffles by a seed of its own."""
    section = config.train.model_dump(exclude={"kind", "group_timeout_s"})
    section |= {"seed": config.seed * 1000 + round_, "deepspeed": section["deepspeed"] or None}
    section |= {"lora": lora_settings(config.train.lora)}
    section |= {"revision": config.policy.revision, "trust_remote_code": config.policy.trust_remote_code}
    return TrainSettings(objective=config.objective, **section)


def lora_settings(section: LoraConfig | None) -> LoraSettings | None:
    """What the trainer needs of ``train.lora``; ``None`` trains all weights."""
    if section is None:
        return None
    targets = None if section.target_modules == "all-linear" else tuple(section.target_modules)
    return LoraSettings(section.rank, section.alpha, section.dropout, targets)


def weigh_settings(config: Config) -> WeighSettings:
    """What the weigh stage needs; it comes with every job, since runs that share members may differ in it."""
    section = config.weigh
    return WeighSettings(
        voters=config.voters,
        measures=tuple(name for name, judge in config.judges.items() if judge.role == "measure"),
        thresholds={name: judge.threshold for name, judge in config.judges.items()},
        rule=config.consensus_rule,
        beta=section.beta,
        min_verified_share=section.min_verified_share,
        truncated=section.truncated,
        flip_rate=section.flip_rate,
        seed=config.seed,
        objective=config.objective,
    )


# --- before anything heavy starts --------------------------------------------------------------------------------


def read_all_prompts(config: Config) -> PromptSets:
    """Train and test prompts, checked (see ``prompts``)."""
    check_tasks(config)
    section = config.prompts
    generated = section.generated or GeneratedConfig()
    columns = None if section.columns is None else Columns(**section.columns.model_dump())
    read = partial(
        read_prompt_source,
        columns=columns,
        config_name=section.config_name,
        revision=section.revision,
        limit=section.limit,
    )
    tested = Made(generated.test_size, generated.test_seed, generated.parameters)
    test = read(resolve_asset(section.test), split=section.test_split, made=tested)
    more = {
        name: read(resolve_asset(path), split=section.test_split, made=tested)
        for name, path in section.more_tests.items()
    }
    held_out = frozenset(prompt.question for prompts in (test, *more.values()) for prompt in prompts)
    trained = Made(generated.train_size, generated.train_seed, generated.parameters, held_out)
    split = section.train_split or train_split_of(section.train)
    train = read(resolve_asset(section.train), split=split, made=trained)
    sets = PromptSets(train, test, more)
    check_sets(sets)
    round_prompts(train, 1, config.prompts.per_round, config.prompts.order, config.seed)
    if config.verify.kind != "math":  # math-verify would take minutes here; `validate` asks it
        check_answers(config, [*train, *test, *(prompt for prompts in more.values() for prompt in prompts)])
    return sets


def check_answers(config: Config, prompts: Iterable[Prompt]) -> None:
    """Let the verifier look at every gold answer. Raises :class:`DataError` for one it could never find equal."""
    verifier = make_verifier(config)
    try:
        for prompt in prompts:
            verifier.check_gold(prompt.answer)
    finally:
        verifier.close()


def check_models(config: Config) -> None:
    """Look at every local model, judge prompt, endpoint and segmenter, before an engine does.

    Raises:
        DataError: a directory that is not a Hugging Face checkpoint with a tokenizer.
        ConfigError: a judge prompt that is none, a key that is not set, a cache that cannot be written, a judge whose thoughts
            a schema would bind, a segmenter that cannot be had, a layer that ``train.lora`` names and the model does not have.
    """
    check_segmenter(config.segment)
    for name, judge in config.judges.items():
        check_judge(name, judge)
    models = {"policy.model": config.policy.model} if config.policy.kind != "fake" else {}
    models |= {f"judges.{n}.model": j.model for n, j in config.judges.items() if j.kind in ("llm", "prm") and j.model}
    for key, name in models.items():
        path = Path(resolve_asset(name))
        if not path.exists() and is_hub_id(name):
            check_hub_model(key, name)
            continue
        needs = {"config.json": ("config.json",), "a tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json")}
        missing = [what for what, files in needs.items() if not any((path / file).is_file() for file in files)]
        if not path.is_dir() or missing:
            raise DataError(
                f"{key}: {path} " + (f"lacks {' and '.join(missing)}" if path.is_dir() else "is not a directory"),
                rule="a local model is a Hugging Face checkpoint directory: config.json, weights, tokenizer files",
                remedy=("" if path.is_dir() else near_paths(str(path))) or "give such a directory or a Hugging Face id",
            )
    if config.train.lora is not None and config.train.kind != "fake":
        from bcpg_cluster.engines.lora import check_lora

        lora = lora_settings(config.train.lora)
        assert lora is not None
        check_lora(resolve_asset(config.policy.model), lora, trust_remote_code=config.policy.trust_remote_code)


def tokenizer_checks(config: Config, prompts: PromptSets) -> list[TokenizerCheck]:
    """What is looked at of the policy's and the LLM judges' tokenizers; PRMs look at theirs when they load."""
    everything = [*prompts.train, *(prompt for of_set in prompts.measured().values() for prompt in of_set)]
    spread = max(len(everything) // _NUM_PROBES, 1)
    texts = tuple(prompt.question for prompt in everything[::spread][:_NUM_PROBES])
    checks = []
    if config.policy.kind == "vllm":
        # The exact verifier reads no thinking.
        opens = None if config.verify.kind == "exact" else config.verify.prompt_opens_thinking
        checks.append(
            TokenizerCheck(
                "policy.model",
                "policy",
                resolve_asset(config.policy.model),
                texts,
                config.policy.revision,
                config.policy.trust_remote_code,
                opens_thinking=opens,
            )
        )
    checks += [
        TokenizerCheck(
            f"judges.{name}.model",
            f"judges.{name}",
            str(judge.engine_args.get("tokenizer") or resolve_asset(judge.model or "")),
            texts,
            judge.engine_args.get("tokenizer_revision") or judge.engine_args.get("revision"),
            judge.trust_remote_code,
            load_judge_prompt(judge.prompt).system,
        )
        for name, judge in config.judges.items()
        if judge.kind == "llm"
    ]
    return checks


def check_tokenizers(config: Config, prompts: PromptSets) -> None:
    """Look at tokenizers and chat templates, in a process of its own: what transformers imports would stay in the driver.

    Raises:
        DataError, ConfigError: see ``engines.tokenizer_check``.
    """
    checks = tokenizer_checks(config, prompts)
    if checks:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            child.submit(tokenizer_check.check_tokenizers, checks).result()


# --- the run -----------------------------------------------------------------------------------------------------


class Workforce:
    """The members that work: pools, the trainer group, and which weights are served. They may serve several runs in turn, of
    configurations that differ in nothing a member is made from: seed, prompts, objective, learning rates, judges' roles and
    thresholds, and how verdicts are weighed come with the jobs.

    Attributes:
        on_retry: told of every lost lease or member; the run that is served now.
        on_wait: likewise, told when nodes are waited for.
        tend: called while the run waits for its members, the trainers among them; likewise of the run that is served now.
    """

    def __init__(self, pools: Mapping[str, Pool], gang: Gang, turns: Turns, serving: Serving) -> None:
        self.pools, self.gang, self.turns, self.serving = pools, gang, turns, serving
        self.on_retry: Callable[[str, str], None] = lambda what, why: None
        self.on_wait: Callable[[str], None] = lambda what: None
        self.tend: Callable[[], None] = lambda: None


def start_workforce(
    config: Config,
    runtime: Runtime,
    stop_asked: Callable[[], bool],
    serving: Serving | None = None,
) -> Workforce:
    """Start all pools; the trainer group starts when it is first needed, and so do all pools that take turns.

    Args:
        serving: the weights rollout members start with; the base model by default.
    """
    serving = serving or Serving(0, resolve_asset(config.policy.model))
    content = config.model_dump(mode="json")
    base = resolve_asset(config.policy.model)

    def rollout_arguments(member: int) -> dict[str, Any]:
        snapshot = None if serving.path == base else serving.path
        return {"config": content, "policy_version": serving.version, "snapshot": snapshot, "member": member}

    trainer = config.pool("trainer")
    pools: dict[str, Pool] = {}

    def between_waits() -> None:
        _raise_if_stopped(stop_asked)
        workforce.tend()

    gang = Gang(
        "trainer",
        runtime,
        partial(_trainer_spec, config, content),
        trainer.members,
        start_timeout_s=trainer.start_timeout_s,
        placement_timeout_s=trainer.placement_timeout_s,
        on_wait=lambda what: workforce.on_wait(what),
        check_stop=between_waits,
    )
    for name in config.pool_names():
        if name == "trainer":
            continue
        factory, arguments = _member(name, content, rollout_arguments)
        settings = config.pool(name)
        pools[name] = Pool(
            name,
            runtime,
            partial(_spec, config, name, factory, arguments),
            PoolLimits(
                settings.leases_per_member,
                settings.lease_timeout_s,
                settings.start_timeout_s,
                settings.max_attempts,
                settings.placement_timeout_s,
            ),
            on_retry=lambda what, why: workforce.on_retry(what, why),
            welcome=CatchUp(lambda: (serving.version, serving.path), base) if name == ROLLOUT_POOL else None,
        )
    is_colocated = config.placement == "colocated"
    sleepers = [name for name in pools if config.pool(name).when_idle == "sleep"]
    workforce = Workforce(pools, gang, Turns(pools, gang, is_colocated=is_colocated, sleepers=sleepers), serving)
    for name, pool in pools.items():
        pool.resize(config.pool(name).members)
    return workforce


def newest_weights(config: Config, manifest: Manifest) -> Serving:
    """The weights a run that goes on starts its rollout members with."""
    newest = max(manifest.state.snapshots, default=0)
    return Serving(newest, weights_path(manifest, newest, resolve_asset(config.policy.model)))


def build_coordinator(
    config: Config,
    manifest: Manifest,
    runtime: Runtime,
    observer: Observer,
    stop_asked: Callable[[], bool],
    prompts: PromptSets,
) -> Coordinator:
    """All parts of a run, its pools started with its newest weights."""
    runtime.members_must_see(leave_mark(manifest.run_dir))
    workforce = start_workforce(config, runtime, stop_asked, newest_weights(config, manifest))
    return coordinator_over(workforce, config, manifest, observer, stop_asked, prompts)


def coordinator_over(
    workforce: Workforce,
    config: Config,
    manifest: Manifest,
    observer: Observer,
    stop_asked: Callable[[], bool],
    prompts: PromptSets,
) -> Coordinator:
    """A run on members that are started already, perhaps by another run."""

    def on_retry(what: str, why: str) -> None:
        manifest.add_retry(what, why)
        observer.retry(what, why)

    workforce.on_retry, workforce.on_wait = on_retry, observer.note
    scaler = Scaler(
        workforce.pools,
        workforce.gang,
        {name: _bounds(config.pool(name)) for name in config.pool_names()},
        observer=observer,
        control=Control(manifest.run_dir),
        served_version=lambda: workforce.serving.version,
    )
    workforce.tend = scaler.tend
    return Coordinator(
        config,
        Parts(
            manifest=manifest,
            pools=workforce.pools,
            gang=workforce.gang,
            turns=workforce.turns,
            serving=workforce.serving,
            prompts=prompts,
            base_model=resolve_asset(config.policy.model),
            train_settings=partial(train_settings, config),
            weigh_settings=weigh_settings(config),
            observer=observer,
            stop_asked=stop_asked,
            tend=scaler.tend,
        ),
    )


def _bounds(settings: PoolConfig) -> PoolBounds:
    needs = {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources}
    return PoolBounds(
        settings.min or settings.members,
        settings.max or settings.members,
        {name: amount for name, amount in needs.items() if amount},
        settings.target_queue_per_actor,
        settings.scale_down_after_s,
    )


def _member(
    pool: str, content: Mapping[str, Any], rollout_arguments: Callable[[int], dict[str, Any]]
) -> tuple[Callable[..., Any], Callable[[int], dict[str, Any]]]:
    if pool == "rollout":
        return host_rollout, rollout_arguments
    if pool == "cpu":
        return host_cpu, lambda member: {"config": content}
    return host_judges, lambda member: {"config": content, "pool": pool}


def _spec(
    config: Config,
    pool: str,
    factory: Callable[..., Any],
    arguments: Callable[[int], dict[str, Any]],
    member: int,
) -> MemberSpec:
    settings, name = config.pool(pool), f"{pool}/{member}"
    has_ray_workers = config.engine_args(pool).get("distributed_executor_backend") == "ray"
    return MemberSpec(
        name=name,
        factory=factory,
        arguments=arguments(member),
        work_threads=settings.leases_per_member,
        num_cpus=settings.num_cpus,
        num_gpus=0.0 if has_ray_workers else settings.num_gpus,  # those take the GPUs of the member's group themselves
        resources=settings.resources,
        env={**_member_environment(), **settings.env},
        group=member_group(config, pool, name),
    )


def _trainer_spec(config: Config, content: Mapping[str, Any], group: int, rank: int) -> MemberSpec:
    settings = config.pool(TRAINER)
    suffix = "" if group == 0 else f".{group}"  # a re-made group cannot reuse names that Ray still holds
    return MemberSpec(
        name=f"trainer/{rank}{suffix}",
        factory=host_trainer,
        arguments={"config": content, "rank": rank, "world_size": settings.members},
        work_threads=1,
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        resources=settings.resources,
        env={**_member_environment(), **settings.env},
        group=member_group(config, TRAINER, f"{TRAINER}{suffix}"),
        bundle=rank,
    )


def _member_environment() -> dict[str, str]:
    """What every member needs before it imports anything heavy (measured reasons: docs/decisions.md)."""
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    return {**ACTOR_ENVIRONMENT, **quiet, "PATH": os.environ.get("PATH", "")}


def _raise_if_stopped(stop_asked: Callable[[], bool]) -> None:
    if stop_asked():
        raise Interrupted("stopped in training; it goes on from its last step checkpoint")


def check_vendor_options(config: Config) -> None:
    """Let vLLM's and DeepSpeed's own parsers look at what is passed through to them (imports both: some seconds).

    Raises:
        ConfigError: an option the vendor does not know or does not accept.
    """
    served = [(config.policy.model, policy_engine_args(config.policy))] if config.policy.kind == "vllm" else []
    served += [(j.model or "", judge_engine_args(j)) for j in config.judges.values() if j.kind in ("llm", "prm")]
    if served:
        from bcpg_cluster.engines.vllm_rollout import check_engine_args

        for model, engine_args in served:
            check_engine_args(resolve_asset(model), engine_args)
    if config.train.kind == "deepspeed":
        from bcpg_cluster.engines.deepspeed_trainer import check_deepspeed_config

        check_deepspeed_config(config.train.deepspeed, config.train.zero_stage, config.train.dtype)
