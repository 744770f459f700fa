"""The page's own files: complete, readable, and unable to make markup of data. No browser."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from bcpg_cluster.watch.view import page
from bcpg_cluster.watch.view.render import page_parts
from tests.run_page import document_page, documents

FOLDER = files(page.__name__)
SCRIPTS = sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".js"))
SOURCES = [*SCRIPTS, "page.css", "page.html.jinja"]


def read(name: str) -> str:
    return FOLDER.joinpath(name).read_text("utf-8")


def test_every_script_is_a_part_of_the_page_once():
    assert sorted(page.PARTS) == SCRIPTS
    assert all(read(name) in page.script() for name in SCRIPTS)


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_is_long(name: str):
    assert len(read(name).splitlines()) <= 400


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_can_make_markup_or_code_of_data(name: str):
    ways = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|createContextualFragment"
    )
    assert re.findall(ways, read(name)) == []


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_loaded_from_elsewhere(name: str):
    addresses = re.findall(r"https?://[^\s\"'`]+|url\([^)]*\)|@import", read(name))
    assert [address for address in addresses if address != "http://www.w3.org/2000/svg"] == []


def test_the_page_is_small():
    parts = page_parts()
    assert len(parts.script) + len(parts.style) + len(parts.template) < 150_000


def test_the_data_stands_in_the_page_as_base64_alone():
    text = document_page(documents())
    data = re.search(r'<script id="data" type="text/plain">([^<]*)</script>', text)
    assert data is not None and re.fullmatch(r"[A-Za-z0-9+/=]+", data[1])
    assert text.count("<script") == 3 and "<img" not in text
