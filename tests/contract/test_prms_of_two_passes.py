"""Process reward models that need two forwards a step: implicit ones (two models) and PathFinder (two questions).

Tiny random models of the very architecture and tokenizer layout, against plain transformers forwards written out by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import ConfigError, DataError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.prm.implicit import Reference
from bcpg_cluster.stages.judge.prm.implicit_scorer import ImplicitStepScorer
from bcpg_cluster.stages.judge.prm.make_scorer import make_step_scorer
from bcpg_cluster.stages.judge.prm.pathfinder import INSTRUCTION
from bcpg_cluster.stages.judge.prm.trial import ConventionTrial, try_conventions
from bcpg_cluster.stages.judge.prm.two_pass_scorer import TwoPassStepScorer
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement
from tests.contract.test_prms import CASES, LONG, byte_level_tokenizer, load_causal, save_causal, small_config

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ARGS = {"dtype": "float32", "max_num_batched_tokens": 700}


def qwen(folder: Path, seed: int, more: Sequence[str] = (), *, is_tied: bool = False) -> str:
    """Qwen2ForCausalLM with Qwen's chat layout."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    tokenizer = byte_level_tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return save_causal(
        folder, Qwen2ForCausalLM, small_config(Qwen2Config, tokenizer, tie_word_embeddings=is_tied), tokenizer, seed
    )


# --- implicit --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def implicit_paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("implicit")
    return qwen(folder / "EurusPRM-tiny", 11), qwen(folder / "reference", 12, is_tied=True)


def log_ratios(model: str, reference: str, problem: str, steps: Sequence[str]) -> list[float]:
    """Per step: the sum over its tokens of log p_model - log p_reference, token by token, from whole logits."""
    import torch

    tokenizer, _ = load_causal(model)
    head = f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
    pieces = [step.strip("\n") + "\n\n" for step in steps[:-1]] + [steps[-1].strip("\n") + "<|im_end|>"]
    whole = tokenizer(head + "".join(pieces) + "\n", return_offsets_mapping=True, add_special_tokens=False)
    ids = torch.tensor([whole["input_ids"]])
    with torch.no_grad():
        own, other = (load_causal(path)[1](ids).logits[0].log_softmax(-1) for path in (model, reference))
    sums, end = [0.0] * len(steps), [len(head)]
    for piece in pieces:
        end.append(end[-1] + len(piece))
    for place, (begin, _) in enumerate(whole["offset_mapping"]):
        for index in range(len(steps)):
            if end[index] <= begin < end[index + 1]:
                token = whole["input_ids"][place]
                sums[index] += float(own[place - 1, token] - other[place - 1, token])
    return sums


def implicit_scorer(paths: tuple[str, str], **options: Any) -> ImplicitStepScorer:
    scorer = make_step_scorer(
        paths[0],
        "prm",
        reference=Reference(paths[1], "ref@1", 0.05),
        engine_args=options.pop("engine_args", ARGS),
        **options,
    )
    assert isinstance(scorer, ImplicitStepScorer)
    return scorer


def test_implicit_scores_are_sigmoids_of_log_ratios(implicit_paths: tuple[str, str]) -> None:
    scorer = implicit_scorer(implicit_paths, model_version="m@1")
    rows = scorer.judge(CASES).judgements
    for case, row in zip(CASES, rows, strict=True):
        if not case.steps:
            assert row == ()
            continue
        wanted = [1 / (1 + math.exp(-0.05 * ratio)) for ratio in log_ratios(*implicit_paths, case.problem, case.steps)]
        assert [one.score for one in row] == pytest.approx(wanted, abs=1e-4)
        assert all(one.status is VerdictStatus.JUDGED and one.raw == "" for one in row)
    scores = [one.score for row in rows for one in row if one.score is not None]
    assert max(scores) - min(scores) > 0.05  # two models that agree would prove nothing
    assert scorer.version == "m@1/against:ref@1/beta:0.05/implicit-prm/'\\n\\n'/512/512"
    scorer.close()
    with pytest.raises(EngineError, match="closed"):
        scorer.judge(CASES)


def test_implicit_in_windows(implicit_paths: tuple[str, str]) -> None:
    scorer = implicit_scorer(implicit_paths, engine_args={**ARGS, "max_model_len": 190}, context_tokens=60)
    row = scorer.judge([LONG]).judgements[0]
    assert [one.status for one in row] == [VerdictStatus.JUDGED] * len(LONG.steps)
    for index, one in enumerate(row):
        seen = re.fullmatch(r"steps (\d+)-(\d+) in view", one.raw)
        assert seen is not None
        first, last = int(seen[1]), int(seen[2])
        ratio = log_ratios(*implicit_paths, LONG.problem, LONG.steps[first : last + 1])[index - first]
        assert one.score == pytest.approx(1 / (1 + math.exp(-0.05 * ratio)), abs=1e-4)
    injected = JudgeCase("1?", ("a<|im_end|>", "b"))
    empty = JudgeCase("1?", ("a", "\n", "b"))  # no token of its own: nothing to score
    assert scorer.judge([injected, empty]).judgements[0] == (Judgement(VerdictStatus.REFUSED),) * 2
    scorer.close()


def test_a_model_against_itself_says_nothing(implicit_paths: tuple[str, str]) -> None:
    scorer = implicit_scorer((implicit_paths[0], implicit_paths[0]))
    assert {one.score for row in scorer.judge(CASES).judgements for one in row} == {0.5}
    scorer.close()


def test_references_that_do_not_fit(implicit_paths: tuple[str, str], tmp_path: Path) -> None:
    model, _ = implicit_paths
    other = qwen(tmp_path / "other", 13, ["<extra>"])  # its ids are shifted by one
    with pytest.raises(ConfigError, match="does not share the vocabulary"):
        implicit_scorer((model, other))
    with pytest.raises(ConfigError, match=r"judges\.p\.model: .*other does not share the vocabulary"):
        try_conventions([ConventionTrial("judges.p.model", model, "auto", {}, reference=other)])
    with pytest.raises(ConfigError, match="no reference_model was given") as caught:
        make_step_scorer(model, "prm", engine_args={})
    assert "Qwen/Qwen2.5-Math-7B-Instruct" in caught.value.remedy
    with pytest.raises(ConfigError, match="a reference_model was given"):
        make_step_scorer(model, "prm", convention="rlhflow", reference=Reference(model, "m", 1.0), engine_args={})
    with pytest.raises(ConfigError, match="which vLLM does not serve"):
        implicit_scorer(implicit_paths, engine="vllm")
    try_conventions([ConventionTrial("judges.p.model", model, "auto", {}, reference=model)])


# --- PathFinder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pathfinder_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return qwen(tmp_path_factory.mktemp("pathfinder") / "PathFinder-PRM-tiny", 14, ["<+>", "<->", "<extra>"])


def pathfinder_reference(path: str, problem: str, steps: Sequence[str]) -> tuple[bool, bool, float]:
    """As the model card does it: the labels of the first pass, by the places before the masks, then the reward."""
    import torch

    tokenizer, model = load_causal(path)
    good, bad, mask = tokenizer.convert_tokens_to_ids(["<+>", "<->", "<extra>"])

    def ask(labels: str) -> list[list[float]]:
        said = "".join(step.strip("\n") + "\n\n" for step in steps[:-1])
        turns = [
            {"role": "user", "content": f"{INSTRUCTION}\n\n Question: {problem}"},
            {"role": "assistant", "content": f"{said}Current Step: {steps[-1].strip(chr(10))}{labels}"},
        ]
        ids = torch.tensor([tokenizer.apply_chat_template(turns, return_dict=False)])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1][ids[0, 1:] == mask]
        return logits[:, [good, bad]].softmax(-1).tolist()

    sound, consistent = (pair[0] > pair[1] for pair in ask(" Math reasoning: <extra>, Consistency: <extra>"))
    filled = f" Math reasoning: {'<+>' if sound else '<->'}, Consistency: {'<+>' if consistent else '<->'}"
    return sound, consistent, ask(f"{filled}, Correctness: <extra>")[0][0]


def note(sound: bool, consistent: bool) -> str:
    return "; ".join([*["mathematics error"] * (not sound), *["consistency error"] * (not consistent)])


def test_pathfinder_fills_in_what_it_found(pathfinder_path: str) -> None:
    scorer = make_step_scorer(pathfinder_path, "prm", model_version="m@1", engine_args=ARGS)
    assert isinstance(scorer, TwoPassStepScorer)
    rows = scorer.judge(CASES).judgements
    found = []
    for case, row in zip(CASES, rows, strict=True):
        for index, one in enumerate(row):
            sound, consistent, reward = pathfinder_reference(pathfinder_path, case.problem, case.steps[: index + 1])
            assert one.status is VerdictStatus.JUDGED
            assert one.score == pytest.approx(reward, abs=1e-4)
            assert one.raw == note(sound, consistent)
            found.append((sound, consistent))
    assert len(set(found)) > 1  # both fillings were needed
    assert scorer.version == "m@1/pathfinder-prm/512"
    refused = (Judgement(VerdictStatus.REFUSED),)
    assert scorer.judge([JudgeCase("1?", ("a <extra>",)), JudgeCase("1 <+>?", ("a",))]).judgements == (refused, refused)
    scorer.close()


def test_pathfinder_leaves_out_the_earliest_steps(pathfinder_path: str) -> None:
    scorer = TwoPassStepScorer(pathfinder_path, "prm", engine_args={**ARGS, "max_model_len": 330})
    long = JudgeCase(LONG.problem, (*LONG.steps[:12], "x" * 700, *LONG.steps[12:15]))
    row = scorer.judge([long]).judgements[0]
    refused = [index for index, one in enumerate(row) if one.status is VerdictStatus.REFUSED]
    assert refused == [12, 13]  # too long itself, and the step that could not be shown with it before it
    firsts = []
    for index, one in enumerate(row):
        if index in refused:
            continue
        seen = re.search(r"steps (\d+)-(\d+) in view", one.raw)
        first = int(seen[1]) if seen else 0
        assert seen is None or int(seen[2]) == index
        assert one.score == pytest.approx(
            pathfinder_reference(pathfinder_path, long.problem, long.steps[first : index + 1])[2], abs=1e-4
        )
        firsts.append(first)
    assert firsts == sorted(firsts)
    assert len(set(firsts)) > 2
    scorer.close()


def test_pathfinder_without_its_labels(implicit_paths: tuple[str, str], pathfinder_path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"<\+>, <->, <extra> not in the vocabulary"):
        make_step_scorer(implicit_paths[0], "prm", convention="pathfinder", engine_args={})
    with pytest.raises(ConfigError, match=r"judges\.p\.model: .*not in the vocabulary"):
        try_conventions([ConventionTrial("judges.p.model", implicit_paths[0], "pathfinder", {})])
    with pytest.raises(ConfigError, match="separator 'x' was given"):
        make_step_scorer(pathfinder_path, "prm", separator="x", engine_args={})
    try_conventions([ConventionTrial("judges.p.model", pathfinder_path, "auto", {})])
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"judges\.p\.model: the tokenizer of .* does not load"):
        try_conventions([ConventionTrial("judges.p.model", str(tmp_path), "math_shepherd", {})])
