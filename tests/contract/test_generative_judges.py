"""Generative process reward models on a real engine: a tiny random model is asked, and says, what it does in transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pytest

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.run.build.judges import load_judge_prompt
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.judge.llm.families.families import FAMILIES
from bcpg_cluster.stages.judge.llm.families.family import Shown
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.protocol import JudgeCase

pytestmark = pytest.mark.engine

NUM_TOKENS = 24
CONTEXT = 2048
CASE = JudgeCase("1+1+1?", ("1+1=2\n", "2+1=4\n", "answer 4"), gold="3")
VIEWS: dict[str, Literal["causal", "full"]] = {"thinkprm": "full", "genprm": "causal", "rprm": "causal"}


@pytest.fixture(scope="module")
def long_model(tied_model: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model, with room for what these judges are shown (its positions are rotary: no weight depends on it)."""
    path = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(tied_model[1], path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return str(path)


@pytest.fixture(scope="module")
def engine(long_model: str, engine_args: dict[str, Any]) -> Iterator[Any]:
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    options = engine_args | {"max_model_len": CONTEXT, "max_num_seqs": 8}
    generator = VllmGenerator(long_model, engine_args=options, weight_transfer_backend=None)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def says(long_model: str) -> Callable[[Sequence[Mapping[str, str]]], str]:
    """What the model answers greedily to chat messages, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(long_model).eval(),
        AutoTokenizer.from_pretrained(long_model),
    )

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        prompt = torch.tensor([ids])
        with torch.no_grad():
            made = model.generate(prompt, max_new_tokens=NUM_TOKENS, do_sample=False)[0, prompt.shape[1] :]
        return str(tokenizer.decode(made, skip_special_tokens=True))

    return answer


@pytest.mark.parametrize("name", list(VIEWS))
def test_it_is_asked_in_its_layout_and_its_thought_is_kept(name: str, engine: Any, says: Any) -> None:
    """A random model never comes to a verdict: its thought is kept as it is, bounded, and is no label."""
    prompt, family = load_judge_prompt(f"embedded:{name}"), FAMILIES[name]
    transport = GeneratorTransport(engine, "tiny", Sampling(NUM_TOKENS, 0.0), CONTEXT - NUM_TOKENS)
    (row,) = LlmJudge("j", transport, JudgeOptions(prompt, VIEWS[name])).judge([CASE]).judgements
    assert {said.status for said in row} == {VerdictStatus.UNPARSABLE}
    assert all(said.label is None and said.score is None for said in row)
    if VIEWS[name] == "full":
        wanted = [says(family.messages(prompt, Shown(CASE.problem, CASE.steps, ())))] * len(CASE.steps)
    else:
        wanted = []
        for index in range(len(CASE.steps)):  # in a conversation the answers before are part of the prompt
            wanted.append(says(family.messages(prompt, Shown(CASE.problem, CASE.steps[: index + 1], tuple(wanted)))))
        assert len(set(wanted)) > 1
    assert [said.raw for said in row] == wanted
