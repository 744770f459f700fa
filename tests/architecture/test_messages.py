"""What people read names nothing that an installed wheel lacks: pages, configs, scripts and tests lie in a checkout alone."""

from __future__ import annotations

import ast
import re

from tests.architecture.imports import files

IN_A_CHECKOUT = re.compile(
    r"\b(docs|configs|scripts|tests|benchmarks|clusters)/[\w./-]+\.(md|yaml|py|sh)|\bbcpg_cluster/assets"
)
MAKE = re.compile(r"\bmake (setup|test|iterate)\b")


def spoken(tree: ast.Module) -> list[str]:
    """The texts of a file that are no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return [node.value for node in constants if isinstance(node.value, str)]


def missing_from_a_wheel(text: str) -> str:
    found = IN_A_CHECKOUT.search(text) or (MAKE.search(text) if "in a checkout" not in text else None)
    return found[0] if found else ""


def test_messages_name_nothing_a_wheel_lacks():
    wrong = {
        f"{path}: {named}"
        for path in files().values()
        for text in spoken(ast.parse(path.read_text()))
        if (named := missing_from_a_wheel(text))
    }
    assert wrong == set()


def test_a_name_would_be_found():
    tree = ast.parse('"""docs/a.md in a docstring"""\nx = "see docs/a.md"\ny = "run `make setup`"')
    assert [missing_from_a_wheel(text) for text in spoken(tree)] == ["docs/a.md", "make setup"]
