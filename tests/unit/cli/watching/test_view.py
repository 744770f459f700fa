"""cli view: one page as a file, a server that ends quietly, and what is refused before either."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.watch.view.render import PageParts
from bcpg_cluster_cli.watching import view


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    template = "<title>{{ title }}</title>{{ csp }}{{ style }}{{ boot }}{{ data }}<script>{{ script }}</script>"
    monkeypatch.setattr(view, "page_parts", lambda: PageParts(template, "a", "b"))


@pytest.mark.parametrize(("target", "file"), [("out/run.html", "out/run.html"), ("folder", "folder/index.html")])
def test_a_bundle_is_one_file(bcpg: Callable[..., Any], finished_run: Any, target: str, file: str):
    ended = bcpg("view", "--run-dir", finished_run.directory, "--bundle", target, "--rounds", "2,1")
    assert ended.code == 0
    assert re.search(rf"written: {file} \(0\.\d MB, 192 of 192 samples\)", ended.out)
    assert Path(file).read_text().startswith("<title>fakes: bcpg-cluster</title>")
    assert [str(path) for path in Path().rglob("*.*")] == [file]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run-dir", "nothing"], "nothing is not a run"),
        (["--bundle", "a.html", "--rounds", "1;2"], "--rounds 1;2"),
        (["--bundle", "a.html", "--rounds", "7"], "no responses of round 7"),
        (["--rounds", "1"], "--rounds 1 without --bundle"),
        (["--bundle", "RUN/page.html"], "lies in the run directory"),
        (["--labels", "RUN/labels.jsonl"], "lies in the run directory"),
        (["--labels", "taken.jsonl"], "is not a line of hand labels"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
    ],
)
def test_what_cannot_be_is_refused(bcpg: Callable[..., Any], finished_run: Any, arguments: list[str], words: str):
    Path("taken.jsonl").write_text('{"score": 0.5, "label": 1}\n')
    named = [argument.replace("RUN", str(finished_run.directory)) for argument in arguments]
    run = [] if "--run-dir" in named else ["--run-dir", finished_run.directory]
    ended = bcpg("view", *run, *named)
    assert ended.code == 2
    assert words in ended.err
    assert [path.name for path in Path().iterdir()] == ["taken.jsonl"]


def test_a_run_without_responses_is_refused(bcpg: Callable[..., Any], finished_run: Any, tmp_path: Path):
    run = tmp_path / "young"
    run.mkdir()
    shutil.copy(finished_run.directory / "config.yaml", run)
    first = (finished_run.directory / "manifest.jsonl").read_text().splitlines(keepends=True)[0]
    (run / "manifest.jsonl").write_text(first)
    for more in ([], ["--bundle", "a.html"]):
        ended = bcpg("view", "--run-dir", run, *more)
        assert (ended.code, "nothing was sampled yet" in ended.err) == (2, True)


@contextmanager
def ended_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever fails, the process is not waited for without end."""
    try:
        yield
    finally:
        process.kill()


SERVED = """
import sys
from bcpg_cluster.watch.view.render import PageParts
from bcpg_cluster_cli import app
from bcpg_cluster_cli.watching import view
view.page_parts = lambda: PageParts("the page {{ title }}", "a", "b")
sys.argv = ["bcpg-cluster", "view", "--run-dir", sys.argv[1]]
app.main()
"""


@pytest.mark.parametrize(
    ("number", "at_start"),
    [(signal.SIGINT, signal.SIG_DFL), (signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)],
    ids=["Ctrl-C", "Ctrl-C in a shell's background", "SIGTERM"],
)
def test_the_printed_link_opens_and_a_signal_ends_it_quietly(finished_run: Any, number: int, at_start: Any):
    command = [sys.executable, "-c", SERVED, str(finished_run.directory)]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, at_start),  # as the shell that starts it does
        ) as process,
        ended_at_last(process),
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        select.select([process.stdout], [], [], 60)
        link = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", process.stdout.readline())
        assert link is not None
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert opener.open(link[0]).read() == b"the page fakes: bcpg-cluster"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link[0].partition("?")[0])
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        assert "ended" in process.stdout.read()
    assert list(Path().iterdir()) == []
