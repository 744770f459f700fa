"""What a newcomer must find by the page alone: each answer is one click from the overview, and stands there in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.browser import OpenPage

Visit = Callable[..., Any]


def follow(page: OpenPage, title: str) -> str:
    """Click the entry of "Start here"; the text of where the focus lands."""
    entry = f"[...document.querySelectorAll('.start a')].findIndex(link => link.innerText === {title!r}) + 1"
    number = page.evaluate(entry)
    assert number > 0, page.text()
    address = page.evaluate(f"document.querySelector('.start li:nth-child({number}) a').getAttribute('href')")
    page.click(f".start li:nth-child({number}) a")
    page.wait_for(f"document.body.dataset.drawn === {address!r}")
    return page.evaluate("document.activeElement.innerText")


def test_the_round_in_which_a_judge_got_worse(visit: Visit):
    with visit() as page:
        text = follow(page, "The round in which a judge got worse")
        row = page.evaluate(
            "[...document.querySelectorAll('#at-judges tbody tr')].find(row => row.querySelector('.fell')).innerText.split('\\t')"
        )
    assert "Precision" in text
    assert row[:4] == ["llm", "2", "truth", "88.0\u00a0% ▼ 7.0"]


def test_a_wrong_answer_whose_right_steps_were_spared(visit: Visit):
    with visit() as page:
        step = follow(page, "A wrong answer whose right steps were spared")
        assert "✗ wrong" in page.evaluate("document.querySelector('h1').innerText")
    assert "3+4=7" in step and "Mined. llm and prm call it right" in step


def test_a_step_on_which_the_judges_disagree(visit: Visit):
    with visit() as page:
        follow(page, "A step on which the judges disagree")
        cells = "[...document.querySelectorAll('#step-1 td')]"
        said = dict(page.evaluate(f"{cells}.map(cell => [cell.dataset.name, cell.innerText.split('\\n')[0]])"))
    assert said["llm"] == "✓ right" and said["prm"] == "✗ wrong 0.04" and said["truth"] == "✗ wrong"


def test_why_samples_were_dropped(visit: Visit):
    with visit() as page:
        text = follow(page, "Why 3 samples were dropped")
        assert "Round 1: 5 asked = 3 kept + 2 dropped" in text
        assert "2 all correct: Every answer to the question was right, so none is better than another." in text
        assert "1 unverified: The answer could not be checked." in text
        page.click("#at-samples .reasons a")
        page.wait_for("document.querySelectorAll('[data-row]').length === 2")


def test_what_share_of_the_gradient_mined_tokens_hold(visit: Visit):
    with visit() as page:
        follow(page, "What share of the gradient mined tokens hold")
        rows = page.evaluate(
            "[...document.querySelectorAll('#at-mined tr')].map(row => [...row.children].slice(0, 3).map(cell => cell.innerText))"
        )
    assert rows == [
        ["Round", "of tokens", "of gradient mass"],
        ["1", "65.0\u00a0%", "60.0\u00a0%"],
        ["2", "75.0\u00a0%", "70.0\u00a0%"],
    ]
