"""Mathematics whose answers math-verify compares."""

from __future__ import annotations

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import text_of
from bcpg_cluster.prompts.table_files import Row
from bcpg_cluster.prompts.tasks.task import Measure, Task, column


def gsm8k_answer(row: Row, where: str) -> str:
    """What follows the last ``####`` of the worked solution, thousands separators left out."""
    _, mark, answer = text_of(row, "answer", where).rpartition("####")
    if not mark or not answer.strip():
        raise DataError(
            f"{where}: no '#### answer' at the end of the solution",
            rule="a GSM8K solution ends with a line '#### 42'",
            remedy="give the data set as its authors publish it, or map the columns yourself",
        )
    return answer.strip().replace(",", "")


MATH_TASKS = (
    Task(
        name="gsm8k",
        hub_id="openai/gsm8k",
        config_name="main",
        train_split="train",
        test_split="test",
        question="question",
        read_answer=gsm8k_answer,
        reward="math",
        measure=Measure(num_samples=4),
        source="https://arxiv.org/abs/2110.14168",
    ),
    Task(
        name="math500",
        hub_id="HuggingFaceH4/MATH-500",
        test_split="test",
        question="problem",
        prompt_id="unique_id",
        read_answer=column("answer"),
        reward="math",
        measure=Measure(num_samples=10),
        source="https://arxiv.org/abs/2305.20050",
    ),
    Task(
        name="aime24",
        hub_id="HuggingFaceH4/aime_2024",
        test_split="train",  # its only split
        question="problem",
        prompt_id="id",
        read_answer=column("answer"),
        reward="math",
        measure=Measure(num_samples=40),
        source="https://huggingface.co/datasets/HuggingFaceH4/aime_2024",
    ),
    Task(
        name="aime25",
        hub_id="math-ai/aime25",
        test_split="test",
        question="problem",
        prompt_id="id",
        read_answer=column("answer"),
        reward="math",
        measure=Measure(num_samples=40),
        source="https://huggingface.co/datasets/math-ai/aime25",
    ),
    Task(
        name="amc23",
        hub_id="math-ai/amc23",
        test_split="test",
        question="question",
        prompt_id="id",
        read_answer=column("answer"),
        reward="math",
        measure=Measure(num_samples=32),
        source="https://huggingface.co/datasets/math-ai/amc23",
    ),
)
