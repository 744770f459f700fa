"""What a model's files say, and how long its prompts are. Loads the tokenizer, never the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcpg_cluster.config.embedded import EMBEDDED, resolve_asset
from bcpg_cluster.errors import DataError
from bcpg_cluster.new_config.facts import ModelFacts
from bcpg_cluster.prompts.hub import is_hub_id, near_paths
from bcpg_cluster.run.build.model_files import longest_context, model_shape
from bcpg_cluster.stages.generate.tokenizer_check import TokenizerCheck, load_tokenizer

_PRM_ARCHITECTURES = ("Qwen2ForProcessRewardModel", "Qwen2ForPrmModel")


def named(model: str) -> str:
    """A model as a config names it: a directory by its absolute path, so that the run may start anywhere."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.is_dir() and not model.startswith(EMBEDDED) else model


def read_model(key: str, model: str) -> ModelFacts:
    """The facts of a model.

    Args:
        key: what asked for it, for messages.

    Raises:
        DataError: no such directory, and no hub id.
    """
    name = named(model)
    path = Path(resolve_asset(name))
    if not path.is_dir() and (path.exists() or not is_hub_id(name)):
        raise DataError(
            f"{key}: {path} is not a directory",
            rule="a model is a directory in Hugging Face format or a hub id",
            remedy=near_paths(str(path)) or "correct the path",
        )
    shape = model_shape(name)
    return ModelFacts(name, shape, None if shape is None else shape.num_parameters(), longest_context(name))


def is_prm(config: dict[str, Any] | None, model: str) -> bool:
    """Whether a model scores steps, by its architecture or its name."""
    architectures = (config or {}).get("architectures") or ()
    is_scorer = any(kind in _PRM_ARCHITECTURES or kind.endswith("ForTokenClassification") for kind in architectures)
    return is_scorer or "prm" in Path(model).name.lower()


def prompt_lengths(model: str, questions: Sequence[str]) -> tuple[list[int], bool]:
    """Tokens of each question in the model's chat template, and whether its prompts end with ``<think>``.

    Raises:
        DataError: no tokenizer, no chat template, or one that fails.
    """
    tokenizer = load_tokenizer(TokenizerCheck("--model", "policy", resolve_asset(model), tuple(questions)))
    if not tokenizer.chat_template:
        raise DataError(
            f"{model} has no chat template",
            rule="prompts are rendered by the model's own chat template",
            remedy="put chat_template.jinja beside its tokenizer, or take an instruct model",
        )
    texts = []
    for question in questions:
        try:
            messages = [{"role": "user", "content": question}]
            texts.append(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # jinja's errors, and whatever a template's raise_exception says
            raise DataError(
                f"the chat template of {model} fails on {question[:60]!r}: {error}",
                rule="prompts are rendered by the model's own chat template",
                remedy="fix chat_template.jinja beside its tokenizer",
            ) from error
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [len(row) for row in ids], any(text.rstrip().endswith("<think>") for text in texts[:1])
