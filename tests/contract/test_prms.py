"""Process reward models of four families: tiny random ones of the very architecture, against plain transformers.

The reference asks for one step at a time, with nothing after it; the scorers see the whole response at once.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.prm.conventions import MathShepherd, QwenPrm, RlhFlow
from bcpg_cluster.stages.judge.prm.layout import Rendered
from bcpg_cluster.stages.judge.prm.make_scorer import make_step_scorer
from bcpg_cluster.stages.judge.prm.transformers_model import batches
from bcpg_cluster.stages.judge.prm.transformers_scorer import TransformersStepScorer
from bcpg_cluster.stages.judge.prm.vllm_scorer import VllmStepScorer, _good_scores
from bcpg_cluster.stages.judge.prm.windows import Window, WindowInput, judgement
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judgement

CORPUS = [
    "12 + 7 = 19",
    "the answer is 42 ки",
    "première étape: Δx → 0",
    "答案是四十二",
    "so - wrong ки",
    "1 + 1 - 1 ки",
]
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
VLLM_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 192,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 64_000_000,
    "block_size": 32,
}
CASES = [
    JudgeCase("17 + 25 - 3?", ("17+25=42", "so 42-3=38,\nor + 1 it is 39", "答案是 39 🙂")),
    JudgeCase("10 - 8?", ("10-8=2",)),
    JudgeCase("empty", ()),
    JudgeCase("1 + 1?\nsay why", ("1+1=2\n", "\n+ and - cancel", "the answer is 2")),
]
LONG = JudgeCase("1 + 1?", tuple(f"step {index}: {index}+1={index + 1}" + " so" * (index % 5) for index in range(24)))


# --- the four families ------------------------------------------------------------------------------------------------


def byte_level_tokenizer(special: Sequence[str], **options: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=list(special), initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def sentence_piece_tokenizer() -> Any:
    """Mistral's layout: blanks are part of the pieces, unknown characters fall back to bytes, ``<s>`` is put first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    special = ["<unk>", "<s>", "</s>", *bytes_]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    trained.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=360, special_tokens=special))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = trained.normalizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def small_config(kind: Any, tokenizer: Any, **options: Any) -> Any:
    return kind(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )


def save_causal(folder: Path, kind: Any, config: Any, tokenizer: Any, seed: int) -> str:
    import torch

    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def shepherd_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MistralForCausalLM, named like Math-Shepherd."""
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = sentence_piece_tokenizer()
    config = small_config(MistralConfig, tokenizer, head_dim=32, sliding_window=None)
    folder = tmp_path_factory.mktemp("prms") / "math-shepherd-tiny"
    return save_causal(folder, MistralForCausalLM, config, tokenizer, 5)


def llama_path(tmp_path_factory: pytest.TempPathFactory, *, is_tied: bool) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level_tokenizer(special, bos_token=special[0], eos_token=special[3])
    tokenizer.chat_template = LLAMA_TEMPLATE
    config = small_config(LlamaConfig, tokenizer, tie_word_embeddings=is_tied)
    return save_causal(tmp_path_factory.mktemp("prms") / "RLHFlow-tiny", LlamaForCausalLM, config, tokenizer, 6)


@pytest.fixture(scope="module")
def rlhflow_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LlamaForCausalLM with Llama 3's chat layout, named like RLHFlow's."""
    return llama_path(tmp_path_factory, is_tied=False)


def skywork_path(folder: Path, files: str) -> str:
    """Qwen2ForPrmModel: a Qwen2 and a value head, in one file, in shards or in PyTorch's own format."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_level_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    torch.manual_seed(7)
    config = small_config(Qwen2Config, tokenizer, tie_word_embeddings=False)
    tensors = dict(Qwen2ForCausalLM(config).state_dict())
    tensors |= {"v_head.summary.weight": torch.randn(1, 64) / 4, "v_head.summary.bias": torch.randn(1) / 4}
    folder.mkdir()
    if files == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif files == "single":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
        for file in set(names.values()):
            part = {name: tensor for name, tensor in tensors.items() if names[name] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["Qwen2ForPrmModel"]}))
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- the references --------------------------------------------------------------------------------------------------


@functools.cache
def load_causal(path: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()


def shepherd_reference(path: str, problem: str, steps: Sequence[str]) -> float:
    import torch

    tokenizer, model = load_causal(path)
    ids = tokenizer(f"{problem} " + "\n".join(f"{step.strip()} ки" for step in steps))["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == "▁ки"
    pair = tokenizer.convert_tokens_to_ids(["▁+", "▁-"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return float(logits[pair].softmax(-1)[0])


def rlhflow_reference(path: str, problem: str, steps: Sequence[str]) -> float:
    import torch

    tokenizer, model = load_causal(path)
    turns: list[dict[str, str]] = []
    for index, step in enumerate(steps):
        said = f"{problem} {step.strip()}" if index == 0 else step.strip()
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": "+"}]
    ids = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    pair = [tokenizer.encode(sign, add_special_tokens=False)[-1] for sign in "+-"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return float(logits[pair].softmax(-1)[0])


@functools.cache
def load_skywork(path: str) -> tuple[Any, Any, Any, Any]:
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)  # made again as skywork_path made it, not read from its files
    model = Qwen2ForCausalLM(Qwen2Config.from_pretrained(path)).eval()
    return AutoTokenizer.from_pretrained(path), model, torch.randn(1, 64) / 4, torch.randn(1) / 4


def skywork_reference(path: str, problem: str, steps: Sequence[str]) -> float:
    import torch

    tokenizer, model, weight, bias = load_skywork(path)
    ids = tokenizer.encode(tokenizer.bos_token + problem + "\n")
    for step in steps:
        ids += [*tokenizer.encode(step.strip().replace("\n", " ")), tokenizer.encode("\n")[-1]]
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
    return float(torch.sigmoid(weight @ hidden + bias)[0])


@functools.cache
def load_qwen(path: str) -> tuple[Any, Any, Any]:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

    tensors = load_file(Path(path) / "model.safetensors")
    model = Qwen2Model(Qwen2Config.from_pretrained(path)).eval()
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    return AutoTokenizer.from_pretrained(path), model, tensors


def qwen_reference(path: str, problem: str, steps: Sequence[str]) -> float:
    import torch

    tokenizer, model, tensors = load_qwen(path)
    messages = [
        {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
        {"role": "user", "content": problem},
        {"role": "assistant", "content": "".join(step.strip("\n") + "<extra_0>" for step in steps)},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer.encode(text[: text.rindex("<extra_0>") + len("<extra_0>")], add_special_tokens=False)
    with torch.no_grad():
        last = model(torch.tensor([ids])).last_hidden_state[0, -1]
    inner = torch.relu(tensors["score.0.weight"] @ last + tensors["score.0.bias"])
    return float((tensors["score.2.weight"] @ inner + tensors["score.2.bias"]).softmax(-1)[1])


@functools.cache
def load_classifier(path: str) -> tuple[Any, Any]:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    return AutoTokenizer.from_pretrained(path), AutoModelForTokenClassification.from_pretrained(path).eval()


def trl_reference(path: str, problem: str, steps: Sequence[str]) -> float:
    """By the whole classifier, as transformers has it."""
    import torch

    tokenizer, model = load_classifier(path)
    pieces = [[tokenizer.bos_token_id], tokenizer.encode(problem, add_special_tokens=False)]
    for step in steps:
        pieces += [
            tokenizer.encode(step.strip("\n"), add_special_tokens=False),
            tokenizer.encode("\n", add_special_tokens=False),
        ]
    with torch.no_grad():
        logits = model(torch.tensor([[token for piece in pieces for token in piece]])).logits[0, -1]
    return float(logits.softmax(-1)[model.config.label2id["LABEL_1"]])


Reference = Callable[[str, str, Sequence[str]], float]


def holds_the_contract(scorer: Judge, path: str, reference: Reference) -> None:
    """Every step has the reference's score, in whatever company it comes."""
    rows = scorer.judge(CASES).judgements
    for case, row in zip(CASES, rows, strict=True):
        expected = [reference(path, case.problem, case.steps[: index + 1]) for index in range(len(case.steps))]
        assert [one.status for one in row] == [VerdictStatus.JUDGED] * len(case.steps)
        assert [one.score for one in row] == pytest.approx(expected, abs=1e-4)
        assert all(one.label is None and one.raw == "" for one in row)
    scores = [one.score for row in rows for one in row]
    assert max(scores) - min(scores) > 0.01  # a reference that says the same of everything would prove nothing
    again = scorer.judge([CASES[3], CASES[0]]).judgements
    assert [one.score for one in again[1]] == pytest.approx([one.score for one in rows[0]], abs=1e-5)
    assert scorer.judge([]).judgements == ()


def windows_hold(scorer: Judge, path: str, reference: Reference) -> None:
    """A response beyond the context: each step has the reference's score for the steps that were in view."""
    row = scorer.judge([LONG, CASES[1]]).judgements[0]
    assert [one.status for one in row] == [VerdictStatus.JUDGED] * len(LONG.steps)
    firsts = []
    for index, one in enumerate(row):
        seen = re.fullmatch(r"steps (\d+)-(\d+) in view", one.raw)
        assert seen is not None
        first = int(seen[1])
        assert first < index <= int(seen[2]) or first == index == 0
        assert one.score == pytest.approx(reference(path, LONG.problem, LONG.steps[first : index + 1]), abs=1e-4)
        firsts.append(first)
    assert firsts == sorted(firsts)
    assert len(set(firsts)) > 2


# --- served by transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", ["single", "shards", "bin"])
def test_skywork(tmp_path: Path, files: str) -> None:
    path = skywork_path(tmp_path / "prm", files)
    scorer = make_step_scorer(path, "prm", engine_args={"dtype": "float32", "max_num_batched_tokens": 600})
    assert isinstance(scorer, TransformersStepScorer)
    holds_the_contract(scorer, path, skywork_reference)
    scorer.close()


def test_skywork_in_windows_and_its_limits(tmp_path: Path) -> None:
    path = skywork_path(tmp_path / "prm", "single")
    options = {"dtype": "float32", "max_model_len": 180}
    scorer = TransformersStepScorer(path, "prm", engine_args=options, model_version="m1", context_tokens=40)
    windows_hold(scorer, path, skywork_reference)
    too_long = scorer.judge(
        [JudgeCase("1?", ("first", "x" * 400, "third", "fourth")), JudgeCase("p" * 400, ("a",))]
    ).judgements
    statuses = [one.status for one in too_long[0]]
    judged, refused = VerdictStatus.JUDGED, VerdictStatus.REFUSED
    assert statuses == [judged, refused, refused, judged]
    assert too_long[1] == (Judgement(refused),)
    assert scorer.version == "m1/skywork-prm/'\\n'/180/40"
    scorer.close()
    with pytest.raises(EngineError, match="closed"):
        scorer.judge(CASES)


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_trl_token_classification(tmp_path: Path, kind: str) -> None:
    import transformers

    tokenizer = byte_level_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    config = small_config(getattr(transformers, f"{kind}Config"), tokenizer)
    path = save_causal(tmp_path / "mine", getattr(transformers, f"{kind}ForTokenClassification"), config, tokenizer, 8)
    scorer = make_step_scorer(path, "prm", engine_args={"dtype": "float32", "max_num_batched_tokens": 600})
    assert isinstance(scorer, TransformersStepScorer)
    holds_the_contract(scorer, path, trl_reference)
    scorer.close()
    windows = TransformersStepScorer(path, "prm", engine_args={"max_model_len": 180}, context_tokens=40)
    windows_hold(windows, path, trl_reference)
    with pytest.raises(ConfigError, match=r"token classifiers .trl. are served by transformers"):
        VllmStepScorer(path, "prm", engine_args={})
    config_file = tmp_path / "mine" / "config.json"
    content = json.loads(config_file.read_text())
    config_file.write_text(
        json.dumps(content | {"id2label": {"0": "PERSON", "1": "PLACE"}, "label2id": {"PERSON": 0, "PLACE": 1}})
    )
    with pytest.raises(ConfigError, match=r"labels of .* are PERSON, PLACE"):
        make_step_scorer(path, "prm", engine_args={})


@pytest.mark.parametrize(
    ("family", "reference", "max_model_len"),
    [("shepherd", shepherd_reference, 192), ("tied rlhflow", rlhflow_reference, 320), ("qwen", qwen_reference, 280)],
)
def test_other_families_on_transformers(
    family: str,
    reference: Reference,
    max_model_len: int,
    shepherd_path: str,
    prm_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = {"shepherd": shepherd_path, "qwen": prm_path}.get(family) or llama_path(tmp_path_factory, is_tied=True)
    scorer = make_step_scorer(path, "prm", engine="transformers", engine_args={"dtype": "float32"})
    holds_the_contract(scorer, path, reference)
    scorer.close()
    windows = TransformersStepScorer(path, "prm", engine_args={"max_model_len": max_model_len}, context_tokens=60)
    windows_hold(windows, path, reference)


def test_what_cannot_be_served_is_said_before_it_starts(tmp_path: Path, shepherd_path: str, prm_path: str) -> None:
    path = skywork_path(tmp_path / "prm", "single")
    with pytest.raises(ConfigError, match="is not read by vLLM here"):
        VllmStepScorer(path, "prm", engine_args={})
    with pytest.raises(ConfigError, match=r"\['enforce_eager'\] mean nothing"):
        TransformersStepScorer(path, "prm", engine_args={"enforce_eager": True})
    with pytest.raises(ConfigError, match="unknown engine 'jax'"):
        make_step_scorer(path, "prm", engine="jax", engine_args={})
    with pytest.raises(ConfigError, match="not scored by the convention 'skywork'"):
        make_step_scorer(shepherd_path, "prm", convention="skywork", engine_args={})
    with pytest.raises(ConfigError, match=r"config\.json of .*nowhere"):
        make_step_scorer(str(tmp_path / "nowhere"), "prm", engine_args={})
    with pytest.raises(ConfigError, match="cuts 'no such tag' into"):
        TransformersStepScorer(shepherd_path, "prm", engine_args={}, separator="no such tag")
    # A checkpoint that lost its head must not be scored with anything else.
    (tmp_path / "prm" / "model.safetensors").unlink()
    from safetensors.torch import load_file, save_file

    whole = load_file(Path(prm_path) / "model.safetensors")
    rest = {name: tensor for name, tensor in whole.items() if name.startswith("model.")}
    headless = tmp_path / "headless"
    headless.mkdir()
    for file in Path(prm_path).iterdir():
        if file.suffix != ".safetensors":
            (headless / file.name).write_bytes(file.read_bytes())
    save_file(rest, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"no score\.0\.bias, score\.0\.weight"):
        TransformersStepScorer(str(headless), "prm", engine_args={})


def test_batches_stay_within_their_tokens() -> None:
    lengths = [5, 100, 7, 30, 31, 5]
    cut = list(batches(lengths, 64))
    assert sorted(index for batch in cut for index in batch) == list(range(6))
    assert cut == [[0, 5, 2], [3, 4], [1]]  # one alone may be longer


def test_rows_that_do_not_fit_the_steps_are_an_error() -> None:
    part = WindowInput(0, Window(0, 0, 2), Rendered((4, 5, 6, 5), (1, 3)), is_whole=True)
    qwen, shepherd, rlhflow = (object.__new__(kind) for kind in (QwenPrm, MathShepherd, RlhFlow))
    qwen.separator_id = shepherd.separator_id = 5
    rows = [[0.25, 0.75], [0.5, 0.5]]
    assert _good_scores(rows, part, qwen) == [0.75, 0.5]
    assert _good_scores(rows, part, shepherd) == [0.25, 0.5]
    assert _good_scores([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0], [0.3, 0.7]], part, rlhflow) == [0.2, 0.3]
    for wrong, convention in [(rows[:1], qwen), ([*rows, rows[0]], qwen), (rows, rlhflow)]:
        with pytest.raises(EngineError, match=f"gave {len(wrong)} scores for"):
            _good_scores(wrong, part, convention)
    # Two sigmoids, logits or one column are no distribution over good and bad.
    odd = _good_scores([[0.9, 0.9], [0.3]], part, qwen)
    assert [judgement(score).status for score in odd] == [VerdictStatus.UNPARSABLE] * 2


# --- served by vLLM --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shepherd_engine(shepherd_path: str) -> Iterator[Any]:
    scorer = make_step_scorer(shepherd_path, "prm", engine_args=VLLM_ARGS, context_tokens=60)
    assert isinstance(scorer, VllmStepScorer)
    yield scorer
    scorer.close()


@pytest.mark.engine
def test_math_shepherd_on_vllm(shepherd_engine: Any, shepherd_path: str) -> None:
    holds_the_contract(shepherd_engine, shepherd_path, shepherd_reference)
    windows_hold(shepherd_engine, shepherd_path, shepherd_reference)
    refused = (Judgement(VerdictStatus.REFUSED),)
    tagged = JudgeCase("1 + 1?", ("one ки more",))
    assert shepherd_engine.judge([tagged, CASES[1], JudgeCase("a ки?", ("b",))]).judgements[::2] == (refused, refused)
    assert shepherd_engine.version.endswith("/math-shepherd-prm/ки/192/60")


@pytest.mark.engine
def test_rlhflow_on_vllm(rlhflow_path: str) -> None:
    scorer = VllmStepScorer(rlhflow_path, "prm", engine_args=VLLM_ARGS | {"max_model_len": 320}, context_tokens=60)
    try:
        holds_the_contract(scorer, rlhflow_path, rlhflow_reference)
        windows_hold(scorer, rlhflow_path, rlhflow_reference)
        injected = JudgeCase("1?", ("a<|eot_id|>",))
        assert scorer.judge([injected]).judgements == ((Judgement(VerdictStatus.REFUSED),),)
    finally:
        scorer.close()
