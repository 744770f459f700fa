"""What is wrong, missing, half-written or huge: clear words, and never a blank page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.watch.view.render import bundle_page, page_parts
from tests.run_page import PROMPT, document_page, documents, line, quoted, shard

Visit = Callable[..., Any]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("#/sample/9/nowhere/0", "Sample 0 of prompt nowhere in round 9 is not in this file."),
        ("#/sample/1/__proto__/toString", "There is no page at"),
        ("#/sample/1/constructor/0", "Sample 0 of prompt constructor in round 1 is not in this file."),
        (f"#/sample/1/{quoted(PROMPT)}/1/step/77", "has no step 77."),
        ("#/group/2/nowhere", "Round 2 has no prompt nowhere."),
        ("#/elsewhere/%E0%A4%A", "There is no page at"),
    ],
)
def test_a_wrong_link_says_what_is_wrong(visit: Visit, address: str, words: str):
    with visit(address) as page:
        box = page.evaluate("document.querySelector('[role=alert]').innerText")
        assert words in box and "What to do:" in box
        page.press("o")
        page.wait_for("document.querySelector('.start')")


def test_a_damaged_file_says_so(visit: Visit, tmp_path: Path):
    file = tmp_path / "damaged.html"
    file.write_text(bundle_page(page_parts(), "damaged", b"not gzip", []), "utf-8")
    with visit("", of=file) as page:
        assert "The data in this file is damaged." in page.text() and "What to do:" in page.text()


def test_an_old_browser_is_told_what_to_do(visit: Visit):
    with visit("", before="delete window.DecompressionStream") as page:
        assert "This browser cannot unpack the page's data." in page.text()
        assert "bcpg-cluster view" in page.text()


def test_what_was_left_out_is_said_at_the_top_and_in_its_place(visit: Visit, tmp_path: Path):
    run, words = documents(), "Samples that are not mined were left out to keep the page under 5 MB."
    del run["samples"][f"1/{PROMPT}/0"]
    file = tmp_path / "less.html"
    file.write_text(document_page(run, [words]), "utf-8")
    with visit(f"#/sample/1/{quoted(PROMPT)}/0", of=file) as page:
        assert words in page.evaluate("document.getElementById('notices').innerText")
        assert words in page.evaluate("document.querySelector('[role=alert]').innerText")


def test_a_half_written_round_is_shown_as_far_as_it_is(visit: Visit):
    with visit("#/samples?round=3") as page:
        assert "Round 3 is half-written" in page.text() and "interrupted by a person" in page.text()
        assert "1 shard still waits for: outcomes, steps, verdicts.llm." in page.text()
        assert "not verified yet" in page.text() and "not weighed yet" in page.text()
        page.press("o")
        page.wait_for("document.querySelector('.overview')")
        assert "Round 3 is under way" in page.text() and "generate 1 of 2" in page.text()


def test_a_sample_without_log_probs_says_what_is_not_known(visit: Visit):
    with visit(f"#/sample/2/{quoted(PROMPT)}/0") as page:
        assert page.evaluate("[...document.querySelectorAll('[name=quantity]:disabled')].map(e => e.value)") == [
            "p",
            "mass",
            "drift",
            "p_after",  # no server
            "p_change",
        ]
        assert "gradient mass (not known)" in page.text()


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        ("waiting", "This answer is not cut into steps yet."),
        ("all_wrong", "This answer was dropped (all wrong), so it was never cut into steps."),
        (None, "The run has no steps of this answer."),
    ],
)
def test_an_answer_without_steps_says_why(visit: Visit, tmp_path: Path, drop: str | None, words: str):
    run = documents()
    run["samples"]["2/long/0"] |= {"drop": drop, "text": "9"}
    file = tmp_path / "uncut.html"
    file.write_text(document_page(run), "utf-8")
    with visit("#/sample/2/long/0", of=file) as page:
        assert words in page.text()


def test_tokens_whose_values_are_all_0_have_no_scale(visit: Visit, tmp_path: Path):
    run = documents()
    tokens = run["samples"][f"1/{PROMPT}/1"]["tokens"]
    tokens["drift"] = [0.0] * len(tokens["text"])
    file = tmp_path / "zeros.html"
    file.write_text(document_page(run), "utf-8")
    with visit(f"#/sample/1/{quoted(PROMPT)}/1", of=file) as page:
        page.click("[name=quantity][value=drift]")
        page.wait_for("document.querySelector('.heat').innerText.includes('Here all values are 0.')")


def test_small_numbers_are_written_out(visit: Visit, tmp_path: Path):
    run = documents()
    for of in run["overview"]["rounds"]:
        of["cost"]["round_s"] = 0.0006
        if of["push"]:
            of["push"]["worst_nats"] = 0.00097
    file = tmp_path / "small.html"
    file.write_text(document_page(run), "utf-8")
    with visit("", of=file) as page:
        assert "0.6 ms" in page.evaluate("document.getElementById('at-cost').innerText")
        assert "0.00097" in page.evaluate("document.getElementById('at-push').innerText")


def test_a_part_that_cannot_be_drawn_leaves_the_others(visit: Visit, tmp_path: Path):
    run = documents()
    run["overview"]["rounds"][1]["agreement"] = [{"judges": None}]
    file = tmp_path / "broken.html"
    file.write_text(document_page(run), "utf-8")
    with visit("", of=file, is_quiet=False) as page:
        assert "The page could not draw this." in page.evaluate("document.getElementById('at-agreement').innerText")
        assert "weigh.beta" in page.evaluate("document.getElementById('at-config').innerText")


def test_a_run_that_has_only_begun(visit: Visit, tmp_path: Path):
    run = documents()
    run["overview"] |= {"rounds": [], "shards": [], "events": [], "gantt": None, "start_here": [], "notices": []}
    file = tmp_path / "begun.html"
    file.write_text(document_page(run | {"shards": [], "samples": {}}), "utf-8")
    with visit("", of=file) as page:
        assert "The run has nothing to show yet." in page.text()
        page.press("s")
        page.wait_for("document.querySelector('.samples')")
        assert "This round has no samples yet." in page.text()


def test_a_hundred_thousand_samples_are_a_page_of_rows_at_a_time(visit: Visit, tmp_path: Path):
    run, num_shards, of_each = documents(), 100, 1000
    prompts = [[f"p{place}", f"What is {place} + 1?", str(place + 1)] for place in range(of_each // 10)]
    run["shards"] = [
        shard(1, number, prompts, [
            line(f"p{place // 10}", place % 10, index=place // 10, num_tokens=number + place % 97, strip="mmxde" * 3)
            for place in range(of_each)
        ])
        for number in range(num_shards)
    ]  # fmt: skip
    run["overview"]["shards"] = [
        {"round": 1, "shard": number, "num_samples": of_each, "waiting_for": []} for number in range(num_shards)
    ]
    file = tmp_path / "many.html"
    file.write_text(document_page(run), "utf-8")
    with visit("#/samples", of=file) as page:
        page.wait_for("document.querySelector('.count')?.innerText === '100,000 of 100,000 samples'")
        num_rows = "document.querySelectorAll('[data-row]').length"
        assert page.evaluate(num_rows) == 50
        page.evaluate("document.querySelector('#pick-text').value = '42 + 1'")
        page.evaluate("document.querySelector('#pick-text').dispatchEvent(new Event('input'))")
        page.wait_for("document.querySelector('.count').innerText === '1,000 of 100,000 samples'")
        page.press("n")
        page.wait_for("location.hash.endsWith('page=2')")
        assert "Page 2 of 20" in page.text() and page.evaluate(num_rows) == 50
        assert page.evaluate("document.querySelectorAll('*').length") < 5000
        assert page.ask("Runtime.getHeapUsage")["usedSize"] < 400e6
        longest = json.dumps("#/samples?sort=length")
        page.evaluate(f"location.hash = {longest}")
        page.wait_for(f"document.body.dataset.drawn === {longest}")
        assert page.evaluate("document.querySelector('td[data-name=Tokens]').innerText") == "195"
