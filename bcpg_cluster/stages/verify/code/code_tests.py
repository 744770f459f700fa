r"""Unit tests as the gold answer of a prompt: a JSON text in ``Prompt.answer``.

Three styles::

    {"style": "stdin",    "cases": [{"input": "1 2\n", "output": "3\n"}]}
    {"style": "function", "entry_point": "add", "cases": [{"input": [1, 2], "output": 3}]}
    {"style": "asserts",  "check": "assert add(1, 2) == 3"}

``stdin``: the response is a program that reads the input and prints the output. ``function``: it defines ``entry_point``,
or a class ``Solution`` with that method, which is called with the arguments ``input`` and returns something equal to
``output`` (tuples are lists). ``asserts``: ``check`` must not raise; it runs in a process of its own, where the names that it uses
and does not define stand for the response's functions (``judge_process``). Any style may have a ``prelude``, code that runs
before the response's and before ``check``: imports, or functions they may use.
"""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

MAX_OUTPUT_BYTES = 2**26  # of one case: more than that is not compared in memory

Style = Literal["stdin", "function", "asserts"]


@dataclass(frozen=True, slots=True)
class Case:
    """One input with the output it should give: two texts (``stdin``), or arguments and a value (``function``)."""

    input: Any
    output: Any


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem (see the module).

    Attributes:
        entry_point: what the response must define. ``asserts`` may leave it out: it is then what a function ``check`` is called
            with, and otherwise every name of the tests that nothing else defines.
    """

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

    def entry_points(self) -> tuple[str, ...]:
        """The names a response must define, as far as the tests say so."""
        if self.entry_point:
            return (self.entry_point,)
        return _checked_names(self.check) if self.style == "asserts" else ()

    def raise_unless_usable(self) -> None:
        """Look for what would make every response wrong. Raises ``ValueError``."""
        for name in ("prelude", "check"):
            try:
                ast.parse(getattr(self, name))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise ValueError(f"its {name} is no Python ({error})") from None
        for case in self.cases if self.style == "stdin" else ():
            size = len(case.output.encode(errors="replace"))
            if size > MAX_OUTPUT_BYTES:
                raise ValueError(f"an expected output has {size} bytes, more than {MAX_OUTPUT_BYTES}")

    def to_json(self) -> str:
        """The text for ``Prompt.answer``."""
        return json.dumps({key: value for key, value in asdict(self).items() if value})

    @classmethod
    def from_json(cls, text: str) -> CodeTests:
        """The tests in a gold answer. Raises ``ValueError`` saying what is wrong with it."""
        try:
            content = json.loads(text, parse_int=_integer)
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


def _integer(digits: str) -> int:
    """An integer of any length; ``int`` refuses texts of more than 4,300 digits."""
    return int(digits) if len(digits) < 4000 else int(Decimal(digits))


def _checked_names(check: str) -> tuple[str, ...]:
    """What a function ``check`` is given at the top level of a test, as in HumanEval's ``check(add)``."""
    try:
        tree = ast.parse(check)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    calls = [line.value for line in tree.body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
    return tuple(
        argument.id
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "check"
        for argument in call.args
        if isinstance(argument, ast.Name)
    )
