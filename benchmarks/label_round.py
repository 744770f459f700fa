"""One round on the embedded sums whose step labels come from oracle judges of chosen quality: the data that a seed's arms
share, and an arm's labels, training and accuracy. Stages, trainer and judges are the project's own; ``torch_sampler.py`` samples.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from label_arms import NUM_JUDGES, Accuracy, Achieved, Labels, Size
from torch_sampler import TorchSampler

from bcpg_cluster.assets.sums.task import step_truths
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.records import Prompt, Rollout, SampleId, StepRule, StopReason
from bcpg_cluster.run.build.default_config import read_config
from bcpg_cluster.run.build.segmenters import make_segmenter
from bcpg_cluster.run.build.settings import train_settings, weigh_settings
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.generate.token_texts import token_texts
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase
from bcpg_cluster.stages.judge.stage import judge
from bcpg_cluster.stages.judge.task_truth import TaskTruth
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, TrainSettings
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from bcpg_cluster.stages.train.worker import train_row
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.stages.weigh.counts import CONSENSUS, QualityCell, Said, Unit, WeighCounts
from bcpg_cluster.stages.weigh.stage import weigh
from bcpg_cluster.store.rows import Row, WeightedRow, prompt_row, rollout_row, weighted_from
from bcpg_cluster.watch.report.round_report import judge_report

TRUTH = "truth"


@dataclass(frozen=True, slots=True)
class OfflineSet:
    """A seed's responses, cut and truly labelled. ``base_rate``: right steps among those that can be mined."""

    seed: int
    config: Config
    tables: Mapping[str, list[Row]]
    base_rate: float


@dataclass(frozen=True, slots=True)
class SharedRound:
    """What all arms of a seed share."""

    offline: OfflineSet
    reference: Mapping[SampleId, ReferenceLogprobs]
    test: Sequence[Prompt]
    start: Accuracy


def make_config(size: Size, seed: int) -> Config:
    """The embedded default with this size's training."""
    return read_config(
        None,
        [
            f"train.learning_rate={size.learning_rate!r}",
            f"train.min_learning_rate={size.learning_rate / 10!r}",
            f"train.epochs={size.epochs}",
            f"train.batch_sequences={size.batch_sequences}",
            "train.micro_batch_tokens=2048",
            "train.checkpoint_every_steps=0",
            f"generate.group_size={size.samples}",
        ],
        seed,
    )


def draw_offline_set(size: Size, seed: int) -> OfflineSet:
    """Draw from the embedded policy, verify and cut, and label with the truth."""
    config = make_config(size, seed)
    prompts = random.Random(seed).sample(read_prompts(resolve_asset(config.prompts.train)), size.prompts)
    tables = {"prompts": [prompt_row(prompt) for prompt in prompts]}
    tables["rollouts"] = [rollout_row(rollout) for rollout in _rollouts(TorchSampler(_policy_path()), prompts, config)]
    verifier = ExactVerifier(config.verify.answer_pattern, config.verify.numeric)
    tables["outcomes"] = verify(
        tables, _job("verify"), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"
    ).rows
    share = config.weigh.min_verified_share
    tables["steps"] = segment(
        tables, _job("segment"), cut=ByText(make_segmenter(config.segment)), min_verified_share=share
    ).rows
    tables[f"verdicts.{TRUTH}"] = _verdicts(tables, TRUTH, TaskTruth("sums", size.step_rule))
    return OfflineSet(seed, config, tables, _right_share(_weighed(config, tables, (TRUTH,), "all", 1.0)[1]))


def make_round(size: Size, seed: int) -> SharedRound:
    """A seed's offline set, its reference log-probs, and the accuracy it starts from."""
    offline = draw_offline_set(size, seed)
    config = offline.config
    rows, _ = _weighed(config, offline.tables, (TRUTH,), "all", 1.0)
    test = read_prompts(resolve_asset(config.prompts.test))[: size.test_problems]
    start = measure(TorchSampler(_policy_path()), test, config, size.test_samples, seed)
    return SharedRound(offline, _reference(rows, _settings(config)), test, start)


def run_arm(shared: SharedRound, labels: Labels, size: Size) -> tuple[Achieved, Accuracy, float]:
    """Label, weigh, train and measure; the last is the processor seconds it took."""
    started, config = time.process_time(), shared.offline.config
    rows, achieved = labelled_rows(shared.offline, labels, size.step_rule)
    trainer = TorchTrainer("cpu")
    trainer.open(_policy_path(), _settings(config))
    trainer.train([train_row(row, shared.reference[row.id]) for row in rows], None)
    with tempfile.TemporaryDirectory() as place:
        snapshot = str(Path(place, "snapshot"))
        trainer.save_snapshot(snapshot)
        trainer.close()
        policy = TorchSampler(snapshot)
    accuracy = measure(policy, shared.test, config, size.test_samples, shared.offline.seed)
    return achieved, accuracy, time.process_time() - started


def labelled_rows(offline: OfflineSet, labels: Labels, step_rule: StepRule) -> tuple[list[WeightedRow], Achieved]:
    """The rows an arm trains on, by the labels of its judges, and how right those are."""
    judges = oracle_judges(labels, offline.base_rate, offline.seed, step_rule)
    verdicts = {f"verdicts.{name}": _verdicts(offline.tables, name, oracle) for name, oracle in judges.items()}
    rule = "all" if labels.rule == "single" else labels.rule
    rows, counts = _weighed(offline.config, {**offline.tables, **verdicts}, tuple(judges), rule, labels.beta)
    return rows, achieved_quality(counts, tuple(judges))


def oracle_judges(labels: Labels, base_rate: float, seed: int, step_rule: StepRule) -> dict[str, Judge]:
    """Judges of the quality asked for, by name.

    Their draws depend on seed, name and what they see, not on the quality: of two judges of one name the worse one errs wherever
    the better one does.

    Raises:
        ValueError: no judge can be of this quality, where so many steps are right.
    """

    def truth(case: JudgeCase) -> list[bool]:
        return [found.is_correct for found in step_truths(case.problem, case.steps, step_rule)]

    names = [f"oracle-{seed}-{index}" for index in range(1 if labels.rule == "single" else NUM_JUDGES)]
    return {
        name: FakeJudge(
            name,
            recall=labels.recall,
            precision=labels.precision,
            base_rate=base_rate,
            truth=truth,
            correlation=labels.correlation,
            ensemble=f"oracle-{seed}",
        )
        for name in names
    }


def achieved_quality(counts: WeighCounts, voters: Sequence[str]) -> Achieved:
    """From what ``weigh`` counted of the consensus beside the truth."""

    def cell(truth: Said, said: Said, unit: Unit) -> int:
        return counts.quality[QualityCell(CONSENSUS, TRUTH, truth, said, unit)]

    report = judge_report(counts, voters, (TRUTH,))
    steps = report.quality[CONSENSUS][TRUTH].steps
    kappas = [pair.kappa for pair in report.agreement.values() if pair.kappa is not None]
    return Achieved(
        precision=steps.precision,
        recall=steps.recall,
        false_right=cell("wrong", "right", "steps") / steps.count,
        false_wrong=cell("right", "wrong", "steps") / steps.count,
        kappa=sum(kappas) / len(kappas) if kappas else None,
        mined=counts.mined_share,
        mined_mass=counts.mined_gradient_share,
        mined_wrong=cell("wrong", "right", "tokens") / counts.wrong_tokens,
    )


def measure(policy: TorchSampler, test: Sequence[Prompt], config: Config, samples: int, seed: int) -> Accuracy:
    """Accuracy of a policy on the test problems. All arms of a seed draw with the same random numbers."""
    verifier = ExactVerifier(config.verify.answer_pattern, config.verify.numeric)
    rendered = [policy.render(prompt.question) for prompt in test]

    def solved(repeats: int, seed: int | None) -> tuple[float, float]:
        asked = [prompt for prompt in range(len(test)) for _ in range(repeats)]
        drawn = policy.draw([rendered[index] for index in asked], config.generate.max_tokens, seed=seed)
        rewards = []
        for index, response in zip(asked, drawn, strict=True):
            text = policy.tokenizer.decode(response.token_ids, skip_special_tokens=True)
            reason = StopReason.STOP if response.ended else StopReason.LENGTH
            rewards.append(verifier.verify(text, test[index].answer, reason).reward or 0.0)
        return sum(rewards) / len(rewards), sum(len(response.token_ids) for response in drawn) / len(drawn)

    sampled, mean_tokens = solved(samples, seed + 10_000)
    return Accuracy(sampled, solved(1, None)[0], mean_tokens)


def _policy_path() -> str:
    return resolve_asset("embedded:sums/policy")


def _settings(config: Config) -> TrainSettings:
    return train_settings(config, 1)


def _job(stage: str, **parameters: Any) -> StageJob:
    return StageJob(Path(), stage, stage, 1, 0, "1", {}, parameters)


def _rollouts(policy: TorchSampler, prompts: Sequence[Prompt], config: Config) -> list[Rollout]:
    asked = [(prompt, sample) for prompt in prompts for sample in range(config.generate.group_size)]
    rendered = {prompt.prompt_id: policy.render(prompt.question) for prompt in prompts}
    drawn = policy.draw(
        [rendered[prompt.prompt_id] for prompt, _ in asked], config.generate.max_tokens, seed=config.seed
    )
    return [
        Rollout(
            SampleId(1, prompt.prompt_id, sample),
            rendered[prompt.prompt_id],
            response.token_ids,
            response.logprobs,
            token_texts(policy.tokenizer, response.token_ids),
            StopReason.STOP if response.ended else StopReason.LENGTH,
            0,
            config.seed,
        )
        for (prompt, sample), response in zip(asked, drawn, strict=True)
    ]


def _verdicts(tables: Mapping[str, list[Row]], name: str, engine: Judge) -> list[Row]:
    seen = {
        table: tables[table] for table in ("prompts", "steps")
    }  # no other judge's verdicts: that would be a cascade
    return judge(seen, _job("judge"), engine=engine, name=name, show_gold=False).rows


def _weighed(
    config: Config, tables: Mapping[str, list[Row]], voters: tuple[str, ...], rule: str, beta: float
) -> tuple[list[WeightedRow], WeighCounts]:
    settings = replace(weigh_settings(config), voters=voters, measures=(TRUTH,), rule=rule, beta=beta)
    found = weigh(tables, _job("weigh", weigh=settings))
    return weighted_from(found.rows), WeighCounts.read(found.metrics)


def _right_share(counts: WeighCounts) -> float:
    """Of the steps of known truth."""
    found = judge_report(counts, (TRUTH,), (TRUTH,)).quality[TRUTH][TRUTH].steps.true_share
    assert found is not None
    return found


def _reference(rows: Sequence[WeightedRow], settings: TrainSettings) -> dict[SampleId, ReferenceLogprobs]:
    trainer = TorchTrainer("cpu")
    trainer.open(_policy_path(), settings)
    found = trainer.reference_logprobs([train_row(row) for row in rows])
    trainer.close()
    return {row.id: found[index] for index, row in enumerate(rows)}
