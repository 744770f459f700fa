"""The run page's own files: one template, one style, one script. They fetch nothing and need no build step."""

from __future__ import annotations

from importlib.resources import files

PARTS = (
    "dom.js", "words.js", "source.js", "rows.js", "charts.js", "gantt.js", "overview.js", "tables.js", "list.js", "group.js",
    "labels.js", "tokens.js", "steps.js", "sample.js", "keys.js", "main.js",
)  # fmt: skip
"""The script in the order in which it runs; what a part needs stands before it or is called later."""


def style() -> str:
    """The page's CSS."""
    return _read("page.css")


def script() -> str:
    """The page's JavaScript, as one function that leaves no global names behind."""
    return '"use strict";\n(() => {\n' + "\n".join(map(_read, PARTS)) + "\n})();\n"


def template() -> str:
    """The page as a jinja2 template.

    It takes ``title`` and ``csp`` as plain text; ``style``, ``script``, ``boot`` (JSON that is safe inside a script element) and
    ``data`` (base64, or ``None`` when a server gives the documents) as they are.
    """
    return _read("page.html.jinja")


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")
