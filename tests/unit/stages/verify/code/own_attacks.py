"""Attacks of our own (tests/data/attacks/own.txt): programs that must get no reward, see nothing and leave nothing behind.

Each block there is a program. Its first line says its kind and the tests it is given (below), or what it must not print; the
second is its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[4] / "data/attacks/own.txt"

ADD = {
    "stdin": {
        "style": "stdin",
        "cases": [{"input": "3 4\n", "output": "7\n"}, {"input": "10 20\n", "output": "30\n"}],
    },
    "function": {
        "style": "function",
        "entry_point": "add",
        "cases": [{"input": [3, 4], "output": 7}, {"input": [10, 20], "output": 30}],
    },
    "asserts": {"style": "asserts", "check": "assert add(3, 4) == 7\nassert add(10, 20) == 30"},
    "check": {
        "style": "asserts",
        "prelude": "def add(a, b):\n    pass\ndef twice(a):\n    return 2 * a\n",
        "check": "def check(candidate):\n    assert twice(candidate(3, 4)) == 14\n    assert candidate(10, 20) == 30\ncheck(add)",
    },
    "map": {
        "style": "asserts",
        "check": "assert all(map(lambda t: add(*t[0]) == t[1], [((3, 4), 7), ((10, 20), 30)]))",
    },
    "sorted": {
        "style": "asserts",
        "check": "xs = [3, 1, 2]\nassert order(xs) == sorted(xs)\nys = [5, 4]\nassert order(ys) == sorted(ys)",
    },
    "builtin": {
        "style": "asserts",
        "check": "assert abs(half(3) - 1.5) < 1e-6\nassert len(str(half(4))) == 3 and half(4) == 2.0",
    },
    "methods": {"style": "asserts", "check": "assert shout('a').startswith('A!')\nassert shout('b').endswith('B!')"},
    "approx": {"style": "function", "entry_point": "add", "cases": [{"input": [0.1, 0.2], "output": 0.3}]},
}


def attacks() -> list[dict[str, Any]]:
    """In the form of tests/data/attacks/attacks.jsonl."""
    found = []
    for block in PROGRAMS.read_text().strip().split("### ")[1:]:
        head, name, program = block.split("\n", 2)
        kind, _, what = head.partition(" ")
        attack: dict[str, Any] = {"kind": kind, "name": name, "program": program}
        if kind == "false_pass":
            attack |= {"style": ADD[what]["style"], "gold": ADD[what]}
        elif kind == "escape":
            attack["must_not_print"] = what
        found.append(attack)
    return found
