"""Text of models, data sets and users stays text: nothing runs, nothing is asked for, nothing hides the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.run_page import HOSTILE, PROMPT, quoted

Visit = Callable[..., Any]
ROUTES = ["#/", "#/samples", f"#/group/1/{quoted(PROMPT)}", f"#/sample/1/{quoted(PROMPT)}/1", f"#/sample/1/{quoted(PROMPT)}/2",
          "#/sample/2/long/0"]  # fmt: skip


@pytest.mark.parametrize("address", ROUTES)
def test_hostile_text_is_drawn_as_text(visit: Visit, address: str):
    with visit(address) as page:  # the end of the visit checks that nothing ran and nothing was asked for
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert (
            page.evaluate("document.querySelectorAll('img, iframe, object, embed, link[rel=stylesheet]').length") == 0
        )
        assert page.evaluate("document.querySelectorAll('script').length") == 3  # boot, data and the page's own
        assert page.evaluate("document.querySelectorAll('style').length") == 1
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).display") != "none"
        assert HOSTILE[:40] in page.text()


def test_the_policy_refuses_what_would_get_in(visit: Visit):
    """Were there a hole after all. It also shows that what was refused is heard of here."""
    add = "(() => { const e = document.createElement(%r); e.%s = %r; document.body.append(e); })()"
    with visit(is_quiet=False) as page:
        page.evaluate(add % ("script", "textContent", "window.hurt = 1"))
        page.evaluate(add % ("img", "src", "http://127.0.0.1:9/x.png"))
        page.evaluate(add % ("style", "textContent", "h1 { display: none }"))
        page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
        page.wait_for("true")
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).display") != "none"
        refused = [error for error in page.console_errors if "Content Security Policy" in error]
        assert len(refused) >= 4, page.console_errors


def test_links_of_documents_stay_in_the_page(visit: Visit):
    with visit() as page:
        links = page.evaluate("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
        assert [link for link in links if not link.startswith("#")] == []


def test_what_draws_nothing_or_turns_text_around_is_made_visible(visit: Visit):
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        question = page.evaluate("document.querySelector('.facts .written').innerText")
    assert "␀␇" in question and "⟦U+202E⟧gnol⟦U+202C⟧" in question
    assert "{{ 7 * 7 }} ${7 * 7}" in question


def test_huge_text_is_cut_until_it_is_asked_for(visit: Visit):
    size = "document.getElementById('main').innerText.length"
    with visit("#/sample/2/long/0") as page:
        assert page.evaluate(size) < 50_000
        assert "Show all 70,000 characters" in page.text()
        page.evaluate("[...document.querySelectorAll('button')].find(b => b.innerText.startsWith('Show all')).click()")
        assert page.evaluate(size) > 70_000
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
