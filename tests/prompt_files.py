"""Prompt files of the chain's task."""

from __future__ import annotations

import json
import random
from pathlib import Path

from bcpg_cluster.assets.chain.task import draw_chain


def write_prompts(path: Path, number: int, prefix: str, rng: random.Random, taken: set[str]) -> None:
    """``number`` problems whose questions are not among those ``taken``, which then has them too."""
    lines: list[str] = []
    while len(lines) < number:
        chain = draw_chain(rng, 3, 5)
        if chain.question not in taken:
            taken.add(chain.question)
            prompt = {"prompt_id": f"{prefix}{len(lines)}", "question": chain.question, "answer": chain.answer}
            lines.append(json.dumps(prompt))
    path.write_text("\n".join(lines) + "\n")
