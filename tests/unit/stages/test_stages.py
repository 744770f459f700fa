"""The map stages together, on fakes."""

from __future__ import annotations

import pytest

from bcpg_cluster.records import (
    Prompt,
)
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.generate.stage import generate
from bcpg_cluster.stages.judge.stage import judge
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.segmenters import StructuralSegmenter
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.store.rows import (
    Row,
    prompt_row,
    weighted_from,
)
from tests.unit.stages.rows import SHARE, job, run_weigh


def test_a_prompt_longer_than_the_context_is_a_named_drop():
    """``prompts_too_long`` samples pass through every stage and are counted once, by name."""
    prompts = [
        Prompt("long", "1" * 300, "3"),
        *(Prompt(f"p{n}", f"{n} +17 *3 -25", str((((n + 17) % 100) * 3 - 25) % 100)) for n in range(4)),
    ]
    tables: dict[str, list[Row]] = {"prompts": list(map(prompt_row, prompts))}
    tables["rollouts"] = generate(
        tables, job(policy_version=0, run_seed=0), engine=FakeGenerator(skill=0.6, max_model_len=200), group_size=8,
        sampling=Sampling(100), seed_per_request=True,
    ).rows  # fmt: skip
    verified = verify(
        tables, job(), verifier=ExactVerifier(r"answer (\S+)", True), prompts_table="prompts", rollouts_table="rollouts"
    )
    assert verified.metrics["status.prompt_too_long"] == 8
    tables["outcomes"] = verified.rows
    assert [row["reward"] for row in verified.rows[:8]] == [None] * 8
    tables["steps"] = segment(tables, job(), cut=ByText(StructuralSegmenter()), min_verified_share=SHARE).rows
    tables["verdicts.llm"] = judge(tables, job(), engine=FakeJudge(), name="llm", show_gold=False).rows
    for truncated in ("negative", "mask", "drop"):
        metrics = run_weigh(tables, truncated=truncated).metrics
        assert metrics["asked"] == 40
        assert metrics["dropped.prompt_too_long"] == 8
        assert metrics["asked"] == metrics["kept"] + sum(v for k, v in metrics.items() if k.startswith("dropped."))
        assert metrics["kept"] > 0


def test_the_stages_fit_together_on_fakes():
    """generate → verify → segment → judge → weigh: every sample asked for is accounted for."""
    prompts = [Prompt(f"p{n}", f"{n} +17 *3 -25", str((((n + 17) % 100) * 3 - 25) % 100)) for n in range(12)]
    tables: dict[str, list[Row]] = {"prompts": list(map(prompt_row, prompts))}
    engine = FakeGenerator(skill=0.6)
    sampling = Sampling(100)
    tables["rollouts"] = generate(
        tables, job(output="rollouts", policy_version=0, run_seed=0), engine=engine, group_size=8, sampling=sampling,
        seed_per_request=True,
    ).rows  # fmt: skip
    verifier = ExactVerifier(r"answer (\S+)", True)
    tables["outcomes"] = verify(
        tables, job(), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"
    ).rows
    tables["steps"] = segment(tables, job(), cut=ByText(StructuralSegmenter()), min_verified_share=SHARE).rows
    tables["verdicts.llm"] = judge(tables, job(), engine=FakeJudge(), name="llm", show_gold=False).rows
    assert len(tables["verdicts.llm"]) == len(tables["steps"]) > 0
    result = run_weigh(tables)
    metrics = result.metrics
    assert metrics["asked"] == 96
    assert metrics["asked"] == metrics["kept"] + sum(v for k, v in metrics.items() if k.startswith("dropped."))
    assert 0 < metrics["kept"] == len(result.rows)
    assert 0 < metrics["tokens.mined"] < metrics["tokens.wrong"]
    by_group: dict[str, float] = {}
    for row in weighted_from(result.rows):
        by_group[row.id.prompt_id] = by_group.get(row.id.prompt_id, 0.0) + row.advantage
        assert len(row.token_weights) == len(row.token_ids)
        assert row.reward == 0.0 or set(row.token_weights) == {1.0}
    assert all(total == pytest.approx(0.0, abs=1e-9) for total in by_group.values())
