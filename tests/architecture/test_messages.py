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


def prints_itself(call: ast.Call) -> bool:
    """Whether a call prints something besides JSON and fixed words without asking ``terminal.py``."""
    name = ast.unparse(call.func)
    if name == "Console":
        return True
    if name not in ("print", "typer.echo", "typer.secho") or not call.args:
        return False
    said = call.args[0]
    return not (
        isinstance(said, ast.Constant) or (isinstance(said, ast.Call) and ast.unparse(said.func) == "json.dumps")
    )


def test_one_place_prints():
    """Any text may hold control characters; ``terminal.py`` shows them."""
    fixed = {"typer.echo(__version__)", "typer.echo(config_schema(), nl=False)"}
    found = {
        f"{name}: {ast.unparse(node)}"
        for name, path in files().items()
        if name.startswith("bcpg_cluster_cli.") and not name.endswith(".terminal")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and prints_itself(node) and ast.unparse(node) not in fixed
    }
    assert found == {
        "bcpg_cluster_cli.runs.compare: typer.echo((directory / 'comparison.json').read_text())"
    }  # JSON too


def test_a_place_that_prints_would_be_found():
    calls = ["print(x)", "print('x')", "typer.echo(f'{x}')", "typer.echo(json.dumps(x))", "Console()", "say(x)"]
    found = [call for call in calls if prints_itself(ast.parse(call).body[0].value)]  # type: ignore[attr-defined]
    assert found == ["print(x)", "typer.echo(f'{x}')", "Console()"]
