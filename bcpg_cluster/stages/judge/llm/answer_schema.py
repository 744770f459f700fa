"""A judge's answer as JSON: the schema an engine can enforce, and the strict reading of what comes back.

A schema-bound sampler promises the form, not the sense: step numbers, and that label and error type agree, are checked
here. A missing or doubled key, one verdict too few, text around the object: all of it is unparsable (fail closed). Only
where no engine enforced the format may thoughts or prose stand before the object, and a code fence around it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from bcpg_cluster.records import ErrorType, StepRule
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt, StepVerdict, parse_verdicts

MAX_REASON_CHARS: Final = 200
_FENCE: Final = re.compile(r"```[ \t]*(?:json)?[ \t]*\r?\n(.*?)(?:\r?\n)?```", re.DOTALL | re.IGNORECASE)
_FENCE_START: Final = re.compile(r"```[ \t]*(?:json)?", re.IGNORECASE)
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # to the end where it is never closed
_JSON_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
KEYS: Final = ("step", "reason", "error_type", "correct")


def verdict_schema(num_steps: int, max_reason_chars: int = MAX_REASON_CHARS, rule: StepRule = "propagated") -> str:
    """The JSON schema, as canonical JSON text, of an answer about ``num_steps`` steps by ``rule``.

    ``reason`` stands before ``correct``: samplers keep the order of the properties, so the model argues before it
    decides. Only keywords that xgrammar enforces are used (item counts, property order, ``maxLength``, ``enum``).
    """
    item = {
        "type": "object",
        "properties": {
            "step": {"type": "integer"},
            "reason": {"type": "string", "maxLength": max_reason_chars},
            "error_type": {"type": "string", "enum": [str(error) for error in ErrorType if _is_error_of(rule, error)]},
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
    """Read a JSON answer about steps ``first..last`` (inclusive); ``None`` when it is not exactly that.

    A backslash that JSON does not allow (LaTeX in a ``reason``) is read as itself. A label is an integer, and no name of
    an error or key holds a backslash, so that no verdict depends on it.
    """
    answer = json_value(text)
    if answer is None:
        answer = json_value(double_stray_backslashes(text))
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


def parse_reasons(text: str) -> dict[int, str]:
    """By step, the reason in a JSON answer, whether or not the answer as a whole counts; empty where it holds none."""
    for candidate in (text, _without_fence(text), _without_fence(_after_prose(_after_thoughts(text)))):
        answer = json_value(candidate)
        if answer is None:
            answer = json_value(double_stray_backslashes(candidate))
        items = answer.get("verdicts") if isinstance(answer, dict) else None
        if isinstance(items, list):
            found = [item for item in items if isinstance(item, dict) and isinstance(item.get("reason"), str)]
            return {item["step"]: item["reason"] for item in found if type(item.get("step")) is int}
    return {}


def parse_answer(
    prompt: JudgePrompt, text: str, first: int, last: int, *, is_bound: bool = True
) -> list[StepVerdict] | None:
    """Read an answer in the format that ``prompt`` asks for; ``None`` when it is not exactly that.

    Args:
        prompt: its rule, too: by ``local`` no step is wrong as ``propagated``, and an answer that says so is unparsable.
        is_bound: whether the engine was to enforce the format. Where it was not, one code fence around the whole answer is
            taken off, since models write it by habit; JSON may follow thoughts (``</think>``) or prose; and JSON that is
            the whole answer is read where lines were asked for. Two answers in one text, or a thought that never ends,
            are unparsable.
    """
    verdicts = _read(prompt, text, first, last, is_bound=is_bound)
    if verdicts is not None and not all(_is_error_of(prompt.rule, verdict.error_type) for verdict in verdicts):
        return None
    return verdicts


def _is_error_of(rule: StepRule, error: ErrorType) -> bool:
    """Whether a judge may name ``error``: a step that only builds on a mistake is right by the rule ``local``."""
    return rule == "propagated" or error is not ErrorType.PROPAGATED


def _read(prompt: JudgePrompt, text: str, first: int, last: int, *, is_bound: bool) -> list[StepVerdict] | None:
    read = parse_json_verdicts if prompt.answer == "json" else parse_verdicts
    if is_bound:
        return read(text, first, last)
    verdicts = read(_without_fence(text), first, last)
    if verdicts is not None:
        return verdicts
    answer = _after_thoughts(text)
    if prompt.answer == "json":
        answer = _after_prose(answer)
    return parse_json_verdicts(_without_fence(answer), first, last)


def double_stray_backslashes(text: str) -> str:
    r"""Double every backslash inside a JSON string that begins no escape JSON knows (``\(``, ``\sqrt``, ``\underline``)."""

    def doubled(escape: re.Match[str]) -> str:
        return "\\\\" if escape[0] == "\\" else escape[0]

    return _JSON_STRING.sub(lambda string: _JSON_ESCAPE.sub(doubled, string[0]), text)


def json_value(text: str) -> Any:
    """The value of a JSON text; ``None`` where it is none, or an object has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return None


def _without_fence(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text


def _after_thoughts(text: str) -> str:
    """What follows the last ``</think>``; nothing where a thought never ends."""
    _, _, tail = text.rpartition("</think>")
    return "" if "<think>" in tail else tail


def _after_prose(text: str) -> str:
    """All from the first answer on, with its fence, if it begins a line; so a second one makes the whole unreadable."""
    key = text.find('"verdicts"')
    start = text.rfind("{", 0, max(key, 0))
    if start < 0 or text[start + 1 : key].strip():
        return ""
    prose = text[:start].rstrip(" \t")
    if prose and not prose.endswith("\n"):  # inside a sentence it may be quoted
        return ""
    before, _, last_line = prose.rstrip().rpartition("\n")
    is_fenced = _FENCE_START.fullmatch(last_line.strip()) is not None
    return text[len(before) :] if is_fenced else text[start:]


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
