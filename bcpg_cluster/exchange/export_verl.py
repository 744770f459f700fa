"""Problems as verl's trainers read them: ``data.train_files=DIR/train.parquet data.val_files=DIR/test.parquet``.

Columns by https://verl.readthedocs.io/en/latest/preparation/prepare_data.html. verl chooses the reward function by
``data_source``, so it must be a name that the reward function in use knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.dataset_directory import Card, Column, DataFile, Written, write_dataset
from bcpg_cluster.exchange.export_preferences import MESSAGES
from bcpg_cluster.records import Prompt
from bcpg_cluster.store.rows import Row

COLUMNS = (
    Column("data_source", pa.string(), "names the data set; verl chooses the reward function by it"),
    Column("prompt", MESSAGES, "chat messages; the problem as the user's"),
    Column("ability", pa.string(), "the kind of task"),
    Column(
        "reward_model",
        pa.struct([pa.field("style", pa.string()), pa.field("ground_truth", pa.string())]),
        "`style` is `rule`: the final answer is compared with `ground_truth`",
    ),
    Column(
        "extra_info",
        pa.struct(
            [
                pa.field("split", pa.string()),
                pa.field("index", pa.int64()),
                pa.field("prompt_id", pa.string()),
                pa.field("question", pa.string()),
                pa.field("answer", pa.string()),
            ]
        ),
        "the split, the row's number in it, and the problem as this run has it",
    ),
)
_BATCH_ROWS = 4096


def export_verl(
    out: Path,
    *,
    run_name: str,
    splits: Mapping[str, Sequence[Prompt]],
    data_source: str,
    ability: str = "math",
) -> Written:
    """Write one Parquet file a split (``train`` and ``test``, say) to a new directory.

    Raises:
        DataError: a split's name is not a word, there is no problem at all, or ``out`` is not empty.
    """
    for split in splits:
        if not re.fullmatch(r"\w+", split):
            raise DataError(
                f"{split!r} cannot name a split",
                rule="splits of a data set are letters, digits and '_'",
                remedy="rename it in prompts.more_tests",
            )
    files = [
        DataFile(split, f"{split}.parquet", _batches(split, prompts, data_source, ability))
        for split, prompts in splits.items()
    ]
    about = "Problems with their answers, in the layout that verl's data sets have."
    facts = {"run": run_name, "data_source": data_source, "ability": ability}
    return write_dataset(out, files, COLUMNS, Card(f"Problems of {run_name}", about, ("verl", "reasoning"), facts))


def _batches(split: str, prompts: Sequence[Prompt], data_source: str, ability: str) -> Iterator[list[Row]]:
    for start in range(0, len(prompts), _BATCH_ROWS):
        part = prompts[start : start + _BATCH_ROWS]
        yield [_row(split, start + index, prompt, data_source, ability) for index, prompt in enumerate(part)]


def _row(split: str, index: int, prompt: Prompt, data_source: str, ability: str) -> Row:
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": prompt.question}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": prompt.answer},
        "extra_info": {
            "split": split,
            "index": index,
            "prompt_id": prompt.prompt_id,
            "question": prompt.question,
            "answer": prompt.answer,
        },
    }
