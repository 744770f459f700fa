"""A run with one judged round of generated responses, for benchmarks and tests of what grows with a round.

The sealed tables are made by the real stages (verify, segment, weigh) from texts and verdicts that a random generator writes. A
token is a word; a step is a line.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Prompt, Receipt, Rollout, SampleId, StopReason, Verdict, VerdictStatus
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.stages.job import Stage, StageJob, StageWorker
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.segmenters import StructuralSegmenter
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.verify.math_answer import MathVerifier
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.stages.weigh.stage import WeighSettings, weigh
from bcpg_cluster.store.manifest import Manifest, ManifestState, read_manifest
from bcpg_cluster.store.rows import Row, prompt_row, rollout_row, verdict_row
from bcpg_cluster.store.shards import read_shard, write_shard

ROUND = 1
_STEP_TOKENS = 16
_RIGHT_SHARE = 0.25  # of the responses, and at least one of a group


@dataclass(frozen=True, slots=True)
class RoundSize:
    """How large a round is.

    Attributes:
        tokens: of every response.
        judges: the first gives labels, the others scores; a further one, ``truth``, measures.
        prompts: of a shard.
    """

    shards: int = 1
    group_size: int = 16
    tokens: int = 256
    judges: int = 2
    prompts: int = 4

    @property
    def voters(self) -> tuple[str, ...]:
        """The names of the judges that vote."""
        return tuple(f"j{number}" for number in range(self.judges))


def config_of(size: RoundSize) -> Config:
    """Of a run that could have made such a round."""
    judges = {name: {"kind": "fake", "pool": f"judge.{name}"} for name in size.voters}
    content = {
        "name": "generated",
        "policy": {"kind": "fake", "model": "fake"},
        "prompts": {"train": "given", "test": "given", "per_round": size.shards * size.prompts},
        "generate": {"group_size": size.group_size, "max_tokens": size.tokens, "prompts_per_shard": size.prompts},
        "judges": {**judges, "truth": {"kind": "fake", "pool": "judge.j0", "role": "measure"}},
        "objective": {"tau": 0.1},
        "train": {"kind": "fake", "learning_rate": 1e-4},
        "pools": {f"judge.{name}": {"members": 1} for name in size.voters},
    }
    return parse_config(content, "generated_round")


def make_run(run_dir: Path, size: RoundSize, seed: int) -> Path:
    """Write the run; its directory."""
    with open_run(run_dir, config_of(size)) as manifest, stage_worker() as worker:
        for shard in range(size.shards):
            prompts = [Prompt(f"p{shard}-{k}", f"What is {k} and {shard}?", "7") for k in range(size.prompts)]
            _accept(manifest, "prompts", shard, [prompt_row(prompt) for prompt in prompts])
            _accept(manifest, "rollouts", shard, list(_rollouts(prompts, size, random.Random(f"{seed}/{shard}"))))
            for stage in ("verify", "segment"):
                manifest.accept(worker.run(job_of(run_dir, manifest.state, size, stage, shard)))
            cut = read_shard(run_dir, _receipt(manifest.state, "steps", shard))
            for judge in (*size.voters, "truth"):
                rows = list(_verdicts(cut, judge, random.Random(f"{seed}/{shard}/{judge}")))
                _accept(manifest, f"verdicts.{judge}", shard, rows)
            manifest.accept(worker.run(job_of(run_dir, manifest.state, size, "weigh", shard)))
        for table in ("prompts", "rollouts", "outcomes", "steps", "weighted", *_verdict_tables(size)):
            manifest.seal(ROUND, table, size.shards)
    return run_dir


@contextmanager
def stage_worker() -> Iterator[StageWorker]:
    """A worker with the stages that need no engine."""
    verifier = MathVerifier()
    made: dict[str, Stage] = {
        "verify": partial(verify, verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"),
        "segment": partial(segment, cut=ByText(StructuralSegmenter()), min_verified_share=0.5),
        "weigh": weigh,
    }
    worker = StageWorker(made, others=[verifier])
    try:
        yield worker
    finally:
        worker.close()


_READS = {"verify": ("prompts", "rollouts"), "segment": ("rollouts", "outcomes")}
_WRITES = {"verify": "outcomes", "segment": "steps", "weigh": "weighted"}


def job_of(
    run_dir: Path, state: ManifestState, size: RoundSize, stage: str, shard: int, attempt: str = "a"
) -> StageJob:
    """What a lease of the stage carries."""
    reads = _READS.get(stage, ("rollouts", "outcomes", "steps", *_verdict_tables(size)))
    settings = WeighSettings(
        size.voters,
        ("truth",),
        dict.fromkeys((*size.voters, "truth"), 0.5),
        "all",
        0.5,
        0.5,
        "negative",
        0.0,
        0,
        Bcpg(),
    )
    inputs = {table: _receipt(state, table, shard) for table in reads}
    return StageJob(run_dir, stage, _WRITES[stage], ROUND, shard, attempt, inputs, {"weigh": settings})


def state_of(run_dir: Path) -> ManifestState:
    """The manifest of a run that :func:`make_run` made."""
    return read_manifest(run_dir)


def _verdict_tables(size: RoundSize) -> tuple[str, ...]:
    return tuple(f"verdicts.{name}" for name in (*size.voters, "truth"))


def _receipt(state: ManifestState, table: str, shard: int) -> Receipt:
    return next(receipt for receipt in state.receipts(ROUND, table) if receipt.shard == shard)


def _accept(manifest: Manifest, table: str, shard: int, rows: Sequence[Row]) -> None:
    manifest.accept(
        write_shard(
            manifest.run_dir, table=table, round_=ROUND, shard=shard, attempt="a", rows=rows, seconds=0.0, metrics={}
        )
    )


def _rollouts(prompts: Sequence[Prompt], size: RoundSize, draw: random.Random) -> Iterator[Row]:
    num_right = max(1, int(_RIGHT_SHARE * size.group_size))
    for prompt in prompts:
        for sample in range(size.group_size):
            texts = _texts(size.tokens, "7" if sample < num_right else "8", draw)
            logprobs = tuple(-draw.expovariate(4.0) for _ in texts)
            ids = tuple(draw.randrange(32_000) for _ in texts)
            yield rollout_row(
                Rollout(
                    SampleId(ROUND, prompt.prompt_id, sample),
                    (1,) * 32,
                    ids,
                    logprobs,
                    texts,
                    StopReason.STOP,
                    0,
                    sample,
                )
            )


def _texts(num_tokens: int, answer: str, draw: random.Random) -> tuple[str, ...]:
    """Lines of words; the last one has the answer."""
    texts = [
        "\n" if place % _STEP_TOKENS == _STEP_TOKENS - 1 else f"{draw.randrange(100)} "
        for place in range(num_tokens - 2)
    ]
    return (*texts, f"\\boxed{{{answer}}}", "")


def _verdicts(steps: Sequence[Row], judge: str, draw: random.Random) -> Iterator[Row]:
    """Scores of a judge, but labels of the first and of the truth; some errors of all judges fall together."""
    for row in steps:
        id_ = SampleId(row["round"], row["prompt_id"], row["sample"])
        is_right = random.Random(f"{id_}/{row['step']}").random() < 0.5
        said = is_right if draw.random() < 0.8 or judge == "truth" else not is_right
        given = {"label": int(said)} if judge in ("j0", "truth") else {"score": draw.uniform(0.5, 1.0) if said else 0.2}
        raw = f"step {row['step']} is {'right' if said else 'wrong'}, since it follows from what is before it"
        yield verdict_row(Verdict(id_, row["step"], judge, "v", VerdictStatus.JUDGED, raw=raw, **given))
