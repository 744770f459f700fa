"""The page in a browser with the real server of a real run (on fakes): the link lets in, samples load, labels are saved."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bcpg_cluster.watch.view.bundle import bundle
from bcpg_cluster.watch.view.render import page_parts, server_page
from bcpg_cluster.watch.view.server import Doorkeeper, listen, serve, view_app
from bcpg_cluster.watch.view.source import RunSource
from tests.browser import Browser, OpenPage

Visit = Callable[..., Any]


@contextmanager
def served(source: Any) -> Iterator[str]:
    """The link to a server of this source, in a thread of its own."""
    parts, door, loop = page_parts(), Doorkeeper("127.0.0.1"), asyncio.new_event_loop()
    app = view_app(source, server_page(parts, "run"), parts.policy(may_connect=True), door)
    with listen("127.0.0.1", 0) as listener:
        work = loop.create_task(serve(app, listener))
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([work])))
        thread.start()
        try:
            yield door.link(listener.getsockname()[1])
        finally:
            loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()


@contextmanager
def opened(browser: Browser, link: str, **options: Any) -> Iterator[OpenPage]:
    with browser.open_page(link, **options) as page:
        page.wait_for("document.body.dataset.drawn")
        yield page
        assert page.console_errors == []
        own = link.partition("?")[0]
        assert [request for request in page.requests if not request.startswith(own)] == []


def mined_samples(source: RunSource) -> list[tuple[int, str, int]]:
    shards = [source.shard(line.round, line.shard) for line in source.overview().shards]
    return [(of.round, sample.prompt_id, sample.sample) for of in shards for sample in of.samples if sample.num_mined]


def test_a_run_is_walked_through_and_a_label_is_saved(
    browser: Browser, finished_run: Any, open_source: Callable[..., RunSource], tmp_path: Path
):
    labels = tmp_path / "labels.jsonl"
    source = open_source(finished_run.directory, labels=labels)
    mined = mined_samples(source)
    with served(source) as link, opened(browser, link) as page:
        assert "token" not in page.evaluate("location.href")
        assert "Start here" in page.text()
        page.click("#top nav a[href='#/samples']")
        page.wait_for("document.querySelector('.count')?.innerText.endsWith(' samples')")  # all shards are here
        page.click("[data-filter=mined]")
        page.wait_for(f"document.querySelector('.count').innerText.startsWith('{len(mined)} of')")
        page.click("[data-row]")
        page.wait_for("document.querySelector('#step-0')")
        page.click("#step-0 [data-label=wrong]")
        page.wait_for("document.querySelector('#step-0 .by-hand')")
        assert "by hand: wrong" in page.text()
        page.wait_for(f"document.getElementById('bottom').innerText.includes({labels.name!r})")
        entry = json.loads(labels.read_text())
        assert entry["labels"][0] == 0
        assert (entry["round"], entry["prompt_id"], entry["sample"]) in mined
        page.click("#step-0 [data-label=clear]")
        page.wait_for("!document.querySelector('#step-0 .by-hand')")
        assert labels.read_text() == ""


def test_p_after_training_is_fetched_when_it_is_chosen(browser: Browser, finished_run: Any, open_source: Any):
    def score(state: Any, version: int, prompt: Any, response: Any) -> list[float]:
        return [math.log(0.25)] * len(response)

    source = open_source(finished_run.directory, score=score)
    round_, prompt, number = mined_samples(source)[0]
    tokens = source.sample(round_, prompt, number).tokens
    with served(source) as link, opened(browser, link) as page:
        page.evaluate(f"location.hash = '#/sample/{round_}/{quote(prompt)}/{number}'")
        page.wait_for("document.querySelector('[name=quantity][value=p_change]')")
        assert [request for request in page.requests if "after.json" in request] == []
        page.click("[name=quantity][value=p_change]")
        page.wait_for("document.querySelector('.heat .token')")
        page.click("[data-token='0']")
        assert f"p {tokens.p[0]:.3g}".rstrip("0") in page.text() and "p after training 0.25" in page.text()
        page.click("[name=quantity][value=p_after]")
        page.click("[data-token='1']")
        assert "Token 1" in page.text()
        assert len([request for request in page.requests if "after.json" in request]) == 1


def test_why_there_is_no_p_after_training_is_said(browser: Browser, finished_run: Any, open_source: Any):
    source = open_source(finished_run.directory)  # fakes have no weights
    round_, prompt, number = mined_samples(source)[0]
    with served(source) as link, browser.open_page(f"{link}#/sample/{round_}/{quote(prompt)}/{number}") as page:
        page.wait_for("document.querySelector('[name=quantity][value=p_after]')")
        page.click("[name=quantity][value=p_after]")
        page.wait_for("document.querySelector('.heat [role=alert]')")
        assert "cannot score" in page.evaluate("document.querySelector('.heat [role=alert]').innerText")
        page.click("[name=quantity][value=mass]")
        page.wait_for("document.querySelector('.heat .token')")


def test_what_the_server_refuses_is_said_in_its_words(
    browser: Browser, finished_run: Any, open_source: Any, tmp_path: Path
):
    with served(open_source(finished_run.directory)) as link, browser.open_page(f"{link}#/sample/1/nowhere/0") as page:
        page.wait_for("document.querySelector('[role=alert]')")
        box = page.evaluate("document.querySelector('[role=alert]').innerText")
    assert "nowhere" in box and "What to do:" in box


def test_a_server_that_is_gone_leaves_what_is_there_and_says_so(browser: Browser, finished_run: Any, open_source: Any):
    with browser.open_page("about:blank") as page:
        with served(open_source(finished_run.directory)) as link:
            page.goto(link)
            page.wait_for("document.querySelector('.start')")
        page.evaluate("location.hash = '#/samples'")
        page.wait_for("document.querySelector('[role=alert]')")
        assert "The server behind this page does not answer." in page.text()
        page.press("o")
        page.wait_for("document.querySelector('.start')")


class Growing:
    """A run that is running at its first look, and done with a new event after it."""

    def __init__(self, source: RunSource) -> None:
        self._source, self.num_looks = source, 0

    def overview(self) -> Any:
        self.num_looks += 1
        seen = self._source.overview()
        if self.num_looks == 1:
            return replace(seen, run=replace(seen.run, state="running"), events=())
        return replace(seen, events=(replace(seen.events[0], text="the last event"),))


def test_the_overview_keeps_up_with_a_run_that_is_running(browser: Browser, finished_run: Any, open_source: Any):
    growing = Growing(open_source(finished_run.directory))
    with served(growing) as link, opened(browser, link) as page:
        assert "running" in page.evaluate("document.getElementById('top').innerText")
        page.wait_for("document.body.innerText.includes('the last event')")
        assert "finished" in page.evaluate("document.getElementById('top').innerText")
        assert page.evaluate("document.querySelectorAll('h1').length") == 1


def test_a_run_as_a_bundle_opens_from_disk(visit: Visit, finished_run: Any, open_source: Any, tmp_path: Path):
    source = open_source(finished_run.directory)
    file = tmp_path / "bundle.html"
    file.write_text(bundle(source, page_parts()).page, "utf-8")
    round_, prompt, sample = mined_samples(source)[0]
    with visit(f"#/sample/{round_}/{prompt}/{sample}", of=file) as page:
        assert page.evaluate("document.querySelectorAll('.step').length") > 0
        assert page.evaluate("document.querySelectorAll('.token').length") > 0
