"""Prompt files: read, checked, and dealt out to rounds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import Prompt
from bcpg_cluster.store.whole_files import write_whole

_REMEDY = 'one JSON object a line: {"prompt_id": "...", "question": "...", "answer": "..."}'


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a JSON-lines file.

    Raises:
        DataError: it is missing or empty, or a line is not a prompt, has no answer, or repeats an id.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(
            f"prompt file {path} does not exist", rule="prompts.train and prompts.test name files", remedy=_REMEDY
        )
    prompts: list[Prompt] = []
    first_line: dict[str, int] = {}
    try:
        # not splitlines: JSON strings may hold U+2028 and the like
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error})", rule="a prompt file is UTF-8 text", remedy=_REMEDY) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = _parse(line, f"{path}, line {number}")
        if prompt.prompt_id in first_line:
            raise DataError(
                f"{path}, line {number}: prompt_id {prompt.prompt_id!r} was used in line {first_line[prompt.prompt_id]}",
                rule="prompt ids are unique in a file",
                remedy="rename or remove one of the two",
            )
        first_line[prompt.prompt_id] = number
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{path} holds no prompt", rule="a prompt file has at least one line", remedy=_REMEDY)
    return prompts


def line_of(path: Path, prompt: Prompt) -> int | None:
    """The line of a prompt file on which a prompt stands, from 1; ``None`` where no line has its id."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # an empty line: all others were read before
            continue
        if isinstance(row, dict) and str(row.get("prompt_id")) == prompt.prompt_id:
            return number
    return None


def _parse(line: str, where: str) -> Prompt:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error})", rule="a prompt file is JSON lines", remedy=_REMEDY) from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: a {type(content).__name__}", rule="a prompt is a JSON object", remedy=_REMEDY)
    for key in ("prompt_id", "question", "answer"):
        value = content.get(key)
        if not isinstance(value, (str, int, float)) or isinstance(value, bool) or not str(value).strip():
            raise DataError(
                f"{where}: {key} is {value!r}",
                rule="prompt_id, question and answer are there and not empty (without an answer nothing can be verified)",
                remedy=_REMEDY,
            )
    return Prompt(str(content["prompt_id"]), str(content["question"]), str(content["answer"]))


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> Path:
    """Write a file that :func:`read_prompts` reads, whole or not at all; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt_id": p.prompt_id, "question": p.question, "answer": p.answer}) for p in prompts]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    return path
