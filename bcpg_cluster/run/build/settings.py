"""From config sections to the settings that jobs carry."""

from __future__ import annotations

from bcpg_cluster.config.run import Config
from bcpg_cluster.config.training import LoraConfig
from bcpg_cluster.stages.train.protocol import LoraSettings, TrainSettings
from bcpg_cluster.stages.weigh.stage import WeighSettings


def train_settings(config: Config, round_: int) -> TrainSettings:
    """One round's training; every round shuffles by a seed of its own."""
    section = config.train.model_dump(
        exclude={
            "kind",
            "group_timeout_s",
            "progress_timeout_s",
            "heartbeat_timeout_s",
        }  # the group's, not a training's
    )
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
        measures=config.measures,
        thresholds={name: judge.threshold for name, judge in config.judges.items()},
        rule=config.consensus_rule,
        beta=section.beta,
        min_verified_share=section.min_verified_share,
        truncated=section.truncated,
        flip_rate=section.flip_rate,
        seed=config.seed,
        objective=config.objective,
        mine=section.mine,
    )
