"""Tiny random models and one engine a kind for the whole session: an engine start is the dearest thing here."""

from __future__ import annotations

import os

from bcpg_cluster.stages.generate.vllm_options import engine_environment

# Before anything imports torch or vllm: what a member with an eager engine on CPUs has.
os.environ.update(engine_environment({"enforce_eager": True}, num_gpus=0))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import EngineError
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling

SEPARATOR = "<extra_0>"
BLOCK_SIZE = 32  # the CPU backend takes multiples of 32; a prefix is cached in whole blocks
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 64_000_000,
    "block_size": BLOCK_SIZE,
    "enable_chunked_prefill": False,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Some of it in scripts whose characters take several bytes, hence several tokens.
CORPUS = [
    "12 + 7 = 19",
    "the answer is 42",
    "première étape: Δx → 0",
    "答案是四十二",
    "🙂 fertig",
    "wait, so that's wrong",
]


@pytest.fixture
def cached_tokens() -> Callable[[Any], AbstractContextManager[list[int]]]:
    """Collects, for each request a vLLM engine answers meanwhile, how many prompt tokens came from its prefix cache."""

    @contextmanager
    def watch(engine: Any) -> Iterator[list[int]]:
        seen: list[int] = []
        submit = engine._loop.submit

        def noted(requests: Sequence[Any]) -> list[Any]:
            outputs: list[Any] = submit(requests)
            seen.extend(output.num_cached_tokens or 0 for output in outputs)
            return outputs

        engine._loop.submit = noted
        try:
            yield seen
        finally:
            engine._loop.submit = submit

    return watch


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with a chat template, so small that it splits many characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", SEPARATOR]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    made.add_special_tokens({"additional_special_tokens": special[2:]})
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="session")
def make_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, str]]:
    """``make_model(is_tied, seed)``: a random tiny Qwen2 and the checkpoint directory it was saved to."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    def make(is_tied: bool, seed: int) -> tuple[Any, str]:
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=is_tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.1,
        )
        model = Qwen2ForCausalLM(config).eval()
        with torch.no_grad():  # norms and biases start as ones and zeros: a push must be seen in them too
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        path = str(tmp_path_factory.mktemp("model"))
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return model, path

    return make


@pytest.fixture(scope="session")
def tied_model(make_model: Callable[..., tuple[Any, str]]) -> tuple[Any, str]:
    """The base model whose head shares the embedding."""
    return make_model(True, seed=0)


@pytest.fixture(scope="session")
def untied_model(make_model: Callable[..., tuple[Any, str]]) -> tuple[Any, str]:
    """The base model with a head of its own."""
    return make_model(False, seed=0)


@pytest.fixture(scope="session")
def engine_args() -> dict[str, Any]:
    """vLLM options of a tiny CPU engine."""
    return dict(ENGINE_ARGS)


def _engine(path: str, **changed: Any) -> Iterator[Any]:
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    generator = VllmGenerator(path, engine_args=ENGINE_ARGS | changed, weight_transfer_backend="gloo")
    yield generator
    generator.close()
    generator.close()
    with pytest.raises(EngineError, match="closed"):
        generator.generate([GenerateRequest((1,), Sampling(max_tokens=1))])


@pytest.fixture(scope="session")
def tied_engine(tied_model: tuple[Any, str]) -> Iterator[Any]:
    """A VllmGenerator on the tied base model."""
    yield from _engine(tied_model[1])


@pytest.fixture(scope="session")
def untied_engine(untied_model: tuple[Any, str]) -> Iterator[Any]:
    """A VllmGenerator on the untied base model."""
    yield from _engine(untied_model[1])


@pytest.fixture
def bfloat16_engine(tied_model: tuple[Any, str]) -> Iterator[Any]:
    """A VllmGenerator on the tied base model that computes in bfloat16."""
    yield from _engine(tied_model[1], dtype="bfloat16")


@pytest.fixture(scope="session")
def prm_path(
    tokenizer: Any, make_model: Callable[..., tuple[Any, str]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A random tiny Qwen2ForProcessRewardModel checkpoint (vLLM's architecture; transformers has none)."""
    import json

    import torch
    from safetensors.torch import save_file

    model, _ = make_model(False, seed=3)
    hidden = model.config.hidden_size
    torch.manual_seed(4)
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.model.state_dict().items()}
    tensors |= {
        "score.0.weight": torch.randn(hidden, hidden) / 4,
        "score.0.bias": torch.randn(hidden) / 4,
        "score.2.weight": torch.randn(2, hidden) / 4,
        "score.2.bias": torch.randn(2) / 4,
    }
    path = tmp_path_factory.mktemp("prm")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["Qwen2ForProcessRewardModel"]}
    (Path(path) / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(path)
    return str(path)
