"""Programming problems, checked by unit tests (the format: ``stages/verify/code/code_tests.py``)."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Callable
from datetime import date
from typing import Any

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.columns import text_of, value_of
from bcpg_cluster.prompts.table_files import Row
from bcpg_cluster.prompts.tasks.task import Measure, Task
from bcpg_cluster.stages.verify.code.code_tests import Case, CodeTests

CODE = "{question}\n\nPlease reason step by step, then give the complete Python program in one ```python block."
FUNCTION = (
    "{question}\n\nPlease reason step by step, then give the complete function, with the imports it needs, in one "
    "```python block."
)
_IMPORTS = (  # what starter code takes for granted
    "import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import *\nfrom typing import *\n"
)
_MAX_TEST_BYTES = 2**28  # of one problem, unpacked
WINDOW = (date(2024, 8, 1), date(2025, 2, 1))  # LiveCodeBench v5 as reports use it: 279 problems


class _TextUnpickler(pickle.Unpickler):
    """Reads a pickled text and nothing else: a pickle from a hub could otherwise run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the tests name {module}.{name}")


def _unusable(where: str, problem: object) -> DataError:
    return DataError(
        f"{where}: its tests cannot be read: {problem}",
        rule="the columns are those of the data set as its authors publish it",
        remedy="give that data set, or write prompts with tests yourself (bcpg_cluster/stages/verify/code/code_tests.py)",
    )


def human_eval_answer(row: Row, where: str) -> str:
    """HumanEval and HumanEval+: ``check`` of the column ``test``, after the prompt's own imports and functions."""
    entry_point = text_of(row, "entry_point", where)
    return CodeTests(
        "asserts",
        prelude=text_of(row, "prompt", where),
        check=f"{text_of(row, 'test', where)}\ncheck({entry_point})\n",
    ).to_json()


def mbpp_question(row: Row, where: str) -> str:
    """The text with its asserts, from which alone the function's name can be known; ``prompt`` in the cleaned sets."""
    text = text_of(row, "prompt" if "prompt" in row else "text", where)
    return f"{text}\nYour code should pass these tests:\n" + "\n".join(value_of(row, "test_list", where))


def mbpp_answer(row: Row, where: str) -> str:
    """MBPP: the asserts of ``test_list``. MBPP+: the program in ``test``. Imports and set-up before them."""
    imports = [*row.get("test_imports", []), row.get("test_setup_code") or ""]
    check = row.get("test") or "\n".join(value_of(row, "test_list", where))
    try:
        return CodeTests("asserts", check="\n".join([*imports, check])).to_json()
    except ValueError as error:
        raise _unusable(where, error) from None


def live_code_question(row: Row, where: str) -> str:
    """The problem, with its starter code or how input and output go."""
    text = text_of(row, "question_content", where)
    starter = row.get("starter_code")
    if starter:
        return f"{text}\n\nUse this starter code:\n```python\n{starter}\n```"
    return f"{text}\n\nRead the input from stdin and print the output to stdout."


def live_code_answer(row: Row, where: str) -> str:
    """LiveCodeBench: public and private tests."""
    try:
        tests = json.loads(text_of(row, "public_test_cases", where)) + _private_tests(
            value_of(row, "private_test_cases", where)
        )
        if any(test["testtype"] == "functional" for test in tests):
            name = json.loads(text_of(row, "metadata", where))["func_name"]
            cases = [
                Case([json.loads(line) for line in t["input"].split("\n")], json.loads(t["output"])) for t in tests
            ]
            return CodeTests("function", tuple(cases), entry_point=name, prelude=_IMPORTS).to_json()
        cases = [Case(test["input"], test["output"]) for test in tests]
        return CodeTests("stdin", tuple(cases), prelude=_IMPORTS).to_json()
    except (ValueError, KeyError, TypeError, pickle.UnpicklingError, zlib.error) as error:
        raise _unusable(where, f"{type(error).__name__}: {error}") from None


def _private_tests(packed: str) -> list[Any]:
    """JSON, or base64 of zlib of a pickled JSON text."""
    try:
        tests = json.loads(packed)
    except ValueError:
        try:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(base64.b64decode(packed, validate=True), _MAX_TEST_BYTES)
        except binascii.Error as error:
            raise ValueError(f"neither JSON nor base64 ({error})") from None
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {_MAX_TEST_BYTES} bytes") from None
        tests = json.loads(_TextUnpickler(io.BytesIO(raw)).load())
    return list(tests)


def within_window(row: Row) -> bool:
    """Whether a contest was held in :data:`WINDOW` (its first day in, its last day in)."""
    held = str(value_of(row, "contest_date", "livecodebench"))  # text in the files, a time stamp from some loaders
    try:
        return WINDOW[0] <= date.fromisoformat(held[:10]) <= WINDOW[1]
    except ValueError:
        raise DataError(
            f"livecodebench: contest_date is {held!r}",
            rule="it begins with a day such as 2024-08-01, which decides whether a problem is in the window",
            remedy="give the data set as its authors publish it",
        ) from None


def _code_task(name: str, hub_id: str, read_answer: Callable[[Row, str], str], **more: Any) -> Task:
    settings: dict[str, Any] = {"template": FUNCTION, "prompt_id": "task_id", "question": "prompt"}
    settings |= {"measure": Measure(num_samples=10), "test_split": "test", "reward": "code"} | more
    return Task(name=name, hub_id=hub_id, read_answer=read_answer, **settings)


CODE_TASKS = (
    _code_task("humaneval", "openai/openai_humaneval", human_eval_answer, source="https://arxiv.org/abs/2107.03374"),
    _code_task(
        "humaneval_plus", "evalplus/humanevalplus", human_eval_answer, source="https://arxiv.org/abs/2305.01210"
    ),
    _code_task(
        "mbpp",
        "google-research-datasets/mbpp",
        mbpp_answer,
        config_name="full",
        train_split="train",
        read_question=mbpp_question,
        source="https://arxiv.org/abs/2108.07732",
    ),
    _code_task(
        "mbpp_plus",
        "evalplus/mbppplus",
        mbpp_answer,
        read_question=mbpp_question,
        source="https://arxiv.org/abs/2305.01210",
    ),
    _code_task(
        "livecodebench",
        "livecodebench/code_generation_lite",
        live_code_answer,
        data_files=("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl"),  # release v5
        prompt_id="question_id",
        read_question=live_code_question,
        template=CODE,
        keep=within_window,
        measure=Measure(num_samples=5),
        source="https://arxiv.org/abs/2403.07974",
    ),
)
