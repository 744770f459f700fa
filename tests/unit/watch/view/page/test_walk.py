"""Through the page with a real browser: by links, by the keyboard, with a label by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bcpg_cluster.prompts.labelled_steps import read_labelled_file
from bcpg_cluster.watch.report.calibration import LabelledStep
from bcpg_cluster_cli.judging.hand_labels import HandLabelled, read_hand_labels
from tests.browser import OpenPage
from tests.run_page import PROMPT, document_page, documents, quoted

Visit = Callable[..., Any]
FOCUSED = "document.activeElement"
KEYS = {
    "id", "problem", "steps", "labels", "answer", "run", "round", "prompt_id", "sample", "tokens", "scores", "judges", "notes",
}  # fmt: skip
"""Of a line of hand labels, as ``watch.view.labels`` writes it."""


def at(address: str) -> str:
    return f"document.body.dataset.drawn === {json.dumps(address)} && location.hash === {json.dumps(address)}"


def count(page: OpenPage) -> str:
    """How many samples pass, once all are loaded."""
    page.wait_for("!document.querySelector('.count').innerText.includes('so far')")
    return page.evaluate("document.querySelector('.count').innerText")


def test_from_the_overview_to_a_step_and_back(visit: Visit):
    sample = f"#/sample/1/{quoted(PROMPT)}/1"
    with visit() as page:
        page.click("#top nav a[href='#/samples']")
        page.wait_for(at("#/samples"))
        assert count(page) == "10 of 10 samples"
        page.click("[data-filter=disputed]")
        page.wait_for("document.querySelectorAll('[data-row]').length === 1")
        assert page.evaluate("location.hash") == "#/samples?filter=disputed"
        page.click("[data-row]")
        page.wait_for(at(sample))
        assert "Sample 1" in page.evaluate("document.querySelector('h1').innerText")
        page.click("#step-1 a")
        page.wait_for(at(f"{sample}/step/1"))
        assert page.evaluate(f"{FOCUSED}.id") == "step-1"
        page.click(".trail a[href^='#/group/']")
        page.wait_for(at(f"#/group/1/{quoted(PROMPT)}"))
        assert page.evaluate("document.querySelectorAll('.member').length") == 3
        assert "1 of 3 right" in page.text()
        page.wait_for("document.body.innerText.includes('Round 2')")
        page.click("a[href='#/group/2/" + quoted(PROMPT) + "']")
        page.wait_for(at(f"#/group/2/{quoted(PROMPT)}"))
        page.press("Escape")
        page.wait_for("document.querySelectorAll('[data-row]').length === 1")
        assert page.evaluate("location.hash") == "#/samples?filter=disputed"


def test_by_keyboard_alone(visit: Visit):
    with visit() as page:
        page.press("Tab")
        assert page.evaluate(f"{FOCUSED}.className") == "skip"
        page.press("Enter")
        assert page.evaluate(f"{FOCUSED}.id") == "main"
        page.press("s")
        page.wait_for(at("#/samples"))
        for _ in range(3):
            page.press("j")
        page.press("k")
        page.press("Enter")
        page.wait_for(at(f"#/sample/1/{quoted(PROMPT)}/1"))
        page.press("ArrowRight")
        page.press("ArrowRight")
        assert page.evaluate(f"{FOCUSED}.id") == "step-1"
        assert page.evaluate("location.hash").endswith("/step/1")
        page.press("0")
        page.wait_for("document.querySelector('#step-1 .by-hand')")
        assert page.evaluate("document.querySelector('#step-1 .by-hand').innerText") == "by hand: wrong"
        page.press("j")
        page.wait_for(at(f"#/sample/1/{quoted(PROMPT)}/2"))
        page.press("g")
        page.wait_for(at(f"#/group/1/{quoted(PROMPT)}"))
        page.press("Escape")  # back to the sample the group was opened from
        page.wait_for(at(f"#/sample/1/{quoted(PROMPT)}/2"))
        page.press("Escape")
        page.wait_for(at("#/samples"))
        page.wait_for(f"{FOCUSED}.dataset.row")  # where the list was left
        assert page.evaluate(f"{FOCUSED}.dataset.row") == f"1/{PROMPT}/2"
        page.press("Escape")
        page.wait_for(at("#/"))


def test_the_help_lists_the_keys(visit: Visit):
    with visit() as page:
        page.press("?", shift=True)
        page.wait_for("document.getElementById('help').open")
        assert "Next, previous step of a sample" in page.text()
        page.press("Escape")
        page.wait_for("!document.getElementById('help').open")
        assert page.evaluate("location.hash") in ("", "#/")


def test_the_focus_follows_the_route(visit: Visit, go: Callable[..., None]):
    with visit() as page:
        go(page, "#/samples?filter=missing")
        assert page.evaluate(f"{FOCUSED}.tagName") == "H1"
        assert page.evaluate("document.title").startswith("Samples – sums")
        go(page, "#/?at=events")
        assert page.evaluate(f"{FOCUSED}.id") == "at-events"


def test_labels_by_hand_leave_a_file_that_other_commands_read(visit: Visit, tmp_path: Path):
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        page.click("#step-0 .note-input")
        page.type("it is \u2028 right")
        page.click("#step-0 [data-label=right]")
        page.wait_for("document.querySelector('#step-0 .by-hand')")
        page.click("#step-1 [data-label=wrong]")
        page.wait_for("document.querySelector('#step-1 .by-hand')")
        page.click("#step-0 [data-label=clear]")
        page.wait_for("!document.querySelector('#step-0 .by-hand')")
        page.click("#step-2 .note-input")
        page.type("so it is")
        page.click("#step-2 [data-label=right]")
        page.wait_for("document.getElementById('bottom').innerText.includes('2 labels')")
        page.evaluate(
            "window.made = new Promise(done => { URL.createObjectURL = blob => { done(blob.text()); return 'data:,'; }; }); 0"
        )
        page.click("#download-labels")
        text = page.evaluate("window.made")
    written = tmp_path / "labels.jsonl"
    written.write_text(text, "utf-8")
    assert text.isascii()
    assert len(text.splitlines()) == 1  # one sample
    sample = next(
        of for of in documents()["samples"].values() if (of["round"], of["sample"], of["prompt_id"]) == (1, 1, PROMPT)
    )
    run_name = documents()["overview"]["run"]["name"]
    (solution,) = read_labelled_file(str(written)).solutions
    assert solution.solution_id == f"{run_name}/1/{PROMPT}/1"
    assert (solution.problem, solution.gold) == (sample["question"], "7")
    assert solution.steps == tuple(step["text"] for step in sample["steps"])
    assert solution.truth == (None, 0, 1)
    # prm gave the second step 0.04; the third is the last, which is left out of a calibration
    labelled = read_hand_labels(written, "prm")
    tokens = sample["steps"][1]["end"] - sample["steps"][1]["start"]
    assert labelled == HandLabelled([LabelledStep(0.04, False, tokens)], 0, 1, False)
    entry = json.loads(text)
    assert set(entry) == KEYS
    assert entry["judges"] == {"llm": [1, 1, 1], "prm": [1, 0, 1], "truth": [1, 0, 1]}
    assert entry["notes"] == {"2": "so it is"}


def test_a_note_stays_with_its_step_until_it_is_cleared(visit: Visit):
    value = "document.querySelector('#step-0 .note-input').value"
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        page.click("#step-0 .note-input")
        page.type("fine")
        page.click("#step-0 [data-label=right]")
        page.wait_for("document.querySelector('#step-0 .by-hand.right')")
        assert page.evaluate(value) == "fine"
        page.evaluate(f"{value} = ''")
        page.click("#step-0 [data-label=wrong]")
        page.wait_for("document.querySelector('#step-0 .by-hand.wrong')")
        assert page.evaluate(value) == "fine"
        page.click("#step-0 [data-label=clear]")
        page.wait_for("!document.querySelector('#step-0 .by-hand')")
        assert page.evaluate(value) == ""


def test_a_note_of_the_document_is_shown(visit: Visit, tmp_path: Path):
    made = documents()
    sample = made["samples"][f"1/{PROMPT}/1"]
    sample["steps"][0] |= {"hand": 0, "note": "it is \u2028 off"}
    file = tmp_path / "noted.html"
    file.write_text(document_page(made), "utf-8")
    with visit(f"#/sample/1/{quoted(PROMPT)}/1", of=file) as page:
        assert "off" in page.evaluate("document.querySelector('#step-0 .note-input').value")


def test_filters_search_and_sort_are_in_the_address(visit: Visit):
    with visit("#/samples?round=1&filter=wrong&sort=length") as page:
        assert (
            page.evaluate("[...document.querySelectorAll('[data-row]')].map(a => a.dataset.row.at(-1)).join('')")
            == "21"
        )
        page.press("/")
        page.type("1 + 1")
        page.wait_for("document.querySelector('.count').innerText.startsWith('0 of')")
        assert "No sample passes all filters" in page.text()
        page.click("[data-filter=right]")  # right replaces wrong
        page.wait_for("document.querySelector('.count').innerText.startsWith('2 of')")
        assert page.evaluate("location.hash") == "#/samples?round=1&text=1+%2B+1&filter=right&sort=length"


def test_all_filters_are_cleared_at_once_and_the_order_stays(visit: Visit):
    with visit("#/samples?round=1&filter=wrong&text=zzz&sort=length") as page:
        assert count(page) == "0 of 5 samples"
        page.click(".clear")
        page.wait_for(at("#/samples?sort=length"))
        assert count(page) == "10 of 10 samples"
        assert (
            page.evaluate("document.getElementById('pick-text').value + document.getElementById('pick-round').value")
            == ""
        )
        assert page.evaluate("document.querySelector('.clear')") is None


def test_the_outcome_of_a_wrong_answer_is_that_it_is_wrong(visit: Visit):
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        assert "checked: wrong" in page.evaluate("document.querySelector('.facts').innerText")


def test_the_focus_returns_to_the_row_and_stays_where_it_is_put(visit: Visit, go: Callable[..., None]):
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        go(page, "#/samples")
        page.wait_for(f"{FOCUSED}.dataset.row === {json.dumps(f'1/{PROMPT}/1')}")
        page.click("[data-filter=wrong]")
        page.wait_for("document.querySelector('.count').innerText.startsWith('4 of')")
        assert page.evaluate(f"{FOCUSED}.dataset.filter") == "wrong"
        page.press("/")
        page.type("9 + 9")
        page.wait_for("document.querySelector('.count').innerText.startsWith('1 of')")
        assert page.evaluate(f"{FOCUSED}.id") == "pick-text"


def test_every_filter_finds_its_samples(visit: Visit):
    expected = {"right": 4, "wrong": 4, "mined": 3, "disputed": 1, "sure": 1, "spared_wrong": 1, "missing": 1, "unparsable": 1,
                "truncated": 1, "dropped": 3}  # fmt: skip
    with visit("#/samples") as page:
        found = {}
        for name in expected:
            page.click(f"[data-filter={name}]")
            found[name] = int(count(page).split()[0])
            page.click(f"[data-filter={name}]")
    assert found == expected


def test_a_sample_has_the_letters_of_its_line_in_the_list(visit: Visit, go: Callable[..., None]):
    letters = "[...document.querySelectorAll('.big-strip nav .cell')].map(cell => cell.innerText).join('')"
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        assert page.evaluate(letters) == "mde"
        go(page, f"#/sample/1/{quoted(PROMPT)}/2")
        assert page.evaluate(letters) == "m?e"
        go(page, f"#/sample/2/{quoted(PROMPT)}/0")
        assert page.evaluate(letters) == "xme"


def test_the_heat_shades_tokens_by_what_is_chosen(visit: Visit):
    heat = "getComputedStyle(document.querySelector('.token[data-token=\"1\"]')).getPropertyValue('--heat')"
    with visit(f"#/sample/1/{quoted(PROMPT)}/1") as page:
        before = page.evaluate(heat)
        page.click("input[value=p]")
        assert float(before) + float(page.evaluate(heat)) == 1.0  # 1 - p, and p
        page.click("[data-token='1']")
        assert "gradient mass" in page.evaluate("document.querySelector('.token-detail').innerText")
        page.evaluate("document.querySelector('.tokens').focus()")
        page.press("ArrowRight")
        assert page.evaluate("document.querySelector('.token-detail').innerText").startswith("Token 2 ")


def test_only_what_differs_from_the_defaults_can_be_shown(visit: Visit):
    keys = "[...document.querySelectorAll('#at-config tbody th')].map(cell => cell.innerText)"
    with visit() as page:
        assert page.evaluate(keys) == ["weigh.beta", "verify.answer_pattern"]
        page.click("#only-differs")
        assert page.evaluate(keys) == ["weigh.beta", "seed", "verify.answer_pattern"]
