"""Upper bounds of what a run costs: samples, judge calls, steps, memory, disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import num_ranks
from bcpg_cluster.run.build.engine_defaults import engine_options
from bcpg_cluster.run.build.footprint import ask_of, held_together
from bcpg_cluster.run.build.judges import judge_options
from bcpg_cluster.run.build.model_files import config_json, model_bytes, model_shape
from bcpg_cluster.run.build.model_memory import ModelShape, activation_bytes, training_state_bytes
from bcpg_cluster.stages.judge.llm.llm_judge import most_calls
from bcpg_cluster.stages.judge.prm.detection import convention_by_name
from bcpg_cluster.stages.judge.prm.pathfinder import most_passes
from bcpg_cluster.stages.judge.prm.windows import most_windows
from bcpg_cluster.store.reports import RoundReport

# Bytes a sample takes in the store for each response token (ids, log-probs, texts, weights, reference), before compression.
_BYTES_PER_TOKEN = 24


@dataclass(frozen=True, slots=True)
class WorkBound:
    """The most that is done in one round, or in several: every response as long as ``max_tokens``, every group kept.

    Attributes:
        samples, tokens: drawn for training.
        evaluation_samples: drawn to measure the policy.
        judge_calls: requests to LLM judges, and to one whose model cuts responses (second tries of unreadable answers included),
            and inputs of process reward models; one a response for judges that need neither. What is done again because an
            endpoint or a member failed comes on top.
    """

    prompts: int
    samples: int
    tokens: int
    evaluation_samples: int
    judge_calls: int
    optimiser_steps: int
    trained_tokens: int

    def times(self, rounds: int) -> WorkBound:
        """Of so many rounds, and the measurement of the base policy before them."""
        return WorkBound(
            prompts=self.prompts * rounds,
            samples=self.samples * rounds,
            tokens=self.tokens * rounds,
            evaluation_samples=self.evaluation_samples * (rounds + 1),
            judge_calls=self.judge_calls * rounds,
            optimiser_steps=self.optimiser_steps * rounds,
            trained_tokens=self.trained_tokens * rounds,
        )


@dataclass(frozen=True, slots=True)
class CascadeFacts:
    """A judge that comes after others, and what that saves.

    Attributes:
        calls: of a round at most, which is where those before it decide nothing.
        saved_share: of its calls, as an earlier round of this run saved them: an estimate. ``None`` before there is one.
        round: that round.
    """

    judge: str
    after: tuple[str, ...]
    calls: int
    saved_share: float | None = None
    round: int | None = None


def cascade_facts(config: Config, reports: Mapping[int, RoundReport]) -> list[CascadeFacts]:
    """What cascades save, by the newest round that judged; ``reports`` are empty for a new run."""
    bounds = judge_calls(config)
    found = []
    for name, earlier in config.judged_after.items():
        facts = CascadeFacts(name, earlier, bounds[name])
        for round_, report in sorted(reports.items(), reverse=True):
            totals = report.verdicts.get(f"judge.{name}", {})
            made, not_made = totals.get("judge.calls", 0.0), totals.get("judge.calls.not_made", 0.0)
            if not made + not_made:  # a judge that is not asked by calls is asked by responses
                not_made = totals.get("samples.not_asked", 0.0)
                made = totals.get("samples", 0.0) - not_made
            if made + not_made:
                facts = replace(facts, saved_share=not_made / (made + not_made), round=round_)
                break
        found.append(facts)
    return found


@dataclass(frozen=True, slots=True)
class PoolAsk:
    """What one pool asks of the machines; memory, GPUs and resources are those of each member."""

    name: str
    members: int
    memory_gib: float
    num_gpus: float
    resources: dict[str, float]


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What one GPU of a pool's member holds.

    Attributes:
        parameters: of the model; ``None`` where its shape is not known here.
        parts: GiB by what takes them; ``None`` with ``parameters``.
    """

    pool: str
    model: str
    parameters: int | None = None
    parts: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a run costs at most.

    Attributes:
        gpu_memory: estimates, for pools with GPUs.
        memory_gib, num_gpus: of all members that are there at once.
        disk_mib: of the run's tables.
        snapshots_mib: of the snapshots that are kept; 0 where the model's files are not here.
    """

    per_round: WorkBound
    total: WorkBound
    pools: tuple[PoolAsk, ...]
    gpu_memory: tuple[GpuMemory, ...]
    memory_gib: float
    num_gpus: float
    disk_mib: float
    snapshots_mib: float


def plan_facts(config: Config, rounds: int, num_test: int) -> PlanFacts:
    """The bounds of a run over so many rounds, measured on ``num_test`` problems after each.

    Raises:
        ConfigError: a judge's prompt does not exist or is not a judge prompt.
    """
    per_round = work_bound(config, num_test)
    total = per_round.times(rounds)
    kept = min(rounds, config.snapshots.keep_last + 1)
    return PlanFacts(
        per_round=per_round,
        total=total,
        pools=tuple(_pool_ask(config, name) for name in config.pool_names()),
        gpu_memory=tuple(row for name in config.pool_names() if (row := gpu_memory(config, name)) is not None),
        memory_gib=memory_gib(config),
        num_gpus=max(
            sum(ask_of(config, name).total().get("GPU", 0.0) for name in turn) for turn in held_together(config)
        ),
        disk_mib=total.tokens * _BYTES_PER_TOKEN / 2**20,
        snapshots_mib=(model_bytes(config.policy.model) or 0) * kept / 2**20,
    )


def work_bound(config: Config, num_test: int) -> WorkBound:
    """The most that is done in one round."""
    sample = config.generate
    prompts = config.prompts.per_round
    samples = prompts * sample.group_size
    tokens = samples * sample.max_tokens
    return WorkBound(
        prompts=prompts,
        samples=samples,
        tokens=tokens,
        evaluation_samples=num_test * (config.evaluate.num_samples + config.evaluate.greedy),
        judge_calls=sum(judge_calls(config).values()) + segment_calls(config),
        optimiser_steps=-(-samples // config.train.batch_sequences) * config.train.epochs,
        trained_tokens=tokens * config.train.epochs,
    )


def judge_calls(config: Config) -> dict[str, int]:
    """The most calls of one round, by judge."""
    num_judged = _most_wrong(config)
    return {name: num_judged * calls_each(judge, config.generate.max_tokens) for name, judge in config.judges.items()}


def segment_calls(config: Config) -> int:
    """The most questions of one round about where steps begin; 0 where no model is asked."""
    if config.segment.kind != "llm":
        return 0
    return (
        _most_wrong(config) * 2 * -(-config.generate.max_tokens // config.segment.max_lines)
    )  # a line has a token at least


def _most_wrong(config: Config) -> int:
    """Wrong responses of one round that are cut and judged; a group without a right one is dropped."""
    return config.prompts.per_round * (config.generate.group_size - 1)


def calls_each(judge: JudgeConfig, max_tokens: int) -> int:
    """The most calls of a judge about one response of at most ``max_tokens`` tokens, however it is cut.

    A step has at least one token. No more can be said of it: ``</think>`` ends a step whatever the sizes in section ``segment``.
    """
    max_steps = max_tokens
    if judge.kind in ("llm", "openai"):
        return most_calls(judge_options(judge), max_steps)
    if judge.kind != "prm":
        return 1
    return most_passes(max_steps) if _is_asked_twice(judge) else most_windows(max_steps)


def _is_asked_twice(judge: JudgeConfig) -> bool:
    model = judge.model or ""
    named = judge.convention == "auto" and convention_by_name(model, config_json(model) or {}) == "pathfinder"
    return judge.convention == "pathfinder" or named


def memory_gib(config: Config) -> float:
    """Memory of all members that are there at once."""
    pools = {name: config.pool(name) for name in config.pool_names()}
    return max(sum(pools[n].members * pools[n].memory_gib for n in turn) for turn in held_together(config))


def gpu_memory(config: Config, pool: str) -> GpuMemory | None:
    """What a GPU of a pool's member holds; ``None`` for pools without GPUs. Formulas: ``run.build.model_memory``."""
    if not config.pool(pool).num_gpus:
        return None
    row = GpuMemory(pool, _model_of(config, pool))
    shape = model_shape(row.model)
    if shape is None or any(model_shape(reference) is None for reference in _references(config, pool)):
        return row
    parts = _trainer_parts(config, shape) if pool == "trainer" else _engine_parts(config, pool, shape)
    return replace(row, parameters=shape.num_parameters(), parts=parts)


def _model_of(config: Config, pool: str) -> str:
    if pool in ("rollout", "trainer"):
        return config.policy.model
    return next(judge.model or "" for name, judge in config.judges.items() if config.judge_pool(name) == pool)


def _references(config: Config, pool: str) -> list[str]:
    """The second models of a pool's judges."""
    of_pool = [judge for name, judge in config.judges.items() if config.judge_pool(name) == pool]
    return [judge.reference_model for judge in of_pool if judge.reference_model is not None]


def _trainer_parts(config: Config, shape: ModelShape) -> dict[str, float]:
    train, num_members = config.train, config.pool("trainer").members
    state = training_state_bytes(
        shape.num_parameters(), zero_stage=train.zero_stage, num_ranks=num_members, dtype=train.dtype
    )
    kept = activation_bytes(
        shape, train.micro_batch_tokens, dtype=train.dtype, is_checkpointed=train.gradient_checkpointing,
        logprob_chunk_tokens=train.logprob_chunk_tokens,
    )  # fmt: skip
    return {"weights, gradients, optimiser": state / 2**30, "activations": kept / 2**30}


def _engine_parts(config: Config, pool: str, shape: ModelShape) -> dict[str, float]:
    args = engine_options(config, pool)
    item = 4 if args.get("dtype") == "float32" else 2
    ranks = num_ranks(args)
    longest = int(args.get("max_model_len") or 0)
    parts = {"weights": shape.num_parameters() * item / ranks / 2**30}
    for reference in _references(config, pool):
        found = model_shape(reference)
        assert found is not None  # gpu_memory looked
        parts[f"weights of {reference}"] = found.num_parameters() * item / 2**30
    if longest:
        parts[f"KV cache of one sequence of {longest:,} tokens"] = shape.kv_bytes(longest, item) / ranks / 2**30
    return parts


def _pool_ask(config: Config, name: str) -> PoolAsk:
    pool = config.pool(name)
    return PoolAsk(name, pool.members, pool.memory_gib, pool.num_gpus, dict(pool.resources))
