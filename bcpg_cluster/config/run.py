"""The whole configuration of a run, and the rules that hold between its sections. Importable without torch.

A config file is YAML with these sections; every field has a default except the models, the prompts, the judges and the
longest response. Unknown keys are errors. ``embedded:NAME`` names something shipped inside the package. A file may build on
another one: ``extends: other.yaml``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bcpg_cluster.config.identity import Decides, FirstReadBy, deciding_content
from bcpg_cluster.config.judges import JudgeConfig, WeighConfig
from bcpg_cluster.config.policy import EvaluateConfig, GenerateConfig, PolicyConfig
from bcpg_cluster.config.pools import PoolConfig
from bcpg_cluster.config.prompts import PromptsConfig
from bcpg_cluster.config.responses import SegmentConfig, VerifyConfig
from bcpg_cluster.config.section import Section, num_ranks
from bcpg_cluster.config.tracking import StorageConfig, TrackingConfig
from bcpg_cluster.config.training import PushConfig, SnapshotsConfig, TrainConfig
from bcpg_cluster.stages.generate.protocol import MOST_LOGPROBS
from bcpg_cluster.stages.graph import StageSpec, data_stages
from bcpg_cluster.stages.judge.cascade import check_cascade, in_order
from bcpg_cluster.stages.train.objective import Bcpg, Objective
from bcpg_cluster.stages.weigh.consensus import ConsensusRule

TRAINER_RANKS = "trainer_ranks"
"""Stands in a run's identity for ``pools.trainer.members``, which decides the last bits of the results."""


class Config(Section):
    """A whole run."""

    name: Annotated[str, Decides.NEVER] = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its directory is ``runs/<name>``, and its Ray namespace follows the directory."""
    seed: int = Field(0, ge=0)
    """Seed of everything random: prompt order, sampling seeds, shuffles in training."""
    placement: Annotated[Literal["separate", "colocated"], Decides.NEVER] = "separate"
    """``separate`` gives every pool resources of its own, and stages overlap; ``colocated`` lets pools take turns on the same
    ones: rollouts, each judge, trainers. Results are the same."""
    pipeline: Annotated[Literal["auto", "overlapped", "serial"], Decides.NEVER] = "auto"
    """``overlapped`` lets what is idle work: reference log-probs on the trainers while the round's data is made, the evaluation of
    a version while the next round trains. ``serial`` does one after the other. ``auto`` is overlapped where pools are separate.
    Results are the same."""
    autoscaling: Annotated[Literal["auto"] | bool, Decides.NEVER] = "auto"
    """Whether nodes may still join the cluster. ``auto`` finds out where it can, on the head of a cluster that `ray up` started;
    elsewhere a cluster without room for the run is an error at once."""
    max_quarantined_share: Annotated[float, Decides.NEVER] = Field(0.01, ge=0, le=1)
    """Share of a stage's samples (of generation: prompts) that a round leaves out, by name, when they end their workers again and
    again; 4 may always be. Above it the run stops; 0 stops at the first."""
    policy: PolicyConfig
    prompts: PromptsConfig
    generate: GenerateConfig
    verify: VerifyConfig = Field(default_factory=VerifyConfig)
    segment: Annotated[SegmentConfig, FirstReadBy("segment")] = Field(default_factory=SegmentConfig)
    judges: dict[str, JudgeConfig]
    weigh: Annotated[WeighConfig, FirstReadBy("weigh")] = Field(default_factory=WeighConfig)
    objective: Annotated[Objective, FirstReadBy("weigh"), Field(discriminator="name")] = Field(default_factory=Bcpg)
    """The loss and its options, chosen by ``name``; without one it is ``bcpg``. See [Objectives](#objectives)."""
    train: Annotated[TrainConfig, FirstReadBy("train")] = Field(default_factory=TrainConfig)
    push: PushConfig = Field(default_factory=PushConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    pools: Annotated[dict[str, PoolConfig], Decides.NEVER] = Field(default_factory=dict)
    snapshots: Annotated[SnapshotsConfig, Decides.NEVER] = Field(default_factory=SnapshotsConfig)
    storage: Annotated[StorageConfig, Decides.NEVER] = Field(default_factory=StorageConfig)
    tracking: Annotated[TrackingConfig, Decides.NEVER] = Field(default_factory=TrackingConfig)

    @field_validator("objective", mode="before")
    @classmethod
    def _bcpg_unless_named(cls, objective: Any) -> Any:
        return {"name": "bcpg", **objective} if isinstance(objective, dict) else objective

    @field_validator("judges")
    @classmethod
    def _judge_names(cls, judges: dict[str, JudgeConfig]) -> dict[str, JudgeConfig]:
        for name in judges:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"judge name {name!r} must be letters, digits, '_' or '-' (it names a pool and a table)"
                )
        if not any(judge.role == "vote" for judge in judges.values()):
            raise ValueError("no judge has role 'vote'; without one no step can be mined")
        return judges

    @model_validator(mode="after")
    def _idle_pools_can_work(self) -> Config:
        if self.pipeline == "overlapped" and self.placement == "colocated":
            raise ValueError(
                "pipeline is 'overlapped' and placement 'colocated': pools that take turns on the same machine have none that "
                "could work while another does; set pipeline: serial (or leave it out), or placement: separate"
            )
        return self

    @property
    def is_overlapped(self) -> bool:
        """Whether what is idle works ahead."""
        return self.pipeline == "overlapped" or (self.pipeline == "auto" and self.placement == "separate")

    @model_validator(mode="after")
    def _rule_fits_the_voters(self) -> Config:
        self.consensus_rule.check_judges(self.voters)
        return self

    @model_validator(mode="after")
    def _voters_mean_the_same(self) -> Config:
        rules = {name: self.judges[name].rule for name in self.voters}
        if len(set(rules.values())) > 1:
            said = ", ".join(f"{name}: {rule}" for name, rule in rules.items())
            raise ValueError(
                f"the judges that vote call different steps right (judges.*.rule: {said}), so their consensus would mean neither; "
                "set one rule for all of them, or role: spare for those of the other"
            )
        return self

    @property
    def consensus_rule(self) -> ConsensusRule:
        """How the voters decide."""
        section = self.weigh
        return ConsensusRule(
            section.rule, section.abstention, section.num_needed, dict(section.accuracies), section.prior
        )

    @model_validator(mode="after")
    def _cascade_keeps_the_labels(self) -> Config:
        check_cascade({name: judge.after for name, judge in self.judges.items()}, self.voters, self.consensus_rule)
        return self

    @model_validator(mode="after")
    def _one_engine_a_pool(self) -> Config:
        engines: dict[str, tuple[str, JudgeConfig]] = {}
        for name, judge in self.judges.items():
            if judge.kind not in ("llm", "prm"):
                continue
            pool = self.judge_pool(name)
            first, other = engines.setdefault(pool, (name, judge))
            engine, others = ((j.kind, j.model, j.engine_args, j.trust_remote_code) for j in (judge, other))
            if engine != others or (judge.kind == "prm" and name != first):
                raise ValueError(
                    f"judges {first!r} and {name!r} are both in pool {pool!r}, whose members host one engine each: judges "
                    "share it when they are of kind 'llm' with the same model and engine_args; give one of them another pool"
                )
        return self

    @model_validator(mode="after")
    def _segmenter_has_a_judge(self) -> Config:
        asked = self.segment.judge
        if asked is not None and (asked not in self.judges or self.judges[asked].kind not in ("llm", "openai")):
            known = ", ".join(name for name, judge in self.judges.items() if judge.kind in ("llm", "openai")) or "none"
            raise ValueError(
                f"segment.judge is {asked!r}, which is no judge of kind 'llm' or 'openai'; those of this config are {known}"
            )
        return self

    @model_validator(mode="after")
    def _entropies_can_be_stored(self) -> Config:
        most = int(self.policy.engine_args.get("max_logprobs", MOST_LOGPROBS))
        if self.policy.kind == "vllm" and 0 <= most < self.entropy_top_k:
            raise ValueError(
                f"generate.entropy_top_k is {self.entropy_top_k}, and the policy's engines give the log-probs of {most} tokens at "
                "most; lower it, or raise policy.engine_args.max_logprobs"
            )
        if self.segment.kind == "entropy" and not self.entropy_top_k:
            raise ValueError(
                "segment.kind 'entropy' reads what generate.entropy_top_k stores, and that is 0; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _pools_are_used(self) -> Config:
        unknown = sorted(set(self.pools) - set(self.pool_names()))
        if unknown:
            used = ", ".join(self.pool_names())
            raise ValueError(f"pools: nothing uses {', '.join(unknown)}; the pools of this config are {used}")
        if self.pool("trainer").target_queue_per_actor is not None:
            raise ValueError("pools.trainer.target_queue_per_actor: a trainer group cannot resize during a run")
        if self.train.kind in ("torch", "fake") and self.pool("trainer").members != 1:
            raise ValueError(f"train.kind {self.train.kind!r} is one process; set pools.trainer.members to 1")
        return self

    @model_validator(mode="after")
    def _adapters_can_be_served(self) -> Config:
        if self.push.carries == "adapters" and (why := self._why_no_adapters()):
            raise ValueError(f"push.carries is 'adapters', but {why}; set it to 'weights', which always works")
        return self

    def _why_no_adapters(self) -> str | None:
        """Why adapters cannot be pushed alone; ``None`` where they can."""
        engine = self.policy.engine_args
        if self.train.lora is None:
            return "train.lora is null, so whole weights are trained and there are none"
        if "fake" in (self.policy.kind, self.train.kind):
            return "a fake has no weights that they could be merged into"
        if self.push.backend == "disk":
            return "push.backend 'disk' sends nothing: engines load the snapshot, in which they are merged already"
        if engine.get("quantization") is not None:
            return (
                f"the engines quantise the policy (policy.engine_args.quantization: {engine['quantization']}), and adapters are "
                "merged into plain weights, whose arrival can be checked parameter by parameter"
            )
        if (form := engine.get("load_format", "auto")) not in ("auto", "safetensors"):
            return f"the engines read the policy by load_format {form!r}, and merging reads safetensors again"
        return None

    @model_validator(mode="after")
    def _sleepers_can(self) -> Config:
        for name in self.pool_names():
            if self.pool(name).when_idle == "sleep" and not self.engine_args(name).get("enable_sleep_mode"):
                raise ValueError(
                    f"pools.{name}.when_idle is 'sleep', which needs a vLLM engine with engine_args.enable_sleep_mode: true"
                )
        return self

    @model_validator(mode="after")
    def _gpus_fit_the_engine(self) -> Config:
        for name in self.pool_names():
            args, gpus = self.engine_args(name), self.pool(name).num_gpus
            ranks = num_ranks(args)
            if gpus and args and (gpus != ranks if ranks > 1 else gpus > 1):
                raise ValueError(
                    f"pools.{name}.num_gpus is {gpus:g}, but its engine_args split an engine into {ranks} parts "
                    "(tensor_parallel_size times pipeline_parallel_size): a member hosts one engine and needs a GPU for each part"
                )
        return self

    def engine_args(self, pool: str) -> dict[str, Any]:
        """The options of the vLLM engines in a pool; empty for one without."""
        if pool == "rollout":
            return self.policy.engine_args if self.policy.kind == "vllm" else {}
        of_pool = [judge for name, judge in self.judges.items() if self.judge_pool(name) == pool]
        return next((judge.engine_args for judge in of_pool if judge.kind in ("llm", "prm")), {})

    def judge_pool(self, judge: str) -> str:
        """The pool a judge runs in."""
        config = self.judges[judge]
        if config.pool:
            return config.pool
        if config.kind in ("chain_truth", "sums_truth", "fake"):
            return "cpu"
        return "prm" if judge == "prm" else f"judge.{judge}"

    @property
    def judge_pools(self) -> dict[str, str]:
        """The pool of every judge, by the judge's name; each behind those it comes after."""
        order = in_order({name: judge.after for name, judge in self.judges.items()})
        return {judge: self.judge_pool(judge) for judge in order}

    @property
    def judged_after(self) -> dict[str, tuple[str, ...]]:
        """By judge that comes after others: those."""
        return {name: judge.after for name, judge in self.judges.items() if judge.after}

    @property
    def deciding_beforehand(self) -> dict[str, Any]:
        """By judge that comes after others, all that says which steps it is not asked about."""
        return {
            name: {
                "rule": self.weigh.rule,
                "abstention": self.weigh.abstention,
                **{other: self.judges[other].threshold for other in earlier},
            }
            for name, earlier in self.judged_after.items()
        }

    @property
    def segment_pool(self) -> str:
        """The pool whose members cut responses: that of the judge whose model is asked, else ``cpu``."""
        return "cpu" if self.segment.judge is None else self.judge_pool(self.segment.judge)

    @property
    def data_stages(self) -> tuple[StageSpec, ...]:
        """From prompts to weighted samples, by these judges."""
        return data_stages(self.judge_pools, self.judged_after, self.segment_pool)

    @property
    def entropy_top_k(self) -> int:
        """Of how many tokens at each place the stored entropy is made; 0 stores none."""
        chosen = self.generate.entropy_top_k
        return (MOST_LOGPROBS if self.segment.kind == "entropy" else 0) if chosen is None else chosen

    def pool_names(self) -> Iterator[str]:
        """All pools of this run, in start order."""
        yield "rollout"
        for pool in dict.fromkeys(self.judge_pool(judge) for judge in self.judges):
            if pool != "cpu":
                yield pool
        yield "cpu"
        yield "trainer"

    def pool(self, name: str) -> PoolConfig:
        """A pool's settings; the defaults when the file does not mention it."""
        return self.pools.get(name, PoolConfig())

    @property
    def voters(self) -> tuple[str, ...]:
        """The judges whose consensus mines a step."""
        return tuple(name for name, judge in self.judges.items() if judge.role == "vote")

    @property
    def measures(self) -> tuple[str, ...]:
        """The judges that know the truth: they have no vote, the others are held against them."""
        return tuple(name for name, judge in self.judges.items() if judge.role == "measure")

    @property
    def deciding(self) -> dict[str, Any]:
        """All that decides results, as JSON values: the keys that are marked so, and the number of trainer ranks."""
        return {**deciding_content(self), TRAINER_RANKS: self.pool("trainer").members}

    @property
    def identity(self) -> str:
        """Digest of :attr:`deciding`: two configs of one identity are the same run."""
        return hashlib.sha256(json.dumps(self.deciding, sort_keys=True).encode()).hexdigest()[:16]
