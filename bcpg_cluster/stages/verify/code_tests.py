r"""Unit tests as the gold answer of a prompt: a JSON text in ``Prompt.answer``.

Three styles::

    {"style": "stdin",    "cases": [{"input": "1 2\n", "output": "3\n"}]}
    {"style": "function", "entry_point": "add", "cases": [{"input": [1, 2], "output": 3}]}
    {"style": "asserts",  "check": "assert add(1, 2) == 3"}

``stdin``: the response is a program that reads the input and prints the output. ``function``: it defines ``entry_point``,
or a class ``Solution`` with that method, which is called with the arguments ``input`` and returns something equal to
``output`` (tuples are lists). ``asserts``: ``check`` runs after the response's code and must not raise. Any style may
have a ``prelude``, code that runs before the response's: imports, or functions it may use.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Style = Literal["stdin", "function", "asserts"]


@dataclass(frozen=True, slots=True)
class Case:
    """One input with the output it should give: two texts (``stdin``), or arguments and a value (``function``)."""

    input: Any
    output: Any


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem (see the module)."""

    style: Style
    cases: tuple[Case, ...] = ()
    entry_point: str = ""
    check: str = ""
    prelude: str = ""

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for tests that test nothing."""
        if self.style not in get_args(Style):
            raise ValueError(f"style is {self.style!r}, not one of {', '.join(get_args(Style))}")
        if self.style == "asserts":
            if not self.check.strip():
                raise ValueError("style asserts has no check")
            return
        if not self.cases:
            raise ValueError(f"style {self.style} has no cases")
        if self.style == "function" and not self.entry_point.isidentifier():
            raise ValueError(f"entry_point is {self.entry_point!r}, not a name")
        kinds = (str, str) if self.style == "stdin" else (list, object)
        for case in self.cases:
            if not isinstance(case.input, kinds[0]) or not isinstance(case.output, kinds[1]):
                wanted = "texts" if self.style == "stdin" else "a list of arguments and a value"
                raise ValueError(f"a case of style {self.style} has input {case.input!r:.80}; it wants {wanted}")

    def to_json(self) -> str:
        """The text for ``Prompt.answer``."""
        return json.dumps({key: value for key, value in asdict(self).items() if value})

    @classmethod
    def from_json(cls, text: str) -> CodeTests:
        """The tests in a gold answer. Raises ``ValueError`` saying what is wrong with it."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from None
        if not isinstance(content, dict) or "style" not in content:
            raise ValueError("not a JSON object with a style")
        unknown = sorted(content.keys() - {"style", "cases", "entry_point", "check", "prelude"})
        if unknown:
            raise ValueError(f"unknown keys {unknown}")
        cases = content.pop("cases", [])
        if not isinstance(cases, list) or not all(
            isinstance(c, dict) and c.keys() == {"input", "output"} for c in cases
        ):
            raise ValueError("cases is not a list of objects with input and output")
        if not all(isinstance(value, str) for value in content.values()):
            raise ValueError("style, entry_point, check and prelude are texts")
        return cls(cases=tuple(Case(**case) for case in cases), **content)
