"""Finds the program in an answer: fenced code blocks, and which of them counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OPENING = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_PYTHON = re.compile(r"[{.\s]*(?:python[0-9.]*|py[0-9.]*|pypy[0-9.]*)\b", re.IGNORECASE)
_DOCUMENT = re.compile(r"[{.\s]*(?:md|markdown)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """A closed fenced block: what stands behind its fence, and its lines without the fence's indentation."""

    info: str
    code: str


def fenced_blocks(text: str) -> Iterator[Block]:
    """The closed blocks of a Markdown text in order; those inside a block of Markdown as well.

    Lines may end in CRLF. A fence may be indented at will (a list's items are), and its indentation is taken off its lines. It is
    closed by a fence of the same character that is at least as long.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.match(lines[at])
        at += 1
        if opening is None:
            continue
        indentation, fence, info = opening.groups()
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        end = next((number for number in range(at, len(lines)) if closing.match(lines[number])), None)
        if end is None:
            continue
        code = "".join(_without(indentation, line) + "\n" for line in lines[at:end])
        if _DOCUMENT.match(info):
            yield from fenced_blocks(code)
        elif code.strip():
            yield Block(info.strip(), code)
        at = end + 1


def _without(indentation: str, line: str) -> str:
    """The line without as much white space as the fence has before it."""
    num_blanks = len(line) - len(line.lstrip(" \t"))
    return line[min(num_blanks, len(indentation)) :]


def find_code(part: str, names: Sequence[str] = ()) -> str | None:
    """The program in an answer, ``None`` without one.

    A block of ``python`` comes before any other. Among those the last that defines one of ``names`` counts (a function, class
    or value of the module, or a method of a class ``Solution``), so an example of its use may follow; else the last.
    """
    blocks = list(fenced_blocks(part))
    chosen = [block.code for block in blocks if _PYTHON.match(block.info)] or [block.code for block in blocks]
    defining = [code for code in chosen if any(defines(code, name) for name in names)]
    return (defining or chosen)[-1] if chosen else None


def defines(code: str, name: str) -> bool:
    """Whether a program defines a name at its top level or as a method of a class ``Solution``."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return re.search(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", code, re.MULTILINE) is not None
    return name in _names(tree.body)


def _names(body: Sequence[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
            if isinstance(statement, ast.ClassDef) and statement.name == "Solution":
                names |= _names(statement.body)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in statement.names}
        elif isinstance(statement, (ast.If, ast.Try)):
            names |= _names([*statement.body, *statement.orelse])
    return names
