"""A judge's answer as JSON: the schema an engine can enforce, and the strict reading of what comes back.

A schema-bound sampler promises the form, not the sense: step numbers, and that label and error type agree, are checked
here. Text around the object, a missing or doubled key, one verdict too few: all of it is unparsable (fail closed).
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from bcpg_cluster.records import ErrorType
from bcpg_cluster.stages.judge.judge_prompt import JudgePrompt, StepVerdict, parse_verdicts

MAX_REASON_CHARS: Final = 200
_FENCE: Final = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
KEYS: Final = ("step", "reason", "error_type", "correct")


def verdict_schema(num_steps: int, max_reason_chars: int = MAX_REASON_CHARS) -> str:
    """The JSON schema, as canonical JSON text, of an answer about ``num_steps`` steps.

    ``reason`` stands before ``correct``: samplers keep the order of the properties, so the model argues before it
    decides. Only keywords that xgrammar enforces are used (item counts, property order, ``maxLength``, ``enum``).
    """
    item = {
        "type": "object",
        "properties": {
            "step": {"type": "integer"},
            "reason": {"type": "string", "maxLength": max_reason_chars},
            "error_type": {"type": "string", "enum": [str(error) for error in ErrorType]},
            "correct": {"type": "integer", "enum": [0, 1]},
        },
        "required": list(KEYS),
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"verdicts": {"type": "array", "items": item, "minItems": num_steps, "maxItems": num_steps}},
        "required": ["verdicts"],
        "additionalProperties": False,
    }
    return json.dumps(schema, separators=(",", ":"))


def parse_json_verdicts(text: str, first: int, last: int) -> list[StepVerdict] | None:
    """Read a JSON answer about steps ``first..last`` (inclusive); ``None`` when it is not exactly that."""
    try:
        answer = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return None
    if not isinstance(answer, dict) or set(answer) != {"verdicts"} or not isinstance(answer["verdicts"], list):
        return None
    items = answer["verdicts"]
    if len(items) != last - first + 1:
        return None
    verdicts = []
    for index, item in enumerate(items, start=first):
        verdict = _verdict(item, index)
        if verdict is None:
            return None
        verdicts.append(verdict)
    return verdicts


def parse_answer(
    prompt: JudgePrompt, text: str, first: int, last: int, *, is_bound: bool = True
) -> list[StepVerdict] | None:
    """Read an answer in the format that ``prompt`` asks for; ``None`` when it is not exactly that.

    Args:
        is_bound: whether the engine was to enforce the format. Where it was not, one code fence around the whole answer is
            taken off: models write it by habit, and it says nothing.
    """
    if not is_bound:
        fenced = _FENCE.fullmatch(text.strip())
        text = fenced[1] if fenced else text
    return (parse_json_verdicts if prompt.answer == "json" else parse_verdicts)(text, first, last)


def _verdict(item: Any, index: int) -> StepVerdict | None:
    if not isinstance(item, dict) or set(item) != set(KEYS) or not isinstance(item["reason"], str):
        return None
    # `type is int`: True == 1 in Python, and 1.0 == 1, but neither is the integer that was asked for.
    if type(item["step"]) is not int or item["step"] != index:
        return None
    if type(item["correct"]) is not int or item["correct"] not in (0, 1) or not isinstance(item["error_type"], str):
        return None
    try:
        error_type = ErrorType(item["error_type"])
    except ValueError:
        return None
    if (error_type is ErrorType.NONE) != (item["correct"] == 1):
        return None
    return StepVerdict(item["correct"], error_type)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice: which one counts?")
    return found
