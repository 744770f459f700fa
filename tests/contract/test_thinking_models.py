"""Models that think: what the trainer is fed is the recorded prompt's ids and the recorded output's ids, nothing else.

The templates do what R1's and Qwen3's do: the prompt opens ``<think>`` (R1), or leaves it to the model (Qwen3), and of an
assistant's turn only what follows ``</think>`` is rendered. A conversation rendered anew would lose the thinking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bcpg_cluster.records import Prompt, StopReason
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.fakes.skill import verify_skill
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.generate.stage import generate
from bcpg_cluster.stages.generate.token_texts import token_texts
from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.stages.judge.stage import judge
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.segmenters import StructuralSegmenter
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import TrainSettings
from bcpg_cluster.stages.train.torch_trainer import TorchTrainer
from bcpg_cluster.stages.train.worker import ReferencePiece, TrainJob, TrainWorker
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.stage import verify
from bcpg_cluster.stages.weigh.stage import WeighSettings, weigh
from bcpg_cluster.store.rows import Row, prompt_row, rollouts_from
from bcpg_cluster.store.shards import write_shard

TURNS = (
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "<|{{ m['role'] }}|>{{ text }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
)
R1 = TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
QWEN3 = TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
THOUGHTS = [
    "12 + 7 = 19\n</think>\n\nthe answer is 19",
    "12 + 7 = 42\nwait, so that's wrong\n</think>\n\nthe answer is 42",
]


class ScriptedEngine:
    """Renders as the rollout engine does, and answers with the token ids of given texts."""

    policy_version = 0
    max_model_len = None
    render = VllmGenerator.render

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        import threading

        self._tokenizer, self._tokenizer_lock, self._texts = tokenizer, threading.Lock(), texts

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        drawn = []
        for text, _ in zip(self._texts, requests, strict=True):
            ids = (*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id)
            texts = token_texts(self._tokenizer, ids)
            drawn.append(Generation(tuple(ids), (-0.5,) * len(ids), texts, StopReason.STOP, 0))
        return drawn


@pytest.fixture(params=["r1", "qwen3"])
def thinking_model(request: pytest.FixtureRequest, make_model: Callable[..., tuple[Any, str]]) -> tuple[str, list[str]]:
    """A tiny model's directory with such a template, and what it answers."""
    _, path = make_model(True, seed=5)
    opens = request.param == "r1"
    Path(path, "chat_template.jinja").write_text(R1 if opens else QWEN3)
    return path, [text if opens else f"<think>\n{text}" for text in THOUGHTS]


def rows_of_a_round(engine: Any) -> dict[str, list[Row]]:
    """The stages of a round on one prompt, as far as the trainer's table."""
    tables: dict[str, list[Row]] = {"prompts": [prompt_row(Prompt("a", "12 + 7 = ?", "19"))]}

    def job(output: str, **parameters: Any) -> StageJob:
        return StageJob("/nowhere", output, output, 1, 0, "att", {}, parameters)

    start = {"policy_version": 0, "run_seed": 0}
    tables["rollouts"] = generate(
        tables, job("rollouts", **start), engine=engine, group_size=2, sampling=Sampling(99), seed_per_request=True
    ).rows
    verifier = ExactVerifier(r"the answer is (\S+)", True)
    tables["outcomes"] = verify(
        tables, job("outcomes"), verifier=verifier, prompts_table="prompts", rollouts_table="rollouts"
    ).rows
    tables["steps"] = segment(tables, job("steps"), cut=ByText(StructuralSegmenter()), min_verified_share=0.5).rows
    llm = FakeJudge("llm", precision=0.9, recall=0.9)
    tables["verdicts.llm"] = judge(tables, job("verdicts.llm"), engine=llm, name="llm", show_gold=False).rows
    settings = WeighSettings(
        voters=("llm",),
        measures=(),
        thresholds={"llm": 0.5},
        rule="all",
        beta=0.5,
        min_verified_share=0.5,
        truncated="negative",
        flip_rate=0.0,
        seed=0,
        objective=Bcpg(),
    )
    tables["weighted"] = weigh(tables, job("weighted", weigh=settings)).rows
    return tables


def test_training_text_is_what_was_recorded(thinking_model: tuple[str, list[str]], tmp_path: Path) -> None:
    path, texts = thinking_model
    tokenizer = AutoTokenizer.from_pretrained(path)
    tables = rows_of_a_round(ScriptedEngine(tokenizer, texts))
    rollouts = rollouts_from(tables["rollouts"])
    assert [rollout.text for rollout in rollouts] == texts, "thinking is part of the response"
    recorded = {rollout.prompt_token_ids + rollout.token_ids for rollout in rollouts}

    receipt = write_shard(
        tmp_path, table="weighted", round_=1, shard=0, attempt="a", rows=tables["weighted"], seconds=0.0, metrics={}
    )
    settings = TrainSettings(objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-4)
    trainer = TorchTrainer("cpu")
    worker = TrainWorker(0, 1, lambda rank, size, host, port: trainer, verify_skill)
    worker.meet("localhost", 0)
    job = TrainJob(tmp_path, 1, path, (receipt,), settings, "checkpoints")
    assert worker.begin(job) == 2
    seen: list[torch.Tensor] = []
    trainer._opened().causal_lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    assert len(worker.train(job, [worker.reference(job, ReferencePiece(0, {"weighted": receipt}), "r")])) == 1
    worker.close()
    assert len(seen) == 2, "the reference pass and the step"
    for batch in seen:
        # Padding is on the right, so a row begins with the whole of what was recorded.
        assert {tuple(row[: len(ids)].tolist()) for row in batch for ids in recorded} >= recorded
        assert batch.shape == (2, max(map(len, recorded)))

    for rollout in rollouts:  # what the test is for: a template applied anew says something else
        messages = [{"role": "user", "content": "12 + 7 = ?"}, {"role": "assistant", "content": rollout.text}]
        again = tokenizer.apply_chat_template(messages, return_dict=False)
        assert tuple(again) not in recorded
        assert "wait" not in tokenizer.decode(again)
