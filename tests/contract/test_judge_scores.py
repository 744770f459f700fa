"""Scores of the embedded LLM judge on a real engine, against a plain transformers forward."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.run.build.judges import load_judge_prompt, make_judge
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling, TextGenerator
from bcpg_cluster.stages.judge.llm.answer_schema import verdict_schema
from bcpg_cluster.stages.judge.llm.judge_prompt import render_judge_messages
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase

pytestmark = pytest.mark.engine

MODEL = resolve_asset("embedded:sums/judge")
# One mistake, one correction of a number, one step that cannot be told from its text alone.
CASES = [
    JudgeCase("49 -3 +73 -9 -5 +13", ("49-3=46", "46+73=19", "19-9=10", "10-5=4", "4+13=17", "answer 17")),
    JudgeCase("92 -56 -6 -37 +4 +8", ("92-56=36", "36-6=31", "31-37=94", "answer 94")),
    JudgeCase("17 +25 +3", ("17+25=42", "wait 42+3=46", "answer 45")),
]
SCORING = {"says": "probability"}
VOTING = {"votes": 3, "temperature": 1.5}


class Reference:
    """The judge's model, one plain forward a sequence."""

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(MODEL)

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(MODEL).eval()

    def logprobs(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Any:  # [tokens of the answer, vocabulary]
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *answer]])).logits[0]
        return logits[len(prompt) - 1 : -1].double().log_softmax(-1)

    def share_of_right(self, logprobs: Any) -> float:
        """P(right) over the whole vocabulary, by what each token begins with."""
        texts = [self.tokenizer.decode([token]).lstrip() for token in range(len(self.tokenizer))]
        mass = {
            word: sum(float(logprobs[i].exp()) for i, text in enumerate(texts) if text.split(" ")[0] == word)
            for word in ("correct", "wrong")
        }
        return mass["correct"] / (mass["correct"] + mass["wrong"])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def generators() -> Iterator[dict[str, TextGenerator]]:
    """The engines by model: one, which all judges of this file share."""
    made: dict[str, TextGenerator] = {}
    yield made
    for generator in made.values():
        generator.close()


def judge(generators: dict[str, TextGenerator], **section: Any) -> Judge:
    overrides = [f"judges.llm.{name}={json.dumps(value)}" for name, value in section.items()]
    return make_judge(load_config("laptop", overrides), "llm", generators)


def test_a_score_is_what_a_plain_forward_says(generators: dict[str, TextGenerator], reference: Reference) -> None:
    rows = judge(generators, **SCORING).judge(CASES).judgements
    labels = judge(generators).judge(CASES).judgements
    engine = generators[MODEL]
    prompt = load_judge_prompt("embedded:compact", "local")
    scores = []
    for case, row, labelled in zip(CASES, rows, labels, strict=True):
        assert [said.status for said in row] == [VerdictStatus.JUDGED] * len(case.steps)
        assert [said.raw for said in row] == [said.raw for said in labelled]  # log-probs change no answer
        ids = engine.render(render_judge_messages(prompt, case.problem, case.steps, 0, len(case.steps) - 1))
        answer = tuple(reference.tokenizer.encode(row[0].raw, add_special_tokens=False))
        texts = [reference.tokenizer.decode([token]) for token in answer]
        assert "".join(texts) == row[0].raw
        logprobs = reference.logprobs(ids, answer)
        places = [index for index, text in enumerate(texts) if text.strip().startswith(("correct", "wrong"))]
        assert [said.score for said in row] == pytest.approx(
            [reference.share_of_right(logprobs[place]) for place in places], abs=1e-4
        )
        # Greedy takes the likeliest token; the many ways of being wrong may add up to more than the one of being right.
        assert all(one.score <= 0.5 for one, other in zip(row, labelled, strict=True) if other.label == 0)
        scores += [said.score for said in row]
    assert any(score is not None and 0.001 < score < 0.999 for score in scores)


def test_a_schema_takes_the_other_tokens_out_before_log_probs_are_made(
    generators: dict[str, TextGenerator], reference: Reference
) -> None:
    """vLLM masks by the grammar first: what comes back is the model's distribution over the tokens that are allowed.

    So the share of two verdicts that are both allowed is what it would be without the mask.
    """
    judge(generators, **SCORING).judge(CASES[:1])
    engine = generators[MODEL]
    ids = engine.render([{"role": "user", "content": "1 +1\n0 1+1=2\njudge 0 0\n"}])
    bound = Sampling(60, 0.0, json_schema=verdict_schema(1), num_top_logprobs=20)
    free = replace(bound, json_schema=None)
    schema_bound, unbound = engine.generate([GenerateRequest(ids, sampling) for sampling in (bound, free)])
    assert schema_bound.text.startswith("{") and not unbound.text.startswith("{")
    for response in (schema_bound, unbound):
        expected = reference.logprobs(ids, response.token_ids)
        for index, token in enumerate(response.token_ids):
            choice = response.top.at(index) if response.top is not None else None
            assert choice is not None and choice.logprob == response.logprobs[index]
            listed = [logprob for _, logprob in choice.others if math.isfinite(logprob)]
            drawn = float(expected[index][token])
            if response is unbound:
                assert choice.logprob == pytest.approx(drawn, abs=1e-3)
                top = sorted(map(float, expected[index].topk(20).values))
                assert [choice.floor, *sorted(listed)[1:]] == pytest.approx([top[0], *top[1:-1]], abs=1e-3)
            elif math.isinf(choice.floor):  # every allowed token is listed
                assert sum(map(math.exp, (choice.logprob, *listed))) == pytest.approx(1.0, abs=1e-4)
                assert choice.logprob >= drawn - 1e-3  # of fewer tokens, each has more


def test_votes_do_not_depend_on_their_company(generators: dict[str, TextGenerator]) -> None:
    whole = [[said.score for said in row] for row in judge(generators, **VOTING).judge(CASES).judgements]
    alone = [
        [said.score for said in judge(generators, **VOTING).judge([case]).judgements[0]] for case in reversed(CASES)
    ]
    assert alone[::-1] == whole
    assert {round(3 * score) for row in whole for score in row if score is not None} > {0}
