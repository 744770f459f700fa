"""Which token ends an imported response: that of the chat template, the generation config, or the tokenizer, in this order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.exchange.import_tokenizer import end_of_turn
from bcpg_cluster_cli.exchange.import_rollouts import generation_ends, import_tokenizer

END_OF_TEXT, END_OF_TURN, START_OF_TURN = 0, 1, 2
_CHATML = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
_PHI = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% else %}<end_of_text>{% endif %}"
)
_SPACED = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} "
    "{% if m['role'] == 'assistant' %}<end_of_text>{% endif %}{% endfor %}"
)
_THINKING = (
    "{% for m in messages %}<turn>{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<end_of_turn>{% endfor %}"
)
_PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
_MORE_TEXT = "{% for m in messages %}{{ m['content'] }} -- the end <end_of_turn>{% endfor %}"
_REFUSES = "{{ raise_exception('one message only') }}"


def tokenizer(template: str, eos: str = "<end_of_text>") -> Any:
    """A byte-level tokenizer whose end-of-sequence token is not that of its turns, as Qwen's base models have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<end_of_text>", "<end_of_turn>", "<turn>"]
    made.train_from_iterator(
        [],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=eos, pad_token="<end_of_text>", additional_special_tokens=special[1:]
    )
    wrapped.chat_template = template
    return wrapped


@pytest.mark.parametrize(
    ("template", "generation", "expected"),
    [
        (_CHATML, (), END_OF_TURN),  # Qwen base: the tokenizer's own is <|endoftext|>
        (_CHATML, (END_OF_TEXT,), END_OF_TURN),
        (_PHI, (), END_OF_TURN),  # Phi-3 writes both, the turn's end first
        (_SPACED, (), END_OF_TEXT),  # Llama 2
        (_THINKING, (), END_OF_TURN),
        (_PLAIN, (END_OF_TURN, END_OF_TEXT), END_OF_TURN),  # nothing of its own: the generation config
        (_PLAIN, (), END_OF_TEXT),
        (_MORE_TEXT, (), END_OF_TEXT),  # what follows the turn is text
        (_REFUSES, (END_OF_TURN,), END_OF_TURN),
    ],
)
def test_by_hand(template: str, generation: tuple[int, ...], expected: int) -> None:
    assert end_of_turn(tokenizer(template), generation) == expected


def test_a_model_without_any() -> None:
    bare = tokenizer(_PLAIN)
    bare.eos_token = None
    assert end_of_turn(bare, ()) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": [1, 0]}, "config.json": {"eos_token_id": 0}}, (1, 0)),
        ({"generation_config.json": {"eos_token_id": 1}, "config.json": {"eos_token_id": 0}}, (1,)),
        ({"config.json": {"eos_token_id": 2}}, (2,)),
        ({"config.json": {"eos_token_id": None}}, ()),
    ],
)
def test_the_ends_a_model_names(tmp_path: Path, files: dict[str, dict[str, Any]], expected: tuple[int, ...]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(
            json.dumps({"model_type": "qwen2", **content} if name == "config.json" else content)
        )
    assert generation_ends(str(tmp_path), None, trust_remote_code=False) == expected


def test_the_command_takes_the_turns_end_of_a_model_directory(tmp_path: Path, fakes_content: Any) -> None:
    """<|im_end|>, where the tokenizer's own is <|endoftext|>."""
    tokenizer(_CHATML).save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "eos_token_id": END_OF_TURN}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END_OF_TURN, END_OF_TEXT]}))
    content = fakes_content() | {"policy": {"kind": "vllm", "model": str(tmp_path)}}
    found = import_tokenizer(parse_config(content, "test"))
    assert found.end_token_id == END_OF_TURN
