"""A browser for the tests of the page, and the page of a small run in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser import PROGRAM, Browser, OpenPage, start_browser
from tests.run_page import document_page, documents

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("no browser is installed (Debian: chromium)")
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``tests/run_page.py`` as one file."""
    written = tmp_path_factory.mktemp("page") / "run.html"
    written.write_text(document_page(documents()), "utf-8")
    return written


@pytest.fixture
def visit(browser: Browser, file: Path) -> Visit:
    """``visit(address)`` opens the file's page there; a page with an error on its console, or one that asked for more, fails."""

    @contextmanager
    def open_at(address: str = "#/", *, is_quiet: bool = True, of: Path = file, **options: Any) -> Iterator[OpenPage]:
        with browser.open_page(f"{of.as_uri()}{address}", **options) as page:
            page.wait_for("document.body.dataset.drawn")
            yield page
            assert page.evaluate("window.hurt === undefined")
            if is_quiet:
                assert page.console_errors == []
                assert {request.partition("#")[0] for request in page.requests} == {of.as_uri()}

    return open_at


@pytest.fixture
def go() -> Callable[[OpenPage, str], None]:
    """Change the address, as a link does, and wait until it is drawn."""

    def change(page: OpenPage, address: str) -> None:
        page.evaluate(f"location.hash = {json.dumps(address)}")
        page.wait_for(f"document.body.dataset.drawn === {json.dumps(address)}")

    return change
