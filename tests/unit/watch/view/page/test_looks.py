"""Light and dark, desktop and phone: readable, and never wider than the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.run_page import PROMPT, quoted

Visit = Callable[..., Any]
ROUTES = [
    "#/",
    "#/samples",
    f"#/group/1/{quoted(PROMPT)}",
    f"#/sample/1/{quoted(PROMPT)}/1",
    "#/sample/2/long/0",
    "#/nonsense",
]
WIDTHS = {"desktop": 1280, "phone": 390}

# Of every element with text of its own: the contrast (WCAG 2) of its colour to what is behind it.
CONTRASTS = """
(() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const behind = element => {
    const colours = [];
    for (let at = element; at; at = at.parentElement) colours.push(getComputedStyle(at).backgroundColor);
    context.fillStyle = '#fff'; context.fillRect(0, 0, 1, 1);
    for (const colour of colours.reverse()) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return context.getImageData(0, 0, 1, 1).data;
  };
  const pixel = (colour, under) => {
    context.fillStyle = `rgb(${under[0]} ${under[1]} ${under[2]})`; context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const low = [];
  for (const element of document.body.querySelectorAll('*')) {
    const hasText = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.disabled || element.closest('.unseen, script, dialog, svg')) continue;
    const under = behind(element), ink = pixel(getComputedStyle(element).color, under);
    const [high, deep] = [light(ink), light(under)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (deep + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
})()
"""


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("address", ROUTES)
def test_text_stands_out_in_both_schemes(visit: Visit, address: str, is_dark: bool):
    with visit(address, dark=is_dark) as page:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 128 * 3) == is_dark
        assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("address", ROUTES)
def test_the_page_does_not_scroll_sideways(visit: Visit, address: str, width: int):
    with visit(address, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, .unseen, svg, .raw, .chart')"
        wide += " && e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 99))"
        assert page.evaluate(wide) == []


@pytest.mark.parametrize("address", ROUTES)
def test_everything_to_press_has_a_name_and_ids_are_unique(visit: Visit, address: str):
    nameless = """[...document.querySelectorAll('a, button, input, select')].filter(e => !(e.innerText || '').trim()
      && !e.getAttribute('aria-label') && !(e.labels && e.labels.length)).map(e => e.outerHTML)"""
    with visit(address) as page:
        assert page.evaluate(nameless) == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
        assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(e => e.getAttribute('aria-label'))")


def test_a_missing_verdict_is_drawn_unlike_a_wrong_one_without_colour(visit: Visit):
    style = "(e => ({words: e.innerText, border: getComputedStyle(e).borderTopStyle}))(document.querySelector('%s'))"
    with visit(f"#/sample/1/{quoted(PROMPT)}/2/step/1") as page:
        missing = page.evaluate(style % "#step-1 .verdict.missing")
    with visit(f"#/sample/1/{quoted(PROMPT)}/1/step/1") as page:
        wrong = page.evaluate(style % "#step-1 .verdict.wrong")
    assert missing == {"words": "? missing: unparsable", "border": "dashed"}
    assert wrong == {"words": "✗ wrong", "border": "none"}
