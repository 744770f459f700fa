"""Prompt files: JSON lines with ``prompt_id``, ``question`` and ``answer``, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import Columns, ReadPrompts, map_prompts
from bcpg_cluster.prompts.table_files import table_rows
from bcpg_cluster.records import Prompt
from bcpg_cluster.store.whole_files import write_whole

PROMPT_FILE = Columns("question", "answer", "prompt_id")
_REMEDY = 'one JSON object a line: {"prompt_id": "...", "question": "...", "answer": "..."}'


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a prompt file.

    Raises:
        DataError: it is missing or empty, or lines are no prompts, have no answer, repeat an id, or contradict another line:
            names all of them.
    """
    return read_prompt_file(path).checked()


def read_prompt_file(path: str, limit: int | None = None) -> ReadPrompts:
    """The prompts of a prompt file's first ``limit`` lines, and the lines that are none.

    Raises:
        DataError: it is missing or empty, or as a whole no such file.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(
            f"prompt file {path} does not exist", rule="prompts.train and prompts.test name files", remedy=_REMEDY
        )
    unit, rows = table_rows(file)
    return map_prompts(islice(rows, limit), PROMPT_FILE, path, unit)


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> Path:
    """Write a file that :func:`read_prompts` reads, whole or not at all; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt_id": p.prompt_id, "question": p.question, "answer": p.answer}) for p in prompts]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    return path
